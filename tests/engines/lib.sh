# shellcheck shell=sh
# Shared by the scripts beside it; sourced, not run. Plain sh.
#
# A script that starts an engine defines `start` and `stop` and, with `mine PID`, how to know a process of DIR from a
# stranger that got its number. Then it calls `daemon LONGEST "$@"`.

# A cold engine answers within a second; a busy machine takes longer.
PATIENCE_SECONDS=${PATIENCE_SECONDS:-60}
# Machines were removed before, so that an engine has little left to wait for.
STOP_SECONDS=${STOP_SECONDS:-20}

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}

usage() {
    echo "usage: $0 start|stop DIR" >&2
    exit 2
}

# need_root VARIABLE: VARIABLE names an engine that somebody else started.
need_root() {
    [ "$(id -u)" = 0 ] || fail "this engine needs root; run this as root, or set $1 to the socket of an engine you may use"
}

# need PACKAGES TOOL…: fails with what to install where a tool is missing.
need() {
    packages=$1
    shift
    missing=
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
    [ -z "$missing" ] || fail "missing:$missing; install them with \`apt-get install -y --no-install-recommends $packages\`"
}

# command_line PID: the words of a process, each followed by a space.
command_line() {
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null
}

# alone: fails where an engine of DIR runs already.
alone() {
    if [ -f "$dir/pid" ] && mine "$(cat "$dir/pid")"; then
        fail "an engine of \`$dir\` runs already; stop it with \`$0 stop $dir\`"
    fi
}

# await LOG COMMAND…: until the command succeeds. Fails when the engine, whose number is in DIR/pid or in `pid`, ends.
await() {
    log=$1
    shift
    waited=0
    until "$@" >/dev/null 2>&1; do
        engine=${pid:-$(cat "$dir/pid" 2>/dev/null || true)}
        if [ -n "$engine" ] && ! kill -0 "$engine" 2>/dev/null; then
            tail -n 5 "$log" >&2
            fail "the engine ended at its start; its whole log is \`$log\`"
        fi
        [ "$waited" -lt $((PATIENCE_SECONDS * 10)) ] || {
            stop
            fail "no answer within $PATIENCE_SECONDS s"
        }
        waited=$((waited + 1))
        sleep 0.1
    done
}

# end PID: asks a process to end, waits, and ends it by force when it does not.
end() {
    kill "$1" 2>/dev/null || true
    waited=0
    while kill -0 "$1" 2>/dev/null && [ "$waited" -lt $((STOP_SECONDS * 10)) ]; do
        waited=$((waited + 1))
        sleep 0.1
    done
    if kill -0 "$1" 2>/dev/null; then
        echo "${0##*/}: ended by force after $STOP_SECONDS s" >&2
        kill -9 "$1" 2>/dev/null || true
    fi
}

# unmount: everything mounted below DIR, deepest first; a removal must never reach through a mount.
unmount() {
    awk -v under="$dir/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount" || true
    done
}

# daemon LONGEST start|stop DIR: does it. DIR has at most LONGEST characters.
daemon() {
    longest=$1
    shift
    [ $# = 2 ] || usage
    dir=${2%/}
    case $dir in
    /*) ;;
    *) fail "\`$2\` is not an absolute path" ;;
    esac
    [ "${#dir}" -le "$longest" ] || fail "\`$dir\` is too long for a unix socket; at most $longest characters"
    case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
    esac
}

# busybox_root ROOT EXTRA: fills ROOT with a static busybox, and with the files of the directory EXTRA where it is given.
busybox_root() {
    busybox=$(command -v busybox) ||
        fail "missing: busybox; install it with \`apt-get install -y --no-install-recommends busybox-static\`"
    if ldd "$busybox" >/dev/null 2>&1; then
        fail "\`$busybox\` is not static; install \`busybox-static\`"
    fi
    for folder in bin sbin etc root tmp run proc sys dev; do
        mkdir -p "$1/$folder"
    done
    chmod 1777 "$1/tmp"
    cp "$busybox" "$1/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001:runner:/tmp:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nrunner:x:1001:\n' >"$1/etc/group"
    [ -z "$2" ] || cp -R "$2/." "$1/"
}
