# The home of a chain of local processes: its canonical path, its lock, and the processes that use it.
# To be sourced after common.sh.
#
# Whether something runs is never read from the pid file alone. Processes are found by their program and
# data directory, whatever its spelling; a process that cannot be seen from here (another user's, of another
# pid namespace, of another machine on a shared file system) is found by the lock that every node and registry
# holds on its data directory. What cannot be looked at is an error, never "not running".
# shellcheck shell=bash disable=SC2034,SC2154

have flock || die "flock is missing; on Debian or Ubuntu: apt-get install util-linux"

# Two spellings of one directory give one text: absolute, without symbolic links, `.`, `..` and doubled
# slashes. The directory need not exist.
canonical() { realpath -m -- "$1"; }

[[ ${AXOLOTL_HOME:-} != *$'\n'* ]] || die "AXOLOTL_HOME: a line break in the path; choose another directory"
default_home=$(canonical "$repository/.axolotl")
home=$(canonical "${AXOLOTL_HOME:-$default_home}") ||
    die "AXOLOTL_HOME=${AXOLOTL_HOME:-}: no path of a directory; choose another one"
[[ $home != / && (! -e $home || -d $home) ]] ||
    die "AXOLOTL_HOME=$home: cannot be the home of a chain; choose a directory of its own"
registry_data=$home/registry
registry_log=$home/registry.log
registry_pid_file=$home/registry.pid
home_mark=$home/axolotl-home
home_lock=$home/home.lock
# How the stop script is called for this home.
stop_command=./scripts/stop-auto-scaling.sh
[[ $home == "$default_home" ]] || printf -v stop_command 'AXOLOTL_HOME=%q %s' "$home" "$stop_command"

# Takes the lock of this home for $1 (start or stop) until this script ends: runs for one home follow each
# other. A stop makes no home: it fails where there is none.
lock_home() {
    local doing=$1 other
    while true; do
        if [[ $doing == start ]]; then
            mkdir -p -- "$home" || die "AXOLOTL_HOME=$home: cannot be made; choose another directory"
        else
            [[ -e $home_lock || -e $home_mark ]] || return 1
        fi
        # A file in a directory that another stop has just removed cannot be opened.
        if ! { exec 9<>"$home_lock"; } 2>/dev/null; then
            [[ ! -d $home ]] || die "$home_lock: cannot be written; run this as the user who made $home"
            continue
        fi
        if ! flock -n 9; then
            other=$(head -c 64 "$home_lock" 2>/dev/null || true)
            say "Another run for $home is under way${other:+ ($other)}; waiting for its end."
            flock 9
        fi
        # The lock of a home that was wiped meanwhile is nobody's: take that of the new home.
        [[ $home_lock -ef /dev/fd/9 ]] && break
    done
    printf '%s, process %s\n' "$doing" "$$" >"$home_lock"
}

# Ends with the reason when parts of this home cannot be looked at.
need_readable_home() {
    local dir
    for dir in "$home" "$registry_data" "$home/nodes" "$home"/nodes/* "$home"/nodes/*/data; do
        [[ ! -d $dir || (-r $dir && -x $dir) ]] ||
            die "$dir: cannot be looked at; it belongs to $(stat -c %U -- "$dir"). Run this as that user."
    done
}

# What kind of Axolotl process this is: registry, node, or nothing.
kind_of() {
    local program words
    program=$(readlink "/proc/$1/exe" 2>/dev/null) || return 0
    program=${program##*/}
    { mapfile -d '' -t words <"/proc/$1/cmdline"; } 2>/dev/null || return 0
    case $program:" ${words[*]:1} " in
    axolotl-registry*:*' serve '*) say registry ;;
    axolotl-registry*) ;;
    axolotl*:*' node '*) say node ;;
    esac
}

# The value that process $1 was given as argument $2, else as variable $3, else $4.
option_of() {
    local words=() variables=() i
    { mapfile -d '' -t words <"/proc/$1/cmdline"; } 2>/dev/null || true
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
        "$2") say "${words[i + 1]:-}" && return ;;
        "$2"=*) say "${words[i]#*=}" && return ;;
        esac
    done
    { mapfile -d '' -t variables <"/proc/$1/environ"; } 2>/dev/null || true
    for i in "${variables[@]}"; do
        [[ $i != "$3"=?* ]] || { say "${i#*=}" && return; }
    done
    say "$4"
}

# The data directory of process $1 of kind $2, as that process names it but absolute.
data_dir_of() {
    local dir default=data
    [[ $2 == node ]] || default=registry-data
    dir=$(option_of "$1" --data-dir DATA_DIR "$default")
    [[ $dir == /* ]] || dir=$(readlink "/proc/$1/cwd" 2>/dev/null || true)/$dir
    say "$dir"
}

# Whether process $1 means a directory of this home when it says $2.
is_in_home() {
    local dir=$2
    if [[ /proc/$1/root -ef / ]]; then
        # The home itself may be gone: then only names are left to compare.
        [[ $dir/ == */../* || $dir != "$home"/* ]] || return 0
        dir=$(canonical "$dir") || return 1
    else
        # A container: its paths are others, its directories may be the same.
        dir=/proc/$1/root$dir
    fi
    while [[ -n $dir ]]; do
        # A bind mount has another name, but is the same directory.
        [[ $dir != "$home" && ! $dir -ef $home ]] || return 0
        dir=${dir%/*}
    done
    return 1
}

# Ids and data directories of all processes of kind $1 that can be seen, one a line.
all_of_kind() {
    local exe pid
    while IFS= read -r exe; do
        pid=${exe#/proc/}
        pid=${pid%/exe}
        [[ $(kind_of "$pid") == "$1" ]] || continue
        say "$pid $(data_dir_of "$pid" "$1")"
    done < <(find /proc/[0-9]*/exe -maxdepth 0 -lname '*/axolotl*' 2>/dev/null || true)
}

# Ids of the processes of kind $1 (registry or node) of this home.
pids_of_home() {
    local pid dir
    all_of_kind "$1" | while read -r pid dir; do
        if is_in_home "$pid" "$dir"; then say "$pid"; fi
    done
}

node_pids() { pids_of_home node; }
registry_pids() { pids_of_home registry; }

# The process with this id is a living registry of this home.
is_our_registry() {
    [[ $(kind_of "$1") == registry ]] && is_in_home "$1" "$(data_dir_of "$1" registry)"
}

# Prints the id of this home's registry and puts the pid file right; fails when no registry is seen.
registry_pid() {
    local pid
    pid=$(registry_pids | sed -n 1p)
    [[ -n $pid ]] || return 1
    write_pid_file "$pid"
    say "$pid"
}

write_pid_file() {
    [[ $(cat "$registry_pid_file" 2>/dev/null) == "$1" ]] || say "$1" >"$registry_pid_file"
}

# The port on which the registry with this id listens.
port_of() { option_of "$1" --port PORT 9090; }

# Says which registries that can be seen listen on this port, one a line.
registries_at() {
    local pid dir
    all_of_kind registry | while read -r pid dir; do
        [[ $(port_of "$pid") != "$1" ]] || say "process $pid with its data in $dir"
    done
}

# The process that holds a lock on file $1, if it can be seen.
lock_holder() {
    local inode kind pid place fd
    inode=$(stat -Lc %i -- "$1" 2>/dev/null) || return 0
    while read -r _ kind _ _ pid place _; do
        [[ $kind == FLOCK && ${place##*:} == "$inode" && -d /proc/$pid ]] || continue
        # Files of other disks may have this number; of another user's process no more can be seen.
        if [[ -r /proc/$pid/fd ]]; then
            for fd in "/proc/$pid/fd"/*; do
                [[ ! $fd -ef $1 ]] || { say "$pid" && return; }
            done
        else
            say "$pid" && return
        fi
    done 2>/dev/null </proc/locks
}

# Says what uses this home, one a line: processes that are seen, then locks that others hold. Called when no
# registry is left that starts nodes: a node that starts while its lock is tried would be refused.
uses() {
    local kind pid dir file status
    for kind in registry node; do
        all_of_kind "$kind" | while read -r pid dir; do
            if is_in_home "$pid" "$dir"; then say "process $pid ($kind) has $dir"; fi
        done
    done
    hidden_uses
}

# Says which data directories are in use by processes that are not seen as those of this home.
hidden_uses() {
    local file code pid seen
    seen=" $(registry_pids | tr '\n' ' ')$(node_pids | tr '\n' ' ')"
    while IFS= read -r -d '' file; do
        code=0
        flock -n -E 75 "$file" true 2>/dev/null || code=$?
        [[ $code != 0 && -e $file ]] || continue
        pid=$(lock_holder "$file")
        [[ -z $pid || $seen != *" $pid "* ]] || continue
        case $code:$pid in
        75:)
            # A node writes its id, as it is known where it runs.
            pid=
            [[ $file != */lock ]] || pid=$(head -c 32 -- "$file" 2>/dev/null | grep -xE '[0-9]+' || true)
            say "a process that is not visible here (${pid:+$pid }in another container or machine?) has ${file%/*}"
            ;;
        75:*) say "process $pid ($(cat "/proc/$pid/comm" 2>/dev/null || true)) has ${file%/*}" ;;
        *) say "$file cannot be opened to see whether ${file%/*} is in use" ;;
        esac
    done < <(find -L "$home" -maxdepth 5 -type f \( -name lock -o -path '*/store/db' \) -print0 2>/dev/null || true)
}

# Removes the chain in this home, and the home when nothing else is in it.
wipe_home() {
    local users left
    users=$(uses)
    [[ -z $users ]] || die_listing "$users" "$home is in use; nothing was removed:" \
        "Stop what uses it where it was started, then run this again."
    # The mark last: a wipe that was interrupted can be run again. start.lock is of earlier versions.
    rm -rf -- "${home:?}/registry" "$home/nodes"
    rm -f -- "$registry_log" "$registry_pid_file" "$home/validators" "$home/start.lock" "$home_mark" "$home_lock"
    if rmdir -- "$home" 2>/dev/null; then
        say "Removed $home."
    else
        left=$(ls -A -- "$home")
        say "Removed the chain in $home. Other files are left alone there: ${left//$'\n'/, }."
    fi
}
