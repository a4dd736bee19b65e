#!/bin/sh
# A private libvirt daemon for tests: own data, own socket, no root, nothing of the machine's touched.
#
#   libvirtd.sh start DIR    starts it and prints the path of its socket
#   libvirtd.sh stop DIR     ends it with its machines and removes what it left
#
# DIR is an absolute path of at most 40 characters (a unix socket's path has 107, and QEMU's lie deep below).
# It is a session daemon: `qemu:///session` and `test:///default` are behind its socket. Started by root it runs as
# `nobody`, so it has no hardware acceleration. Its storage pool `default` is a directory of DIR; it has no networks.
# A file DIR/listen.conf that is there before is part of its configuration, and has it listen on the ports that it says.
set -eu

# The first start asks QEMU what it can do, which takes seconds; a busy machine takes longer.
PATIENCE_SECONDS=90
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

# ask COMMAND…: the engine's own client.
ask() {
    virsh -q -c "qemu+unix:///session?socket=$dir/libvirt-sock" "$@"
}

mine() {
    command_line "$1" | grep -q "libvirtd.*--config $dir/libvirtd.conf "
}

# machines: the QEMU processes that belong to DIR.
machines() {
    for process in /proc/[0-9]*; do
        if command_line "${process#/proc/}" | grep -q "qemu-system.*$dir/"; then
            echo "${process#/proc/}"
        fi
    done 2>/dev/null
}

start() {
    case $dir in
    *[!A-Za-z0-9/._-]*) fail "\`$dir\` has characters that a daemon's configuration would have to quote" ;;
    esac
    need "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils" \
        libvirtd virsh qemu-img setpriv
    alone
    mkdir -p "$dir/pool" "$dir/home" "$dir/run" "$dir/cache" "$dir/data" "$dir/config/libvirt"
    cat >"$dir/libvirtd.conf" <<END
unix_sock_dir = "$dir"
auth_unix_ro = "none"
auth_unix_rw = "none"
END
    listen=
    if [ -f "$dir/listen.conf" ]; then
        cat "$dir/listen.conf" >>"$dir/libvirtd.conf"
        listen=--listen
    fi
    # Without cgroups, security labels and a log daemon it needs nothing of the machine.
    cat >"$dir/config/libvirt/qemu.conf" <<END
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END
    as=
    if [ "$(id -u)" = 0 ]; then
        as="setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs"
        chown -R 65534:65534 "$dir"
    fi
    # `setsid` keeps a Ctrl-C of the caller's terminal from ending it before its machines are removed.
    # shellcheck disable=SC2086
    (cd "$dir" && exec setsid env -i PATH="$PATH" HOME="$dir/home" XDG_RUNTIME_DIR="$dir/run" XDG_CACHE_HOME="$dir/cache" \
        XDG_DATA_HOME="$dir/data" XDG_CONFIG_HOME="$dir/config" $as \
        libvirtd $listen --config "$dir/libvirtd.conf" --pid-file "$dir/pid") >"$dir/log" 2>&1 </dev/null &
    pid=$!
    await "$dir/log" ask uri
    ask pool-list --name | grep -qx default ||
        ask pool-create-as default dir --target "$dir/pool" >/dev/null || { stop; fail "no storage pool"; }
    echo "$dir/libvirt-sock"
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        end "$pid"
    fi
    # Machines outlive their daemon.
    for machine in $(machines); do
        kill -9 "$machine" 2>/dev/null || true
    done
    rm -rf "$dir"
}

daemon 40 "$@"
