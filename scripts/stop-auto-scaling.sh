#!/usr/bin/env bash
# Stops what ./scripts/start-auto-scaling.sh started.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/home.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/home.sh"
# shellcheck source=scripts/lib/docker.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/docker.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/stop-auto-scaling.sh [--local|--docker] [--wipe]

Stops local processes and containers alike; containers are removed.

  --local   only processes (so too when AXOLOTL_HOME names a chain of processes)
  --docker  only containers
  --wipe    remove the chain too: keys, blocks, logs, tokens, volumes; refused while anything uses them

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

# Stops the processes of this home; sets `did` when there were any.
local_stop() {
    local pids nodes token users
    need_readable_home
    pids=$(registry_pids)
    if [[ -n $pids ]]; then
        say "Stopping the nodes …"
        # The port is the registry's own, whatever REGISTRY_PORT says now.
        registry_url=http://127.0.0.1:$(port_of "${pids%%$'\n'*}")
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
        end_all registry
    fi
    nodes=$(node_pids)
    [[ -z $pids$nodes ]] || did=yes
    if [[ -n $nodes ]]; then
        end_all node
        # A node that ends in order says so in its directory, and a registry would leave it alone for
        # ever: this was no wish that the node stays away from the next start.
        rm -f -- "$home"/nodes/*/data/stopped
    fi
    users=$(uses)
    [[ -z $users ]] || die_listing "$users" "$home is still in use; nothing was removed:" \
        "Stop that where it was started (or as its user), then run this again."
    rm -f -- "$registry_pid_file"
}

# Ends the processes of kind $1 of this home: in order, or else with -9.
end_all() {
    signal_all "$1" TERM
    if ! wait_until_gone pids_of_home "$1"; then
        warn "some processes ($1) did not stop in $stop_timeout_s s; they are killed"
        signal_all "$1" KILL
        wait_until_gone pids_of_home "$1" || true
    fi
}

signal_all() {
    local pid
    pids_of_home "$1" | while read -r pid; do kill "-$2" "$pid" 2>/dev/null || true; done
}

# Says what of Axolotl was seen elsewhere, one a line.
elsewhere() {
    local pid dir name
    if [[ $mode != docker ]]; then
        all_of_kind registry | while read -r pid dir; do
            # Those of containers are listed with their network.
            [[ ! /proc/$pid/root -ef / ]] ||
                say "process $pid: a registry at port $(port_of "$pid") with its data in $dir"
        done
    fi
    if [[ $looks_at_docker == yes ]]; then
        other_networks | while read -r name; do say "containers of the network $name (DOCKER_NETWORK=$name)"; done
    fi
}

# Says that nothing was running, and what that was said of. Ends with a failure when the registry that was
# probably meant is alive.
nothing_was_running() {
    local where=() seen
    [[ $mode == docker ]] || where+=("no process of $home")
    if [[ $mode != local ]]; then registry_url=http://127.0.0.1:$(setting REGISTRY_PORT 9090); fi
    [[ $looks_at_docker == no ]] || where+=("no container of the network $network")
    seen=$(elsewhere)
    if registry_get /status | grep '"healthy_nodes"' >/dev/null; then
        if [[ -z $mode ]]; then
            die_listing "$seen" "a registry answers at $registry_url, but there is ${where[0]}${where[1]:+ and ${where[1]}}." \
                ${docker_silent:+"Containers were not looked at: $docker_silent"} \
                "Name what is to be stopped: AXOLOTL_HOME=<the directory above its data>, or DOCKER_NETWORK."
        fi
        [[ $seen == *" port ${registry_url##*:} "* ]] ||
            seen+=${seen:+$'\n'}"a registry that answers at $registry_url"
    fi
    if [[ -n $docker_silent ]]; then
        say "There was ${where[0]}. Containers were not looked at: $docker_silent"
    else
        say "Nothing was running: ${where[0]}${where[1]:+, ${where[1]}}."
    fi
    [[ -z $seen ]] || warn "Other chains run and were left alone:"$'\n'"$seen"
}

[[ -n $mode || -z ${AXOLOTL_HOME:-} ]] || mode=local

looks_at_docker=no
# Why the engine does not answer, where there might be containers.
docker_silent=
if [[ $mode == docker ]]; then
    need_docker
    looks_at_docker=yes
elif [[ -z $mode ]] && have docker; then
    if docker_answers; then
        looks_at_docker=yes
    else
        docker_silent=$(docker_fault)
    fi
fi

# The lock is there as soon as anything was started here; without a home there is nothing to lock.
lock_home stop || true

did=no
if [[ $looks_at_docker == yes ]] && docker_has_something "$wipe"; then
    did=yes
    docker_stop "$wipe"
fi
if [[ $mode != docker ]]; then
    local_stop
fi
if [[ $did == no ]]; then
    nothing_was_running
elif [[ -n $docker_silent ]]; then
    say "Stopped; no process is left. Containers were not looked at: $docker_silent"
else
    say "Stopped; no process and no container is left."
fi

if [[ $wipe == yes && $mode != docker ]]; then
    # A start with containers leaves nothing here but its lock.
    if [[ -e $home_mark || $(ls -A "$home" 2>/dev/null) == home.lock ]]; then
        wipe_home
    elif [[ -e $home ]]; then
        die "$home was not made by the start script; it is left alone"
    fi
elif [[ $wipe == no && $looks_at_docker == yes ]] && docker_has_something yes; then
    say "The chain is kept in volumes named axolotl_…; start it again, or remove it with --wipe."
elif [[ $wipe == no && -e $home_mark ]]; then
    say "The chain is kept in $home; start it again, or remove it with --wipe."
fi
