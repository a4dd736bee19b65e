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

# It answers within a second; a busy machine takes longer.
PATIENCE_SECONDS=60
# A client's command against a daemon that answers.
COMMAND_SECONDS=30
# Stopping waits for nothing once the instances are deleted.
STOP_SECONDS=20

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
    echo "incusd.sh: $1" >&2
    exit 1
}

usage() {
    echo "usage: $0 start|stop DIR" >&2
    exit 2
}

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
    INCUS_CONF="$dir/client" timeout "$COMMAND_SECONDS" incus --quiet "$@" </dev/null
}

# mine PID: whether this process is a daemon of DIR, and not a stranger that got the number.
mine() {
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q "incusd .*--logfile $dir/log\b"
}

start() {
    [ "$(id -u)" = 0 ] || fail "incus needs root; run this as root, or set PACER_TEST_INCUS to the socket of an incus you may use"
    daemon=$(find_daemon)
    [ -n "$daemon" ] && command -v incus >/dev/null 2>&1 ||
        fail "missing: incus; install it with \`apt-get install -y --no-install-recommends incus-base\` (on Debian 12 from its backports)"
    mkdir -p "$dir/var" "$dir/client"
    if [ -f "$dir/pid" ] && mine "$(cat "$dir/pid")"; then
        fail "an incus of \`$dir\` runs already; stop it with \`$0 stop $dir\`"
    fi
    # `setsid` keeps a Ctrl-C of the caller's terminal from ending it before its instances are deleted.
    # shellcheck disable=SC2016 # the inner shell's words
    setsid unshare -n sh -c 'echo $$ >"$1/pid"; exec "$2" --group root --logfile "$1/log"' sh "$dir" "$daemon" \
        >"$dir/output" 2>&1 </dev/null &
    waited=0
    until client admin waitready --timeout 1 >/dev/null 2>&1; do
        pid=$(cat "$dir/pid" 2>/dev/null || true)
        if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 "$dir/output" >&2
            stop
            fail "incus ended at its start"
        fi
        [ "$waited" -lt $((PATIENCE_SECONDS * 10)) ] || { stop; fail "no answer within $PATIENCE_SECONDS s"; }
        waited=$((waited + 1))
        sleep 0.1
    done
    if ! client storage show default >/dev/null 2>&1; then
        client storage create default dir >/dev/null
        client profile device add default root disk path=/ pool=default >/dev/null
    fi
    echo "$INCUS_DIR/unix.socket"
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        client list --all-projects --format csv --columns en 2>/dev/null | while IFS=, read -r project name; do
            client delete --force --project "$project" "$name" || true
        done
        kill "$pid" 2>/dev/null || true
        waited=0
        while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt $((STOP_SECONDS * 10)) ]; do
            waited=$((waited + 1))
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    # Containers outlive a daemon that was killed; the first process of each is its monitor's child.
    for process in /proc/[0-9]*; do
        monitor=${process#/proc/}
        if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q "^\[lxc monitor\] $dir/"; then
            # shellcheck disable=SC2046
            kill -9 $(cat "$process/task/$monitor/children" 2>/dev/null) "$monitor" 2>/dev/null || true
        fi
    done
    # Deepest first; a removal must never reach through a mount.
    awk -v under="$dir/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount" || true
    done
    for left in var client; do
        rm -rf "${dir:?}/$left"
    done
    # The locks of its containers, which lxc keeps outside.
    rm -rf "/run/lxc/lock$dir"
    rm -f "$dir/pid" "$dir/log" "$dir/output"
    rmdir "$dir" 2>/dev/null || true
}

[ $# = 2 ] || usage
dir=${2%/}
case $dir in
/*) ;;
*) fail "\`$2\` is not an absolute path" ;;
esac
[ "${#dir}" -le 70 ] || fail "\`$dir\` is too long for a unix socket; at most 70 characters"
INCUS_DIR=$dir/var
export INCUS_DIR
case $1 in
start) start ;;
stop) stop ;;
*) usage ;;
esac
