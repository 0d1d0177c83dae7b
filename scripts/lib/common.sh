# What the scripts share. To be sourced; the caller has `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
registry_port=${REGISTRY_PORT:-9090}
registry_url=http://127.0.0.1:$registry_port

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/axolotl/target}

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "error: $1"
    shift
    for line in "$@"; do warn "       $line"; done
    exit 1
}

# Ends with the message $2, the lines of $1, and what remains.
die_listing() {
    local lines=()
    [[ -z $1 ]] || mapfile -t lines <<<"$1"
    die "$2" "${lines[@]}" "${@:3}"
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
            "Building also needs a C compiler and make: on Debian or Ubuntu, apt-get install build-essential."
}

# Whether a Docker engine answers.
docker_answers() {
    have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Why no engine answers.
docker_fault() {
    local said
    said=$(timeout 10 docker version --format '{{.Server.Version}}' 2>&1 | tail -n 1 || true)
    say "${said:-no answer within 10 s}"
}

need_docker() {
    docker_answers && return
    have docker || die "docker is missing; on Debian or Ubuntu: apt-get install docker.io docker-compose"
    die "the Docker engine does not answer: $(docker_fault)" \
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

# GET of the registry; prints the body, fails when it does not answer with 2xx.
registry_get() {
    curl --noproxy '*' -sSf --max-time 5 "$registry_url$1" 2>/dev/null
}

# The value of a top-level number or text of JSON on standard input, without needing jq.
json_field() {
    grep -o "\"$1\":\("'"[^"]*"'"\|[0-9]*\|true\|false\|null\)" | sed -n 1p | sed 's/^[^:]*://; s/^"//; s/"$//'
}
