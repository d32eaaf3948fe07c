#!/usr/bin/env bash
# Runs the tests of tokenmeter.
#
#   tests/run.sh [unit|integration|load|clients|lint|all] [--soak]
#
#   lint         format, clippy, dependency policy, contracts, scripts, Dockerfile
#   unit         tests inside the crates
#   integration  tests against the built binary and against files, with ledgers in SQLite; then those
#                of the binary again with ledgers in PostgreSQL
#   load         tests of the released binary under a load of a million events
#   clients      the client library for Rust, with its example and with TLS; this version has no others
#   all          all of these, the default
#   --soak       ten times as many rounds where a test has rounds
#
# Everything that the tests need is installed by tests/tools.sh; what cannot be had is a failure, not a
# skip. A stage ends at its first failing step, the other stages still run, and the last line is
# `N passed, N failed`. The exit status is 0 only if every stage passed.
#
#   TOKENMETER_TOOLS        where tools are installed (~/.cache/tokenmeter-tools)
#   TOKENMETER_PROFILE      dev (default: it builds in a fraction of the time) or release
#   TOKENMETER_SHARED_DATA  where recorded data is (../shared/data beside the checkout)
#   TOKENMETER_TEST_POSTGRES  a PostgreSQL that runs already, by the URL of a superuser; without it
#                           tests start private ones in temporary folders, and stop them
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
exec </dev/null

usage() {
    sed -n '1d; /^set /q; s/^# \{0,1\}//; p' "$root/tests/run.sh" >&2
    exit 2
}

stages=()
rounds=1
for word in "$@"; do
    case $word in
    lint | unit | integration | load | clients) stages+=("$word") ;;
    all) stages=(lint unit integration load clients) ;;
    --soak) rounds=10 ;;
    *) usage ;;
    esac
done
[[ ${#stages[@]} -gt 0 ]] || stages=(lint unit integration load clients)

export TOKENMETER_TOOLS=${TOKENMETER_TOOLS:-$HOME/.cache/tokenmeter-tools}
export PATH=$TOKENMETER_TOOLS/bin:$PATH
export TOKENMETER_PROFILE=${TOKENMETER_PROFILE:-dev}
export TOKENMETER_SHARED_DATA=${TOKENMETER_SHARED_DATA:-$root/../shared/data}
# Tests multiply their rounds by this.
export TOKENMETER_ROUNDS=$rounds

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step() {
    echo "--- $*"
    "$@"
}

# cargo test, whose results count towards the last line.
tests() {
    step cargo test --locked --profile "$TOKENMETER_PROFILE" --workspace --no-fail-fast "$@" |
        tee -a "$scratch/results"
}

lint() {
    tests/tools.sh lint
    step cargo fmt --all --check
    step cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    # Advisories are left out: they need a database from the network and change without the code
    # changing. `cargo deny check advisories` asks for them.
    step cargo deny --locked --log-level error check bans licenses sources
    step proto/check.sh
    step shellcheck .ci/run proto/check.sh tests/*.sh
    step hadolint Dockerfile
    long_files
}

# Nobody finds their way in a file of more than 1,000 lines. A contract has one file per service, so
# that protos are not counted.
long_files() {
    echo "--- no file of more than 1,000 lines"
    git ls-files -z --cached --others --exclude-standard -- '*.rs' '*.sql' '*.lua' '*.sh' |
        xargs -0 awk 'FNR == 1001 { print FILENAME " has more than 1,000 lines"; found = 1 } END { exit found }'
}

unit() {
    tests/tools.sh unit
    tests --lib --bins
}

integration() {
    tests/tools.sh integration
    [[ -d $TOKENMETER_SHARED_DATA ]] ||
        echo "no recorded data at $TOKENMETER_SHARED_DATA: the tests that read it will say so and pass"
    # The binary with planted faults, set aside before the real one takes its place.
    step cargo build --locked --profile "$TOKENMETER_PROFILE" --package tokenmeter --bins \
        --features planted-faults
    local built=$TOKENMETER_PROFILE
    [[ $built != dev ]] || built=debug
    export TOKENMETER_PLANTED_BIN=$scratch/tokenmeter-planted
    cp "${CARGO_TARGET_DIR:-target}/$built/tokenmeter" "$TOKENMETER_PLANTED_BIN"
    # Built once, before any test starts, so that no test waits for a build.
    step cargo build --locked --profile "$TOKENMETER_PROFILE" --workspace --bins
    step cargo build --locked --profile "$TOKENMETER_PROFILE" --workspace --examples
    echo "--- with ledgers in SQLite; tests of a backend alone run on both"
    export TOKENMETER_TEST_LEDGER=sqlite
    tests --test '*'
    echo "--- with ledgers in PostgreSQL: the tests of the binary and of the client again"
    export TOKENMETER_TEST_LEDGER=postgres
    tests --test e2e --test it
    # Every invariant's test has to turn red against a fault that is planted for it. What is red is
    # not made smaller first: that costs minutes.
    PROPTEST_MAX_SHRINK_ITERS=0 step cargo test --locked --profile "$TOKENMETER_PROFILE" \
        --package tokenmeter-store \
        --features planted-faults --test faults -- --nocapture | tee -a "$scratch/results"
}

load() {
    tests/tools.sh load
    step cargo build --locked --release --package tokenmeter --bins
    TOKENMETER_BIN=${CARGO_TARGET_DIR:-target}/release/tokenmeter
    TOKENMETER_BIN=$(realpath "$TOKENMETER_BIN")
    export TOKENMETER_BIN
    # With what it measured on the output.
    step cargo test --locked --profile "$TOKENMETER_PROFILE" --package tokenmeter-tests \
        --features load --test load -- --nocapture | tee -a "$scratch/results"
    TOKENMETER_TEST_LEDGER=postgres step cargo test --locked --profile "$TOKENMETER_PROFILE" \
        --package tokenmeter-tests --features load --test load -- --nocapture reconcile |
        tee -a "$scratch/results"
}

clients() {
    tests/tools.sh clients
    step cargo build --locked --profile "$TOKENMETER_PROFILE" --workspace --bins
    step cargo build --locked --profile "$TOKENMETER_PROFILE" --workspace --examples
    # Unit, doc and integration tests, one of which runs the example; then all of them again with TLS,
    # the feature that is off by default.
    local features
    for features in "" tls; do
        step cargo test --locked --profile "$TOKENMETER_PROFILE" --package tokenmeter-client \
            --features "$features" | tee -a "$scratch/results"
    done
    step cargo clippy --locked --package tokenmeter-client --all-features --all-targets -- -D warnings
    echo "clients for Python, TypeScript and Go come in a later version"
}

failed=0
summary=()
for stage in "${stages[@]}"; do
    echo "=== $stage"
    began=$SECONDS
    # Not `if ( … )`: bash ignores errors inside a condition.
    set +e
    (
        set -e
        case $stage in
        lint) lint ;;
        unit) unit ;;
        integration) integration ;;
        load) load ;;
        clients) clients ;;
        esac
    )
    status=$?
    set -e
    result=passed
    if [[ $status != 0 ]]; then
        result="FAILED (status $status)"
        failed=1
    fi
    summary+=("$(printf '%-12s %s in %d s' "$stage" "$result" $((SECONDS - began)))")
    echo "=== ${summary[-1]}"
done

echo
printf '%s\n' "${summary[@]}"
touch "$scratch/results"
awk '/^test result: / {
         for (i = 2; i <= NF; i++) {
             if ($i ~ /^passed/) passed += $(i - 1)
             if ($i ~ /^failed/) failed += $(i - 1)
         }
     }
     END { printf "%d passed, %d failed\n", passed, failed }' "$scratch/results"
exit "$failed"
