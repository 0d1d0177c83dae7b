#!/usr/bin/env bash
# The long runs: full counts of every scenario. Takes hours; results belong into docs/reliability.md.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/tests.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/tests.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/soak.sh [FILTER]

Runs the simulator over many seeds and every cluster scenario with its full counts, with output.
With FILTER only tests whose name contains it.

Environment:
  AXOLOTL_SIM_SEEDS seeds of each test of the simulator (default: 20000)
  CARGO_TARGET_DIR  where things are built (default: ~/.cache/axolotl/target)
TEXT
}

case ${1:-} in
-h | --help)
    usage
    exit 0
    ;;
-*)
    warn "unknown argument: $1"
    usage >&2
    exit 2
    ;;
esac

cd "$repository"
need_cargo
install_tools
need_engine
own_temporary_directory
export AXOLOTL_SOAK=1
export AXOLOTL_SIM_SEEDS=${AXOLOTL_SIM_SEEDS:-20000}

say "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%Y-%m-%d)," \
    "$(nproc) cores, $(uname -sr)"
step "cargo build"
cargo build --release --workspace --all-targets --locked
step "images"
AXOLOTL_BIN=$(binaries) "$repository/scripts/build-images.sh" --tag test
step "cargo test"
cargo test --release --workspace --locked --no-fail-fast --tests -- --nocapture ${1:+"$1"}
step "lost quorums of processes, four times more"
for _ in 2 3 4 5; do
    env -u AXOLOTL_SOAK cargo test --release --workspace --locked --no-fail-fast --test quorum_loss \
        --test lost_volumes --test partitions --test recovery_operator -- --nocapture ${1:+"$1"}
done
done_all
