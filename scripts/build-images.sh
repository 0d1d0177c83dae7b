#!/usr/bin/env bash
# Builds the images axolotl-node and axolotl-registry.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

usage() {
    cat <<'TEXT'
Usage: ./scripts/build-images.sh [--tag TAG]

Builds axolotl-node:TAG and axolotl-registry:TAG (default: latest): from programs that are built here
when cargo is there, else from source inside of Docker, which takes 10 to 20 minutes.

Environment:
  AXOLOTL_BIN       directory with programs built elsewhere: they are taken as they are
  CARGO_TARGET_DIR  where programs are built (default: ~/.cache/axolotl/target)
TEXT
}

tag=latest
while (($#)); do
    case $1 in
    --tag)
        [[ ${2:-} =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || die "--tag: expected a tag, got '${2:-}'"
        tag=$2
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

need_docker

if [[ -z ${AXOLOTL_BIN:-} ]] && ! find_cargo; then
    say "cargo is not here; building from source inside of Docker …"
    for image in node registry; do
        docker build --target "$image" -t "axolotl-$image:$tag" \
            -f "$repository/docker/Dockerfile" "$repository"
    done
    exit 0
fi

if [[ -z ${AXOLOTL_BIN:-} ]]; then
    (cd "$repository" && cargo build --release --workspace --bins --locked)
fi
bin=$(binaries)
context=$(mktemp -d)
trap 'rm -rf -- "${context:?}"' EXIT
mkdir "$context/empty"
for program in axolotl axolotl-registry; do
    [[ -x $bin/$program ]] || die "$bin/$program is missing; check AXOLOTL_BIN"
    # Hard links where possible: the programs are large.
    ln -- "$(realpath "$bin/$program")" "$context/$program" 2>/dev/null ||
        cp -- "$bin/$program" "$context/$program"
done
for image in node registry; do
    docker build --quiet --target "$image" -t "axolotl-$image:$tag" \
        -f "$repository/docker/Dockerfile.prebuilt" "$context" >/dev/null
    say "built axolotl-$image:$tag"
done
