#!/usr/bin/env bash
# The figures of docs/benchmarks.md, each with the command that it comes from.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/figures.sh [load|memory|state-root]

Measures what docs/benchmarks.md shows, on a new chain of four local validators that is removed
afterwards, and prints each command with its result. Without an argument: load and state-root.

  load        latency, CPU and memory at 0, 10, 1000 and 2000 transfers per second; 4 minutes
  memory      memory of every process under steady load; an hour. Writes the samples to
              memory.csv in the target directory, and the plot to docs/memory-500.svg
  state-root  cost of state roots over large contracts; 20 minutes

Environment:
  FIGURES_RATE      transfers per second of `memory` (default: 500)
  FIGURES_DURATION  seconds of `memory` (default: 3600)
  REGISTRY_PORT     port of the registry (default: 9090)
  AXOLOTL_BIN       directory with programs built elsewhere (default: build them here)
  CARGO_TARGET_DIR  where they are built (default: ~/.cache/axolotl/target)
TEXT
}

rate=${FIGURES_RATE:-500}
duration=${FIGURES_DURATION:-3600}
# How long the bench may sign beforehand: 1,500 transfers a second, and starting and draining.
signing_s=$((120 + rate * duration / 1500))

# Prints a command and runs it.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

stop_chain() {
    trap - EXIT
    [[ -z ${sampler:-} ]] || kill "$sampler" 2>/dev/null || true
    "$repository/scripts/stop-auto-scaling.sh" --wipe >/dev/null || true
    rm -rf -- "$scratch"
}

start_chain() {
    scratch=$(mktemp -d)
    export AXOLOTL_HOME=$scratch/chain
    trap stop_chain EXIT
    "$repository/scripts/start-auto-scaling.sh" --local >/dev/null
    bin=$(binaries)
}

load() {
    start_chain
    show "$bin/axolotl" bench --registry "$registry_url" --rate 0 --duration 60s
    show "$bin/axolotl" bench --registry "$registry_url" --rate 10 --duration 60s
    show "$bin/axolotl" bench --registry "$registry_url" --rate 1000 --duration 30s
    show "$bin/axolotl" bench --registry "$registry_url" --rate 2000 --duration 15s
    stop_chain
}

memory() {
    have python3 || die "python3 is missing; on Debian or Ubuntu: apt-get install python3"
    start_chain
    mkdir -p -- "$CARGO_TARGET_DIR"
    local samples=$CARGO_TARGET_DIR/memory.csv plot=$repository/docs/memory-$rate.svg rpc
    rpc=$(curl --noproxy '*' -sSf "$registry_url/status" | grep -o '"rpc_url":"[^"]*"' | cut -d'"' -f4 | sort | head -n 1)
    printf '\n$ %s\n' "python3 scripts/lib/memory.py sample $AXOLOTL_HOME $rpc $samples $((duration + signing_s)) &"
    python3 "$repository/scripts/lib/memory.py" sample "$AXOLOTL_HOME" "$rpc" "$samples" $((duration + signing_s)) &
    sampler=$!
    show "$bin/axolotl" bench --registry "$registry_url" --rate "$rate" --duration "${duration}s" || failed=1
    show python3 "$repository/scripts/lib/memory.py" plot "$samples" "$plot" \
        "Resident memory, $rate transfers per second"
    stop_chain
    [[ -z ${failed:-} ]] || die "the bench failed, see above"
}

state_root() {
    need_cargo
    cd "$repository"
    show cargo bench -p axolotl-ledger --bench state_root
}

case ${1:-} in
-h | --help)
    usage
    exit 0
    ;;
'' | load | memory | state-root) ;;
*)
    warn "unknown argument: $1"
    usage >&2
    exit 2
    ;;
esac

say "commit $(git -C "$repository" rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%Y-%m-%d)," \
    "$(nproc) cores, $(uname -sr)"
case ${1:-} in
load) load ;;
memory) memory ;;
state-root) state_root ;;
*)
    load
    state_root
    ;;
esac
