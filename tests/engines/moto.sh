#!/usr/bin/env bash
# moto, an emulation of AWS that keeps instances, tags and templates, and checks signatures where it is told to.
#
#   moto.sh install      makes sure that there is one: on the PATH, or in an environment of its own in the build's folder
#   moto.sh start DIR    starts it on a port of the loopback and prints its address; with INITIAL_NO_AUTH_ACTION_COUNT=n
#                        it checks signatures from the next request after n on
#   moto.sh stop DIR     ends it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

# The version the tests were written against.
WANTED='moto[server,ec2]==5.2.1'
folder=$target_dir/moto
program=$folder/bin/moto_server
[ -x "$program" ] || program=$(command -v moto_server || true)

install() {
    [ -z "$program" ] || return 0
    say "installing $WANTED into $folder (about 320 MB): the tests sign requests for it"
    rm -rf "$folder"
    if ! { python3 -m venv "$folder" && "$folder/bin/pip" install --quiet "$WANTED"; }; then
        rm -rf "$folder"
        return 1
    fi
}

if [ $# = 1 ] && [ "$1" = install ]; then
    install
    exit
fi

# It loads a large library before it listens.
PATIENCE_SECONDS=120
. "$here/lib.sh"

mine() {
    [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$dir" ]
}

address() {
    sed -n 's|.*Running on http://\(127\.0\.0\.1:[0-9]*\).*|\1|p' "$dir/log" | grep .
}

start() {
    [ -n "$program" ] || fail "there is no moto_server; \`$0 install\` installs it"
    alone
    mkdir -p "$dir"
    # By itself it makes instances of any image and of any type.
    export MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION=true MOTO_ENABLE_AMI_VALIDATION=1
    (cd "$dir" && exec setsid "$program" -H 127.0.0.1 -p 0) >"$dir/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/pid"
    await "$dir/log" address
    address
}

stop() {
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && mine "$pid"; then
        end "$pid"
    fi
    rm -f "$dir/pid" "$dir/log"
    rmdir "$dir" 2>/dev/null || true
}

daemon 100 "$@"
