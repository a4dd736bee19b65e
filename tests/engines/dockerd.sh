#!/bin/sh
# A private Docker engine for tests: own data, own socket, own containerd, nothing of the machine's touched.
#
#   dockerd.sh start DIR    starts it and prints the path of its socket
#   dockerd.sh stop DIR     ends it with its containers and removes what it left
#
# DIR is an absolute path of at most 70 characters (a unix socket's path has 107, and the engine appends to it).
# It has no bridge and no packet filter rules, so containers run on the networks `none` and `host`.
set -eu
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

# client ARGUMENTS: the engine's own client.
client() {
    docker -H "unix://$dir/docker.sock" "$@"
}

mine() {
    command_line "$1" | grep -q "dockerd.*--data-root $dir/data "
}

start() {
    need_root PACER_TEST_DOCKER
    need docker.io dockerd containerd runc docker
    mkdir -p "$dir"
    alone
    # What a killed engine left would keep the next one from starting.
    rm -f "$dir/pid" "$dir/docker.sock" "$dir/exec/containerd/containerd.pid"
    echo '{}' >"$dir/daemon.json"
    # `setsid` keeps a Ctrl-C of the caller's terminal from ending it before its containers are removed.
    setsid dockerd --config-file="$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/exec" \
        --pidfile "$dir/pid" -H "unix://$dir/docker.sock" --storage-driver "${PACER_TEST_STORAGE:-overlay2}" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --userland-proxy=false \
        --exec-opt native.cgroupdriver=cgroupfs >"$dir/log" 2>&1 </dev/null &
    pid=$!
    await "$dir/log" client version
    echo "$dir/docker.sock"
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        # Removed by force first: the engine waits ten seconds for each that ignores its signal.
        if client version >/dev/null 2>&1; then
            all=$(client ps -aq)
            # shellcheck disable=SC2086 # a list of words
            [ -z "$all" ] || client rm -f -v $all >/dev/null || true
        fi
        end "$pid"
    fi
    # Its containerd ends with it, unless it was killed.
    child=$(cat "$dir/exec/containerd/containerd.pid" 2>/dev/null || true)
    if [ -n "$child" ] && command_line "$child" | grep -q "containerd.*$dir/"; then
        kill -9 "$child" 2>/dev/null || true
    fi
    # So do its containers; those of a killed one outlive it.
    for process in /proc/[0-9]*; do
        shim=${process#/proc/}
        if command_line "$shim" | grep -q "containerd-shim.* -address $dir/exec/"; then
            # shellcheck disable=SC2046 # a list of words
            kill -9 $(cat "$process/task/$shim/children" 2>/dev/null) "$shim" 2>/dev/null || true
        fi
    done 2>/dev/null
    unmount
    rm -rf "$dir/data" "$dir/exec" "$dir/docker.sock" "$dir/pid" "$dir/daemon.json" "$dir/log"
    rmdir "$dir" 2>/dev/null || true
}

daemon 70 "$@"
