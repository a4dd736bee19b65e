#!/bin/sh
# A private Docker engine for tests: own data, own socket, own containerd, nothing of the machine's touched.
#
#   dockerd.sh start DIR    starts it and prints the path of its socket
#   dockerd.sh stop DIR     ends it with its containers and removes what it left
#
# DIR is an absolute path of at most 70 characters (a unix socket's path has 107, and the engine appends to it).
# It has no bridge and no packet filter rules, so containers run on the networks `none` and `host`.
set -eu

# A cold engine answers within a second; a busy machine takes longer.
PATIENCE_SECONDS=60
# Stopping waits for containers that ignore the signal; they were removed before.
STOP_SECONDS=20

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
    echo "dockerd.sh: $1" >&2
    exit 1
}

usage() {
    echo "usage: $0 start|stop DIR" >&2
    exit 2
}

# ping SOCKET: whether the engine behind it answers.
ping() {
    docker -H "unix://$1" version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# mine PID: whether this process is an engine of DIR, and not a stranger that got the number.
mine() {
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q "dockerd.*--data-root $dir/data "
}

start() {
    [ "$(id -u)" = 0 ] || fail "an engine needs root; run this as root, or set PACER_TEST_DOCKER to the socket of an engine you may use"
    missing=
    for tool in dockerd containerd runc docker; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
    [ -z "$missing" ] || fail "missing:$missing; install them with \`apt-get install -y --no-install-recommends docker.io\`"
    mkdir -p "$dir"
    if [ -f "$dir/pid" ] && mine "$(cat "$dir/pid")"; then
        fail "an engine of \`$dir\` runs already; stop it with \`$0 stop $dir\`"
    fi
    # What a killed engine left would keep the next one from starting.
    rm -f "$dir/pid" "$dir/docker.sock" "$dir/exec/containerd/containerd.pid"
    echo '{}' >"$dir/daemon.json"
    # `setsid` keeps a Ctrl-C of the caller's terminal from ending it before its containers are removed.
    setsid dockerd --config-file="$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/exec" \
        --pidfile "$dir/pid" -H "unix://$dir/docker.sock" --storage-driver "${PACER_TEST_STORAGE:-overlay2}" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --userland-proxy=false \
        --exec-opt native.cgroupdriver=cgroupfs >"$dir/log" 2>&1 </dev/null &
    pid=$!
    waited=0
    until ping "$dir/docker.sock"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 "$dir/log" >&2
            fail "the engine ended at its start; its whole log is \`$dir/log\`"
        fi
        [ "$waited" -lt $((PATIENCE_SECONDS * 10)) ] || { stop; fail "no answer within $PATIENCE_SECONDS s"; }
        waited=$((waited + 1))
        sleep 0.1
    done
    echo "$dir/docker.sock"
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        # Removed by force first: the engine waits ten seconds for each that ignores its signal.
        if ping "$dir/docker.sock"; then
            all=$(docker -H "unix://$dir/docker.sock" ps -aq)
            # shellcheck disable=SC2086
            [ -z "$all" ] || docker -H "unix://$dir/docker.sock" rm -f -v $all >/dev/null || true
        fi
        kill "$pid" 2>/dev/null || true
        waited=0
        while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt $((STOP_SECONDS * 10)) ]; do
            waited=$((waited + 1))
            sleep 0.1
        done
        if kill -0 "$pid" 2>/dev/null; then
            echo "dockerd.sh: ended by force after $STOP_SECONDS s" >&2
            kill -9 "$pid" 2>/dev/null || true
        fi
    fi
    # Its containerd ends with it, unless it was killed.
    child=$(cat "$dir/exec/containerd/containerd.pid" 2>/dev/null || true)
    if [ -n "$child" ] && tr '\0' ' ' <"/proc/$child/cmdline" 2>/dev/null | grep -q "containerd.*$dir/"; then
        kill -9 "$child" 2>/dev/null || true
    fi
    # So do its containers; those of a killed one outlive it.
    for process in /proc/[0-9]*; do
        shim=${process#/proc/}
        if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q "containerd-shim.* -address $dir/exec/"; then
            # shellcheck disable=SC2046
            kill -9 $(cat "$process/task/$shim/children" 2>/dev/null) "$shim" 2>/dev/null || true
        fi
    done 2>/dev/null
    # Deepest first; a removal must never reach through a mount.
    awk -v under="$dir/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount" || true
    done
    rm -rf "$dir/data" "$dir/exec" "$dir/docker.sock" "$dir/pid" "$dir/daemon.json" "$dir/log"
    rmdir "$dir" 2>/dev/null || true
}

[ $# = 2 ] || usage
dir=${2%/}
case $dir in
/*) ;;
*) fail "\`$2\` is not an absolute path" ;;
esac
[ "${#dir}" -le 70 ] || fail "\`$dir\` is too long for a unix socket; at most 70 characters"
case $1 in
start) start ;;
stop) stop ;;
*) usage ;;
esac
