#!/usr/bin/env bash
# Starts an Axolotl chain on this machine, and waits until it takes transactions.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/home.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/home.sh"
# shellcheck source=scripts/lib/docker.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/docker.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/start-auto-scaling.sh [--local|--docker] [--nodes N]

  --local     nodes are processes of this machine
  --docker    nodes are containers of the Docker engine on this machine
  --nodes N   validators of a new chain: 1 to 10 (in Docker 1 to 4), default 4

Without --local or --docker: Docker when an engine answers, unless AXOLOTL_HOME is set or a chain of
local processes is kept.

Environment:
  AXOLOTL_HOME      everything a local chain keeps (default: .axolotl in the repository)
  REGISTRY_PORT     port of the registry (default 9090)
  AXOLOTL_BIN       directory with programs built elsewhere (default: build them here)
  CARGO_TARGET_DIR  where they are built (default: ~/.cache/axolotl/target)
Any other variable of the registry (see `axolotl-registry serve --help`) is passed on; in Docker those
that docker-compose.registry.yml names. With --local this script sets PORT, GENESIS_NODES (--nodes), RUNTIME,
DATA_DIR and NODES_DIR itself.

A second start of a running system changes nothing. Starts and stops of one AXOLOTL_HOME, however it is
spelled, follow each other.
Stop with ./scripts/stop-auto-scaling.sh.
TEXT
}

start_timeout_s=60
nodes=
mode=
# What older starts of the registry wrote into its log.
log_bytes=0

while (($#)); do
    case $1 in
    --local) mode=local ;;
    --docker) mode=docker ;;
    --nodes)
        [[ ${2:-} =~ ^([1-9]|10)$ ]] || die "--nodes: expected a number from 1 to 10, got '${2:-}'"
        nodes=$2
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        warn "unknown argument: $1"
        usage >&2
        exit 2
        ;;
    esac
    shift
done

have curl || die "curl is missing; on Debian or Ubuntu: apt-get install curl"

status_line() {
    local status=$1 healthy total forming
    healthy=$(json_field healthy_nodes <<<"$status")
    total=$(json_field total_nodes <<<"$status")
    forming=$(json_field forming <<<"$status")
    if [[ -n $forming && $forming != null ]]; then
        say "$healthy of $total nodes healthy; $forming"
    else
        say "$healthy of $total nodes healthy"
    fi
}

# What the registry warns of.
say_warnings() {
    local warning
    warning=$(grep -o '"warnings":\["[^"]*' <<<"$1" | cut -d'"' -f4) || return 0
    warn "the registry warns: $warning"
}

# JSON-RPC addresses of the nodes, as this machine reaches them.
rpc_urls() {
    local urls
    urls=$(grep -o '"public_rpc_url":"[^"]*"' <<<"$1" | cut -d'"' -f4 | sort -V)
    [[ -n $urls ]] || urls=$(grep -o '"rpc_url":"[^"]*"' <<<"$1" | cut -d'"' -f4 | sort -V)
    say "$urls"
}

rpc_answers() {
    curl --noproxy '*' -sSf --max-time 5 -H 'content-type: application/json' \
        -d '{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}' "$1" 2>/dev/null |
        grep '"result":"0x' >/dev/null
}

# Whether a transaction could be accepted: as many healthy nodes as wanted, and JSON-RPC answers.
is_ready() {
    local status=$1 healthy target url
    healthy=$(json_field healthy_nodes <<<"$status")
    target=$(json_field target_nodes <<<"$status")
    [[ -n $healthy && $healthy -ge ${target:-$nodes} ]] || return 1
    [[ $(json_field consensus_possible <<<"$status") == true ]] || return 1
    for url in $(rpc_urls "$status"); do
        rpc_answers "$url" && return 0
    done
    return 1
}

# Those JSON-RPC addresses that answer: nodes that were replaced are still listed.
answering_urls() {
    local url
    rpc_urls "$1" | while read -r url; do
        if rpc_answers "$url"; then say "$url"; fi
    done
}

summary_head() {
    local status=$1 urls
    urls=$(answering_urls "$status")
    say ""
    say "  Dashboard   $registry_url/   (the API: $registry_url/openapi.json)"
    say "  JSON-RPC    ${urls//$'\n'/$'\n'              }"
    say "  Chain id    $(json_field chain_id <<<"$status")"
    say "  Accounts    ten prefunded accounts of the mnemonic \"test test test test test test test"
    say "              test test test test junk\". Everybody knows their keys: never use this"
    say "              chain for anything of value."
}

summary_foot() {
    if ((nodes < 4)); then
        say ""
        say "Note: with $nodes validators every failure stops the chain until the node is back;"
        say "four is the smallest number that goes on without one."
    fi
}

summary() {
    summary_head "$1"
    say "  Data, logs  $home"
    say ""
    say "Try next:"
    say "  $bin/axolotl status"
    say "  $bin/axolotl bench --rate 100 --duration 10s"
    say "  curl -s $registry_url/status | jq .healthy_nodes"
    say "  tail -f $registry_log"
    say "  $stop_command"
    summary_foot
}

# Waits until the system is ready; the registry's process is $1.
wait_until_ready() {
    local pid=$1 status='' last='' line deadline=$((SECONDS + start_timeout_s))
    while ((SECONDS < deadline)); do
        if ! is_our_registry "$pid"; then
            warn "the registry ended. The end of $registry_log:"
            tail -c "+$((log_bytes + 1))" "$registry_log" | tail -n 15 >&2 || true
            # No chain was begun: the next start may choose another number.
            [[ -e $registry_data/store ]] || rm -f -- "$home/validators"
            exit 1
        fi
        if status=$(registry_get /status); then
            if is_ready "$status"; then
                return 0
            fi
            line=$(status_line "$status")
            [[ $line == "$last" ]] || say "  $line"
            last=$line
        fi
        sleep 0.2
    done
    say_warnings "$status"
    die "not ready after $start_timeout_s s: ${last:-the registry does not answer}." \
        "It goes on trying. Look at $registry_log and at the nodes' logs under $home," \
        "run this script again to go on waiting, or stop with $stop_command"
}

interrupted() {
    warn ""
    warn "Interrupted. What was started goes on: run this script again to go on waiting,"
    warn "or stop it with $stop_command"
    exit 130
}

lock_home start

if [[ -z $mode ]]; then
    if [[ -e $home_mark || -n ${AXOLOTL_HOME:-} ]]; then
        mode=local
    elif docker_answers; then
        mode=docker
        say "A Docker engine answers: nodes become containers (--local for processes)."
    else
        mode=local
    fi
fi
if [[ $mode == docker ]]; then
    trap interrupted INT TERM
    docker_start "$nodes"
    exit 0
fi

need_readable_home
# The number of validators is part of a chain: fixed when it is made.
chain_nodes=$(cat "$home/validators" 2>/dev/null || true)
if [[ -n $chain_nodes && -n $nodes && $nodes != "$chain_nodes" ]]; then
    die "the chain in $home was made with $chain_nodes validators, not $nodes." \
        "Leave --nodes out, or begin anew: $stop_command --wipe"
fi
nodes=${chain_nodes:-${nodes:-4}}

if pid=$(registry_pid); then
    [[ -n ${AXOLOTL_BIN:-} ]] || need_cargo
    bin=$(binaries)
    trap interrupted INT TERM
    # The port that it was started with, whatever REGISTRY_PORT says now.
    registry_port=$(port_of "$pid")
    registry_url=http://127.0.0.1:$registry_port
    wait_until_ready "$pid"
    [[ -e $registry_data/store ]] ||
        die "process $pid is the registry of $home, but its data was removed there: keys and blocks are lost" \
            "when it ends. Copy what is needed through JSON-RPC, then begin anew: $stop_command --wipe"
    status=$(registry_get /status)
    say "Already running, nothing was changed: $(status_line "$status")."
    summary "$status"
    exit 0
fi

users=$(hidden_uses)
[[ -z $users ]] || die_listing "$users" "$home is in use:" \
    "Stop that where it was started, or choose another AXOLOTL_HOME."

if registry_get /status >/dev/null || (exec 3<>"/dev/tcp/127.0.0.1/$registry_port") 2>/dev/null; then
    ! registry_container_runs ||
        die "a chain of containers runs already. Stop it first: ./scripts/stop-auto-scaling.sh --docker"
    die_listing "$(registries_at "$registry_port")" \
        "port $registry_port is in use by something that is not the registry of $home." \
        "Stop that, or choose another port: REGISTRY_PORT=9190 $0"
fi

if [[ -z ${AXOLOTL_BIN:-} ]]; then
    need_cargo
    bin=$(binaries)
    [[ -x $bin/axolotl && -x $bin/axolotl-registry ]] ||
        say "Building (the first time takes 10 to 20 minutes on two cores) …"
    (cd "$repository" && cargo build --release --workspace --bins --locked)
else
    bin=$AXOLOTL_BIN
fi
for program in axolotl axolotl-registry; do
    [[ -x $bin/$program ]] || die "$bin/$program is missing; check AXOLOTL_BIN"
done

log_bytes=$({ cat "$registry_log" 2>/dev/null || true; } | wc -c)
living=$(node_pids | wc -l)
say "$nodes" >"$home/validators"
: >"$home_mark"
if ((living > 0)); then
    say "Starting the registry; $living nodes are running already and go on …"
elif [[ -n $chain_nodes ]]; then
    say "Starting the chain in $home …"
else
    say "Starting a new chain of $nodes validators in $home …"
fi
# A session of its own: an interrupt at this terminal does not reach it.
PORT=$registry_port RUNTIME=process DATA_DIR=$registry_data NODES_DIR=$home/nodes GENESIS_NODES=$nodes \
    MIN_NODES=${MIN_NODES:-$((nodes < 2 ? nodes : 2))} \
    setsid "$bin/axolotl-registry" serve </dev/null >>"$registry_log" 2>&1 9>&- &
pid=$!
disown "$pid"
write_pid_file "$pid"
trap interrupted INT TERM
# Between fork and exec the process is still a shell.
for _ in {1..50}; do
    is_our_registry "$pid" && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
done
wait_until_ready "$pid"
status=$(registry_get /status)
say "Ready after $SECONDS s: $(status_line "$status")."
summary "$status"
