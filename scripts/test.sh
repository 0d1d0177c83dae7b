#!/usr/bin/env bash
# Installs what the tests need, builds once, and runs everything.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/tests.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/tests.sh"

case ${1:-} in
'') ;;
-h | --help)
    cat <<'TEXT'
Usage: ./scripts/test.sh

Formatting, lints, a build, and every test: of single packages, of whole clusters of processes and of
containers, and of Python clients. Needs a Docker engine: starts one when it is root and none answers. Some tests make
network namespaces, which only root may. Less than half an hour after the build. Longer runs: ./scripts/soak.sh

Environment:
  CARGO_TARGET_DIR  where things are built (default: ~/.cache/axolotl/target)
TEXT
    exit 0
    ;;
*) die "unknown argument: $1" ;;
esac

cd "$repository"
need_cargo
install_tools
need_engine
own_temporary_directory

step "cargo fmt --check"
cargo fmt --all --check
step "cargo clippy"
cargo clippy --release --workspace --all-targets --locked -- -D warnings
if have shellcheck; then
    step "shellcheck"
    shellcheck --external-sources scripts/*.sh scripts/lib/*.sh .ci/run
fi
step "cargo build"
cargo build --release --workspace --all-targets --locked
step "images"
AXOLOTL_BIN=$(binaries) "$repository/scripts/build-images.sh" --tag test
step "cargo test"
# Tests with containers mostly wait: they run beside the others, and what they say is shown after them. Their
# programs begin with "docker", and no other begins with "d".
tests=(cargo test --release --workspace --locked --no-fail-fast)
"${tests[@]}" --test 'docker*' >"$TMPDIR/containers.log" 2>&1 &
containers=$!
code=0
"${tests[@]}" --lib --bins --test '[!d]*' || code=$?
wait "$containers" || code=$?
cat "$TMPDIR/containers.log"
((code == 0)) || exit "$code"
done_all
