# What test.sh and soak.sh share. To be sourced after common.sh.
# shellcheck shell=bash

step_name=
step_began=$SECONDS

end_step() {
    [[ -z $step_name ]] || say "---- $step_name: $((SECONDS - step_began)) s"
}

# Tells what is done next.
step() {
    end_step
    step_name=$1
    step_began=$SECONDS
    say ""
    say "==== $1"
}

done_all() {
    end_step
    say ""
    say "All passed in $SECONDS s."
}

# Installs what is missing, where this user may.
install_tools() {
    local missing=()
    have curl || missing+=(curl)
    have jq || missing+=(jq)
    have git || missing+=(git)
    { have cc && have make; } || missing+=(build-essential)
    have python3 || missing+=(python3)
    have docker || missing+=(docker.io)
    have docker-compose || missing+=(docker-compose)
    have ip || missing+=(iproute2)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv python3-pip)
    ((${#missing[@]})) || return 0
    local sudo=
    if ((EUID != 0)); then
        sudo=sudo
        have sudo || die "missing: ${missing[*]}. Install them and run this script again."
    fi
    have apt-get || die "missing: ${missing[*]}. Install them and run this script again."
    step "apt-get install ${missing[*]}"
    $sudo apt-get update -q
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q "${missing[@]}"
}

# The tests with containers need an engine; starts one where this user may.
need_engine() {
    docker_answers && return
    if ((EUID == 0)) && have dockerd; then
        step "dockerd"
        # Outlives this script, as an engine does that the machine starts.
        setsid dockerd </dev/null >"${TMPDIR:-/tmp}/axolotl-dockerd.log" 2>&1 &
        disown
        local deadline=$((SECONDS + 60))
        while ((SECONDS < deadline)); do
            docker_answers && return
            sleep 0.5
        done
        warn "dockerd did not come up; the end of its log:"
        tail -n 15 "${TMPDIR:-/tmp}/axolotl-dockerd.log" >&2 || true
    fi
    need_docker
}

# Gives the tests a temporary directory of their own, and leaves no process and no file behind,
# however they end.
own_temporary_directory() {
    TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/axolotl-run-XXXXXX")
    # Some tests run a node as another user.
    chmod 711 "$TMPDIR"
    export TMPDIR
    trap leave_nothing EXIT
    remove_ownerless
}

# Removes containers, volumes and networks of tests that were killed: their names hold the number of the
# test's process.
remove_ownerless() {
    local name pid
    while IFS= read -r name; do
        [[ $name =~ ^axt([0-9]+)- ]] || continue
        pid=${BASH_REMATCH[1]}
        [[ ! -d /proc/$pid ]] || continue
        # The registry first: it would replace what is removed before it.
        docker rm -f "axt$pid-registry" >/dev/null 2>&1 || true
        docker ps -aq --filter "label=org.axolotl.network=axt$pid-net" | xargs -r docker rm -f >/dev/null || true
        docker volume ls -q --filter "name=axolotl_axt$pid-" | xargs -r docker volume rm -f >/dev/null || true
        docker network rm "axt$pid-net" >/dev/null 2>&1 || true
    done < <(docker network ls --format '{{.Name}}' --filter name=axt 2>/dev/null || true)
    while IFS= read -r name; do
        [[ $name =~ ^axt([0-9]+) && ! -d /proc/${BASH_REMATCH[1]} ]] || continue
        ip netns delete "${name%% *}" 2>/dev/null || true
    done < <(ip netns list 2>/dev/null || true)
}

leave_nothing() {
    local code=$? environ pid
    # Tests in the background, when this script was interrupted.
    jobs -p | xargs -r kill 2>/dev/null || true
    # Tests that still run and clusters whose test was killed: their environment names the directory, like
    # that of this script.
    for _ in {1..20}; do
        local found=no
        while IFS= read -r environ; do
            pid=${environ#/proc/}
            pid=${pid%/environ}
            case $(readlink "/proc/$pid/exe" 2>/dev/null) in
            */axolotl | */axolotl-registry | */deps/* | *' (deleted)')
                found=yes
                kill -KILL "$pid" 2>/dev/null || true
                ;;
            esac
        done < <(grep -lsaF "$TMPDIR" /proc/[0-9]*/environ 2>/dev/null || true)
        [[ $found == yes ]] || break
        sleep 0.1
    done
    remove_ownerless
    rm -rf -- "${TMPDIR:?}"
    exit "$code"
}
