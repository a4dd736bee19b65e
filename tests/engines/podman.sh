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
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

mine() {
    command_line "$1" | grep -q "podman system service .*unix://$dir/podman.sock"
}

# settings: where Podman finds what it is told of DIR.
settings() {
    export CONTAINERS_CONF="$dir/containers.conf" CONTAINERS_STORAGE_CONF="$dir/storage.conf"
}

start() {
    settings
    need_root PACER_TEST_DOCKER
    need "podman docker.io" podman runc docker
    mkdir -p "$dir"
    alone
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
    await "$dir/log" docker -H "unix://$dir/podman.sock" version
    echo "$dir/podman.sock"
}

stop() {
    settings
    if [ -f "$dir/storage.conf" ]; then
        podman rm --all --force --time 0 >/dev/null 2>&1 || true
    fi
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        end "$pid"
    fi
    unmount
    for left in data run tmp; do
        rm -rf "${dir:?}/$left"
    done
    rm -f "$dir/podman.sock" "$dir/oom" "$dir/pid" "$dir/log" "$dir/containers.conf" "$dir/storage.conf"
    rmdir "$dir" 2>/dev/null || true
}

daemon 70 "$@"
