# A chain of containers: what the start and stop scripts do with --docker. To be sourced after common.sh and
# home.sh.
# shellcheck shell=bash disable=SC2154

env_file=$repository/.env

# The value of a variable in .env.
env_value() { sed -n "s/^$1=//p" "$env_file" 2>/dev/null | tail -n 1; }

# The value of a setting as compose sees it: the environment counts more than .env; else $2.
setting() {
    local value
    if [[ -v $1 ]]; then
        value=${!1}
    else
        value=$(env_value "$1")
        value=${value#[\"\']}
        value=${value%[\"\']}
    fi
    say "${value:-$2}"
}

network=$(setting DOCKER_NETWORK axolotl_blockchain)
prefix=$(setting AXOLOTL_PREFIX '')
registry_container=${prefix}registry
# Services of the compose file.
most_services=4

# Ids of the containers of this network, the registry's among them; further filters as arguments.
containers() { docker ps -aq --filter "label=org.axolotl.network=$network" "$@"; }

running_nodes() { containers --filter label=org.axolotl.node --filter status=running; }

# Name of the first node that runs.
first_node() {
    docker ps --format '{{.Names}}' --filter "label=org.axolotl.network=$network" \
        --filter label=org.axolotl.node | sort -V | sed -n 1p
}

# Whether this network's registry runs; other containers may be called `registry` too.
registry_container_runs() {
    [[ -n $(containers --filter "name=^/$registry_container\$" --filter status=running 2>/dev/null) ]]
}

# Other networks with running containers of Axolotl.
other_networks() {
    docker ps --filter label=org.axolotl.network --format '{{.Label "org.axolotl.network"}}' |
        sort -u | grep -vxF -- "$network" || true
}

# Sets a variable in .env; other lines stay.
set_env() {
    local kept
    [[ $(env_value "$1") == "$2" ]] && return
    kept=$(grep -v "^$1=" "$env_file" 2>/dev/null || true)
    printf '%s\n' ${kept:+"$kept"} "$1=$2" >"$env_file"
    say "Wrote $1=$2 to .env."
}

# Where the engine listens: compose mounts that into the registry.
find_socket() {
    case ${DOCKER_HOST:-} in
    unix://*) export DOCKER_SOCKET=${DOCKER_SOCKET:-${DOCKER_HOST#unix://}} ;;
    esac
    local socket=${DOCKER_SOCKET:-/var/run/docker.sock}
    [[ -S $socket ]] || die "there is no socket $socket: the registry starts containers through it." \
        "Set DOCKER_SOCKET to the engine's socket."
    # What this shell says counts more than .env, for compose too.
    [[ -n ${DOCKER_GID:-} ]] || set_env DOCKER_GID "$(stat -Lc %g "$socket")"
}

# Builds the images, unless others were named.
make_images() {
    [[ -z ${DOCKER_IMAGE:-} || -z ${REGISTRY_IMAGE:-} ]] || return 0
    if find_cargo || [[ -n ${AXOLOTL_BIN:-} ]] ||
        ! docker image inspect axolotl-node:latest axolotl-registry:latest >/dev/null 2>&1; then
        say "Building the images (the first time takes 10 to 20 minutes on two cores, later ones seconds) …"
        "$repository/scripts/build-images.sh"
    fi
}

# The number of validators of the chain that is kept, or nothing.
docker_chain_nodes() {
    docker volume inspect "axolotl_${prefix}registry_data" >/dev/null 2>&1 || return 0
    local kept
    kept=$(env_value GENESIS_NODES)
    say "${kept:-4}"
}

docker_wait_until_ready() {
    local status='' last='' line deadline=$((SECONDS + start_timeout_s))
    while ((SECONDS < deadline)); do
        if ! registry_container_runs; then
            warn "the container $registry_container does not run. The end of its log:"
            docker logs --tail 15 "$registry_container" >&2 || true
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
    warn "the end of the registry's log:"
    docker logs --tail 15 "$registry_container" >&2 || true
    say_warnings "$status"
    die "not ready after $start_timeout_s s: ${last:-the registry does not answer}. It goes on trying." \
        "Look at: docker logs $registry_container; docker logs ${prefix}node1" \
        "Run this script again to go on waiting, or stop with ./scripts/stop-auto-scaling.sh"
}

docker_summary() {
    local status=$1 tool='' compose_line='docker-compose -f docker-compose.registry.yml'
    # Built inside of Docker there is none on this machine.
    if [[ -n ${AXOLOTL_BIN:-} ]] || find_cargo; then tool=$(binaries)/axolotl; fi
    summary_head "$status"
    say "  Containers  docker ps --filter label=org.axolotl.network=$network"
    say ""
    say "Try next:"
    [[ ! -x $tool ]] || say "  $tool status"
    say "  curl -s $registry_url/status | jq .healthy_nodes"
    say "  docker exec $(first_node) axolotl status"
    say "  docker logs -f $registry_container"
    say "  docker exec $registry_container axolotl-registry admin-token"
    say ""
    say "See it heal itself:"
    say "  1. $compose_line stop node2"
    say "  2. on a new chain: $compose_line stop node2 node3"
    say "  3. curl -X POST $registry_url/scale -H 'content-type: application/json' \\"
    say "       -H \"Authorization: Bearer \$(docker exec $registry_container axolotl-registry admin-token)\" \\"
    say "       -d '{\"target_nodes\": 5}'"
    say "  and watch: curl -N $registry_url/events"
    say ""
    say "Stop with ./scripts/stop-auto-scaling.sh"
    summary_foot
}

# Starts the containers of a chain of $1 validators; nothing is named: those of the chain that is
# kept, or four.
docker_start() {
    local wanted=$1 kept status services=() i
    need_docker
    compose version >/dev/null
    registry_port=$(setting REGISTRY_PORT 9090)
    registry_url=http://127.0.0.1:$registry_port
    if registry_container_runs; then
        registry_url=$(docker_registry_url)
        nodes=$(docker_chain_nodes)
        docker_wait_until_ready
        status=$(registry_get /status)
        say "Already running, nothing was changed: $(status_line "$status")."
        docker_summary "$status"
        return
    fi
    kept=$(docker_chain_nodes)
    if [[ -n $kept && -n $wanted && $kept != "$wanted" ]]; then
        die "the chain that is kept was made with $kept validators, not $wanted." \
            "Leave --nodes out, or begin anew: ./scripts/stop-auto-scaling.sh --wipe"
    fi
    nodes=${kept:-${wanted:-4}}
    ((nodes <= most_services)) || die "--docker: the compose file has $most_services nodes." \
        "Start with 4, then ask for more: POST /scale with {\"target_nodes\": $nodes}"
    if registry_pid >/dev/null; then
        die "a chain of processes runs already. Stop it first: ./scripts/stop-auto-scaling.sh --local"
    fi
    if (exec 3<>"/dev/tcp/127.0.0.1/$registry_port") 2>/dev/null; then
        die_listing "$(registries_at "$registry_port")" "port $registry_port is in use by something else." \
            "Stop that, or choose another port: REGISTRY_PORT=9190 $0"
    fi
    find_socket
    if [[ $nodes != 4 || -n $(env_value GENESIS_NODES) ]]; then
        set_env GENESIS_NODES "$nodes"
        set_env MIN_NODES "$((nodes < 2 ? nodes : 2))"
    fi
    make_images
    for ((i = 1; i <= nodes; i++)); do services+=("node$i"); done
    say "Starting a registry and $nodes nodes …"
    compose up -d registry "${services[@]}"
    docker_wait_until_ready
    status=$(registry_get /status)
    say "Ready after $SECONDS s: $(status_line "$status")."
    docker_summary "$status"
}

# Whether anything of the network is there; with $1 = yes volumes count too. The engine must answer.
docker_has_something() {
    local ids
    ids=$(containers) || die "the Docker engine did not list its containers; run this again"
    [[ -z $ids ]] || return 0
    [[ $1 == yes && -n $(docker_volumes) ]]
}

docker_volumes() {
    docker volume ls -q --filter "label=org.axolotl.network=$network"
    docker volume ls -q | grep -xE "axolotl_${prefix}(registry_data|join|node[1-$most_services]_data)" || true
}

# Says which containers have the volumes $1, one a line.
volume_users() {
    local volume
    for volume in $1; do
        docker ps -a --filter "volume=$volume" --format "{{.Names}} has $volume"
    done
}

compose_down() {
    local said
    said=$(compose down "$@" 2>&1) || die "docker-compose down failed:" "$said"
}

# Stops everything, and removes all containers; with $1 = yes the volumes too.
docker_stop() {
    local wipe=$1 token ids volumes users
    if registry_container_runs; then
        say "Stopping the nodes …"
        token=$(docker exec "$registry_container" axolotl-registry admin-token 2>/dev/null || true)
        # The token goes through a file descriptor: arguments are visible to other users.
        if ! curl --noproxy '*' -sSf --max-time 10 -X POST -H 'content-type: application/json' \
            -H @<(printf 'Authorization: Bearer %s\n' "$token") -d '{}' \
            "$(docker_registry_url)/shutdown" >/dev/null; then
            warn "the registry refused to shut its nodes down; they are stopped directly"
        elif ! wait_until_gone running_nodes; then
            warn "some nodes did not stop in $stop_timeout_s s; they are stopped directly"
        fi
        # The registry first: it would start again what is stopped behind its back.
        docker stop -t 10 "$registry_container" >/dev/null || true
    fi
    ids=$(running_nodes)
    # shellcheck disable=SC2086 # one word each
    [[ -z $ids ]] || docker stop -t 8 $ids >/dev/null || true
    ids=$(containers)
    # shellcheck disable=SC2086
    [[ -z $ids ]] || docker rm -f $ids >/dev/null
    if [[ $wipe == yes ]]; then
        volumes=$(docker_volumes)
        users=$(volume_users "$volumes")
        [[ -z $users ]] || die_listing "$users" "volumes of the chain are in use; none was removed:" \
            "Remove those containers (docker rm -f NAME), then run this again."
        compose_down --volumes
        volumes=$(docker_volumes)
        # shellcheck disable=SC2086
        [[ -z $volumes ]] || docker volume rm $volumes >/dev/null
    else
        compose_down
    fi
    ids=$(containers)
    [[ -z $ids ]] || die "these containers stay: $ids"
}

# The registry as this machine reaches it, whatever REGISTRY_PORT says now.
docker_registry_url() {
    local address
    address=$(docker port "$registry_container" 9090/tcp 2>/dev/null | sed -n 1p)
    say "http://${address:-127.0.0.1:$registry_port}"
}
