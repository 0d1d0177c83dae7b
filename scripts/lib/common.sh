# What the scripts share. To be sourced; the caller has `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
home=${AXOLOTL_HOME:-$repository/.axolotl}
[[ $home == /* ]] || home=$PWD/$home
registry_port=${REGISTRY_PORT:-9090}
registry_url=http://127.0.0.1:$registry_port
registry_data=$home/registry
registry_log=$home/registry.log
registry_pid_file=$home/registry.pid
home_mark=$home/axolotl-home

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/axolotl/target}

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "error: $1"
    shift
    for line in "$@"; do warn "       $line"; done
    exit 1
}

if [[ ! $registry_port =~ ^[0-9]{1,5}$ ]] || ((10#$registry_port < 1 || 10#$registry_port > 65535)); then
    die "REGISTRY_PORT=$registry_port: expected a port, 1 to 65535"
fi

have() { command -v "$1" >/dev/null 2>&1; }

# Whether cargo is there; one that is not on the PATH is put there.
find_cargo() {
    have cargo && return
    [[ -x $HOME/.cargo/bin/cargo ]] || return 1
    PATH=$HOME/.cargo/bin:$PATH
}

need_cargo() {
    find_cargo ||
        die "Rust is not installed, and the programs must be built." \
            "Install it with:  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" \
            "and run this script again. The right version is chosen by rust-toolchain.toml." \
            "Building also needs a C compiler: on Debian or Ubuntu, apt-get install build-essential."
}

# Whether a Docker engine answers.
docker_answers() {
    have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

need_docker() {
    docker_answers && return
    have docker || die "docker is missing; on Debian or Ubuntu: apt-get install docker.io docker-compose"
    die "the Docker engine does not answer: $(timeout 10 docker version --format '{{.Server.Version}}' 2>&1 | tail -n 1)" \
        "Start it (systemctl start docker), and be root or a member of the group docker."
}

# Docker Compose, whichever there is.
compose() {
    if [[ -z ${compose_program:-} ]]; then
        if have docker-compose; then
            compose_program=docker-compose
        elif docker compose version >/dev/null 2>&1; then
            compose_program='docker compose'
        else
            die "docker-compose is missing; on Debian or Ubuntu: apt-get install docker-compose; or use --local"
        fi
    fi
    # shellcheck disable=SC2086 # two words
    (cd "$repository" && $compose_program -f docker-compose.registry.yml "$@")
}

# Directory of the built programs. AXOLOTL_BIN names one with programs built elsewhere.
binaries() {
    if [[ -n ${AXOLOTL_BIN:-} ]]; then
        say "$AXOLOTL_BIN"
    else
        local triple
        triple=$(cd "$repository" && rustc -vV | sed -n 's/^host: //p')
        say "$CARGO_TARGET_DIR/$triple/release"
    fi
}

# The process with this id is a living registry of this home.
is_our_registry() {
    local pid=$1
    [[ -n $pid && -r /proc/$pid/environ ]] || return 1
    [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == *axolotl-registry* ]] || return 1
    # It may end meanwhile.
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -xF "DATA_DIR=$registry_data" >/dev/null
}

# Prints the id of this home's registry; fails when it does not run.
registry_pid() {
    local pid
    pid=$(cat "$registry_pid_file" 2>/dev/null) || return 1
    is_our_registry "$pid" || return 1
    say "$pid"
}

# Prints the ids of this home's node processes.
node_pids() {
    local environ pid
    while IFS= read -r environ; do
        pid=${environ#/proc/}
        pid=${pid%/environ}
        [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == */axolotl* ]] || continue
        [[ $(readlink "/proc/$pid/exe") == *axolotl-registry* ]] && continue
        say "$pid"
    done < <(grep -lsaF "DATA_DIR=$home/" /proc/[0-9]*/environ 2>/dev/null || true)
}

# GET of the registry; prints the body, fails when it does not answer with 2xx.
registry_get() {
    curl --noproxy '*' -sSf --max-time 5 "$registry_url$1" 2>/dev/null
}

# The value of a top-level number or text of JSON on standard input, without needing jq.
json_field() {
    grep -o "\"$1\":\("'"[^"]*"'"\|[0-9]*\|true\|false\|null\)" | sed -n 1p | sed 's/^[^:]*://; s/^"//; s/"$//'
}
