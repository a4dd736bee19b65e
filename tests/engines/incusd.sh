#!/bin/sh
# A private incus for tests: own data, own socket, a storage pool of plain directories, no network.
#
#   incusd.sh start DIR    starts it and prints the path of its socket
#   incusd.sh stop DIR     ends it with its instances and removes what it left
#
# DIR is an absolute path of at most 70 characters (a unix socket's path has 107, and incus appends to it).
# It runs in a network namespace of its own, from which nothing can be reached: it would look up its public image
# server at every start. Containers only: virtual machines need kernel modules that a test machine rarely has.
set -eu
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

# A client's command against a daemon that answers.
COMMAND_SECONDS=30

# The daemon is not in the search path: it is started by its service.
find_daemon() {
    for one in /usr/libexec/incus/incusd /usr/lib/incus/incusd /opt/incus/bin/incusd; do
        if [ -x "$one" ]; then
            echo "$one"
            return
        fi
    done
    command -v incusd || true
}

# client ARGUMENTS: the daemon's own client. It keeps its settings away from the caller's.
client() {
    INCUS_DIR="$dir/var" INCUS_CONF="$dir/client" timeout "$COMMAND_SECONDS" incus --quiet "$@" </dev/null
}

mine() {
    command_line "$1" | grep -q "incusd .*--logfile $dir/log\b"
}

start() {
    need_root PACER_TEST_INCUS
    program=$(find_daemon)
    [ -n "$program" ] && command -v incus >/dev/null 2>&1 ||
        fail "missing: incus; install it with \`apt-get install -y --no-install-recommends incus-base\` (on Debian 12 from its backports)"
    mkdir -p "$dir/var" "$dir/client"
    alone
    # `setsid` keeps a Ctrl-C of the caller's terminal from ending it before its instances are deleted.
    # shellcheck disable=SC2016 # the inner shell's words
    INCUS_DIR="$dir/var" setsid unshare -n sh -c 'echo $$ >"$1/pid"; exec "$2" --group root --logfile "$1/log"' \
        sh "$dir" "$program" >"$dir/output" 2>&1 </dev/null &
    pid=
    await "$dir/output" client admin waitready --timeout 1
    if ! client storage show default >/dev/null 2>&1; then
        client storage create default dir >/dev/null
        client profile device add default root disk path=/ pool=default >/dev/null
    fi
    echo "$dir/var/unix.socket"
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        client list --all-projects --format csv --columns en 2>/dev/null | while IFS=, read -r project name; do
            client delete --force --project "$project" "$name" || true
        done
        end "$pid"
    fi
    # Containers outlive a daemon that was killed; the first process of each is its monitor's child.
    for process in /proc/[0-9]*; do
        monitor=${process#/proc/}
        if command_line "$monitor" | grep -q "^\[lxc monitor\] $dir/"; then
            # shellcheck disable=SC2046 # a list of words
            kill -9 $(cat "$process/task/$monitor/children" 2>/dev/null) "$monitor" 2>/dev/null || true
        fi
    done
    # So do the proxies of its containers.
    for process in /proc/[0-9]*; do
        if command_line "${process#/proc/}" | grep -q "incusd forkproxy " &&
            tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qxF "INCUS_DIR=$dir/var"; then
            kill -9 "${process#/proc/}" 2>/dev/null || true
        fi
    done
    unmount
    for left in var client; do
        rm -rf "${dir:?}/$left"
    done
    # The locks of its containers, which lxc keeps outside.
    rm -rf "/run/lxc/lock$dir"
    rm -f "$dir/pid" "$dir/log" "$dir/output"
    rmdir "$dir" 2>/dev/null || true
}

daemon 70 "$@"
