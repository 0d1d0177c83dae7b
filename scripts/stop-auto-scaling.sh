#!/usr/bin/env bash
# Stops what ./scripts/start-auto-scaling.sh started.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/docker.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/docker.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/stop-auto-scaling.sh [--local|--docker] [--wipe]

Stops local processes and containers alike; containers are removed.

  --local   only processes (so too when AXOLOTL_HOME names a chain of processes)
  --docker  only containers
  --wipe    remove the chain too: keys, blocks, logs, tokens, volumes

Environment: AXOLOTL_HOME, REGISTRY_PORT as for ./scripts/start-auto-scaling.sh
TEXT
}

# A node takes 8 s at most to stop.
stop_timeout_s=20
wipe=no
mode=
while (($#)); do
    case $1 in
    --local) mode=local ;;
    --docker) mode=docker ;;
    --wipe) wipe=yes ;;
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

# Waits until `$@` prints nothing.
wait_until_gone() {
    local deadline=$((SECONDS + stop_timeout_s))
    while [[ -n $("$@") ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

signal_nodes() {
    local pid
    node_pids | while read -r pid; do kill "-$1" "$pid" 2>/dev/null || true; done
}

our_registry() { registry_pid || true; }

[[ -n $mode || -z ${AXOLOTL_HOME:-} ]] || mode=local

did=no
if [[ $mode != local ]] && docker_has_something "$wipe"; then
    did=yes
    docker_stop "$wipe"
fi
if [[ $mode != docker ]] && pid=$(registry_pid); then
    did=yes
    say "Stopping the nodes …"
    # The port is the registry's own, whatever REGISTRY_PORT says now.
    port=$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^PORT=//p' | sed -n 1p)
    registry_url=http://127.0.0.1:${port:-$registry_port}
    token=$(cat "$registry_data/admin_token" 2>/dev/null || true)
    # The token goes through a file descriptor: arguments are visible to other users.
    if ! curl --noproxy '*' -sSf --max-time 10 -X POST -H 'content-type: application/json' \
        -H @<(printf 'Authorization: Bearer %s\n' "$token") -d '{}' \
        "$registry_url/shutdown" >/dev/null; then
        warn "the registry refused to shut its nodes down; they are stopped directly"
    elif ! wait_until_gone node_pids; then
        warn "some nodes did not stop in $stop_timeout_s s; they are stopped directly"
    fi
    # The registry first: it would start again what is stopped behind its back.
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_until_gone our_registry; then
        warn "the registry did not stop in $stop_timeout_s s; it is killed"
        kill -KILL "$pid" 2>/dev/null || true
        wait_until_gone our_registry || true
    fi
fi

if [[ $mode != docker && -n $(node_pids) ]]; then
    did=yes
    signal_nodes TERM
    if ! wait_until_gone node_pids; then
        warn "some nodes did not stop in $stop_timeout_s s; they are killed"
        signal_nodes KILL
        wait_until_gone node_pids || true
    fi
    # A node that ends in order says so in its directory, and a registry would leave it alone for
    # ever: this was no wish that the node stays away from the next start.
    rm -f -- "$home"/nodes/*/data/stopped
fi
if [[ $mode != docker ]]; then
    rm -f "$registry_pid_file"
    left=$(our_registry)$(node_pids)
    [[ -z $left ]] || die "these processes do not end: $left"
fi

if [[ $did == yes ]]; then
    say "Stopped; no process and no container is left."
else
    say "Nothing was running."
fi

if [[ $wipe == yes && $mode != docker ]]; then
    # A start with containers leaves nothing here but its lock.
    if [[ -e $home_mark || $(ls -A "$home" 2>/dev/null) == start.lock ]]; then
        rm -rf -- "${home:?}"
        say "Removed $home."
    elif [[ -e $home ]]; then
        die "$home was not made by the start script; it is left alone"
    fi
elif [[ $wipe == no && $mode != local ]] && docker_has_something yes; then
    say "The chain is kept in volumes named axolotl_…; start it again, or remove it with --wipe."
elif [[ $wipe == no && -e $home_mark ]]; then
    say "The chain is kept in $home; start it again, or remove it with --wipe."
fi
