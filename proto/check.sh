#!/bin/sh
# Lints the contracts and checks that nothing which clients rely on was broken. Needs buf in PATH.
#
#   proto/check.sh           lint, and compare with the committed image
#   proto/check.sh --image   write the image anew: every RPC that docs/api.md calls implemented,
#                            with all that it reaches. Run it in the change that implements an RPC.
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

buf lint
if [ -f "$image" ]; then
    buf breaking --against "$image"
fi

if [ "${1:-}" = --image ]; then
    set --
    for rpc in $(implemented); do
        set -- "$@" --type "$rpc"
    done
    if [ $# -eq 0 ]; then
        echo "docs/api.md calls no RPC implemented: no image to write" >&2
        exit 1
    fi
    mkdir -p image
    buf build --exclude-source-info "$@" --output "$image"
fi
