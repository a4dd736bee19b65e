#!/bin/sh
# A private Podman service for tests: own storage, own socket, nothing of the machine's touched.
#
#   podman.sh start DIR    starts it and prints the path of its socket
#   podman.sh stop DIR     ends it with its containers and removes what it left
#
# DIR is an absolute path of at most 70 characters (a unix socket's path has 107). Containers run on the networks
# `none` and `host`. The runtime is runc, since crun refuses machines that mix cgroups v1 and v2, and the limits are
# what a container may set without CAP_SYS_RESOURCE.
set -eu

# A cold engine answers within a second; a busy machine takes longer.
PATIENCE_SECONDS=60
STOP_SECONDS=20

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
    echo "podman.sh: $1" >&2
    exit 1
}

usage() {
    echo "usage: $0 start|stop DIR" >&2
    exit 2
}

# mine PID: whether this process is a service of DIR, and not a stranger that got the number.
mine() {
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q "podman system service .*unix://$dir/podman.sock"
}

start() {
    [ "$(id -u)" = 0 ] || fail "this engine needs root; run this as root, or set PACER_TEST_DOCKER to the socket of an engine you may use"
    missing=
    for tool in podman runc docker; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
    [ -z "$missing" ] || fail "missing:$missing; install them with \`apt-get install -y --no-install-recommends podman docker.io\`"
    mkdir -p "$dir"
    if [ -f "$dir/pid" ] && mine "$(cat "$dir/pid")"; then
        fail "an engine of \`$dir\` runs already; stop it with \`$0 stop $dir\`"
    fi
    rm -f "$dir/pid" "$dir/podman.sock"
    cat >"$dir/containers.conf" <<END
[containers]
netns = "none"
default_sysctls = []
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$dir/tmp"
END
    cat >"$dir/storage.conf" <<END
[storage]
driver = "${PACER_TEST_STORAGE:-overlay}"
graphroot = "$dir/data"
runroot = "$dir/run"
END
    # A container's monitor leaves a file `oom` where the service was started.
    cd "$dir"
    # No function in between: the process started must be the one whose number is kept.
    setsid podman system service --time=0 "unix://$dir/podman.sock" >"$dir/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/pid"
    waited=0
    until docker -H "unix://$dir/podman.sock" version >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 "$dir/log" >&2
            fail "the engine ended at its start; its whole log is \`$dir/log\`"
        fi
        [ "$waited" -lt $((PATIENCE_SECONDS * 10)) ] || { stop; fail "no answer within $PATIENCE_SECONDS s"; }
        waited=$((waited + 1))
        sleep 0.1
    done
    echo "$dir/podman.sock"
}

stop() {
    if [ -f "$dir/storage.conf" ]; then
        podman rm --all --force --time 0 >/dev/null 2>&1 || true
    fi
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        kill "$pid" 2>/dev/null || true
        waited=0
        while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt $((STOP_SECONDS * 10)) ]; do
            waited=$((waited + 1))
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    # Deepest first; a removal must never reach through a mount.
    awk -v under="$dir/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount" || true
    done
    for left in data run tmp; do
        rm -rf "${dir:?}/$left"
    done
    rm -f "$dir/podman.sock" "$dir/oom" "$dir/pid" "$dir/log" "$dir/containers.conf" "$dir/storage.conf"
    rmdir "$dir" 2>/dev/null || true
}

[ $# = 2 ] || usage
dir=${2%/}
case $dir in
/*) ;;
*) fail "\`$2\` is not an absolute path" ;;
esac
[ "${#dir}" -le 70 ] || fail "\`$dir\` is too long for a unix socket; at most 70 characters"
export CONTAINERS_CONF="$dir/containers.conf" CONTAINERS_STORAGE_CONF="$dir/storage.conf"
case $1 in
start) start ;;
stop) stop ;;
*) usage ;;
esac
