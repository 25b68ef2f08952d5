#!/bin/sh
# Every gate a change must pass, one named line each; stops at the first that
# fails. A tool that is not installed is named and its gate left out, unless
# ECHOD_TESTS_NO_SKIP is set. RUSTFLAGS stays unset: it would override
# .cargo/config.toml and make the binaries dynamic.
set -eu

tests=yes
case "$#:${1-}" in
0:) ;;
1:--no-tests) tests=no ;;
*) echo "usage: scripts/check.sh [--no-tests]" >&2; exit 64 ;;
esac
if [ "${RUSTFLAGS+set}" ]; then
    echo "check.sh: RUSTFLAGS is set, which overrides .cargo/config.toml: unset it" >&2
    exit 78
fi
cd "$(dirname "$0")/.."

gate() {
    echo "gate: $*"
    "$@" || { echo "check.sh: FAILED: $*" >&2; exit 1; }
}

# gate_with TOOL COMMAND...: a gate that needs a tool beyond Rust's.
gate_with() {
    tool=$1
    shift
    if command -v "$tool" >/dev/null; then
        gate "$@"
    elif [ "${ECHOD_TESTS_NO_SKIP-}" ]; then
        echo "check.sh: FAILED: $tool is not installed: $*" >&2
        exit 1
    else
        echo "skipped: $tool is not installed: $*"
    fi
}

gate cargo fmt --check
gate cargo clippy --all-targets --quiet -- -D warnings
gate env RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --quiet
# Another C library and another processor: what is a number of another width there.
for target in x86_64-unknown-linux-musl aarch64-unknown-linux-gnu; do
    if [ -d "$(rustc --print target-libdir --target "$target")" ]; then
        gate cargo check --all-targets --quiet --target "$target"
    else
        echo "skipped: Rust's library for $target is not installed"
    fi
done
[ "$tests" = no ] || gate cargo test
for page in man/*.[1-9]; do
    [ -e "$page" ] || { echo "skipped: no man pages"; continue; }
    gate_with mandoc mandoc -Tlint -Wwarning "$page"
done
# groff reads some macros otherwise, and is what man(1) uses most places.
groff_is_quiet() {
    said=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null)
    [ -z "$said" ] || { echo "$said" >&2; return 1; }
}
for page in man/*.[1-9]; do
    gate_with groff groff_is_quiet "$page"
done
gate_with jq scripts/dist/copyright.sh --check
gate_with systemd-analyze scripts/unit-score.sh --gate
gate_with shellcheck shellcheck scripts/*.sh scripts/*/*.sh .ci/run
echo "check.sh: all gates passed"
