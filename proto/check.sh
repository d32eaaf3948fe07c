#!/bin/sh
# Lints the contracts and checks that nothing which clients rely on was broken. Needs buf in PATH.
#
#   proto/check.sh           lint, compare with the committed image, and see that the image is of today
#   proto/check.sh --image   write the image anew: every RPC that docs/api.md calls implemented,
#                            with all that it reaches. Run it in the change that implements an RPC,
#                            and in any that adds to what an implemented one reaches.
#
# The image never loses anything by --image: it is compared with the old one first.
set -eu

cd "$(dirname "$0")"
image=image/tokenmeter.v1.binpb

implemented() {
    # "## Service" opens a table; "| `Rpc` … | implemented |" is a row of it.
    awk '/^## / { service = $2 }
         /^\| `/ && /\| implemented \|$/ { split($0, part, "`"); print "tokenmeter.v1." service "." part[2] }' \
        ../docs/api.md
}

# The image as it would be written today.
build() {
    output=$1
    set --
    for rpc in $(implemented); do
        set -- "$@" --type "$rpc"
    done
    if [ $# -eq 0 ]; then
        echo "docs/api.md calls no RPC implemented: no image to write" >&2
        exit 1
    fi
    buf build --exclude-source-info "$@" --output "$output"
}

buf lint
if [ -f "$image" ]; then
    buf breaking --against "$image"
fi

if [ "${1:-}" = --image ]; then
    mkdir -p image
    build "$image"
    exit
fi

today=$(mktemp -d)
trap 'rm -rf "$today"' EXIT
build "$today/image.binpb"
if ! cmp -s "$today/image.binpb" "$image"; then
    echo "proto/$image is absent or out of date: run proto/check.sh --image and commit what it writes" >&2
    exit 1
fi
