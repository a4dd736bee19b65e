#!/bin/sh
# Builds a small image for incus without an image server: a static busybox and, where given, the files of a directory.
#
#   incus-image.sh SOCKET ALIAS [DIRECTORY]
#
# SOCKET is an incus' unix socket; the contents of DIRECTORY go to `/`. The machine's first process, `/sbin/init`, is a
# shell that reads `/etc/start` where there is one, and ends when it is asked to.
set -eu
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# = 2 ] || [ $# = 3 ] || { echo "usage: $0 SOCKET ALIAS [DIRECTORY]" >&2; exit 2; }
socket=$1 alias=$2 extra=${3:-}
[ -S "$socket" ] || fail "\`$socket\` is no socket; start an incus with \`incusd.sh start DIR\`"
[ -z "$extra" ] || [ -d "$extra" ] || fail "\`$extra\` is no directory"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/rootfs
busybox_root "$root" ""
# A shell as first process gets only the signals that it traps; SIGPWR is how a container is asked to stop.
cat >"$root/sbin/init" <<'INIT'
#!/bin/sh
trap 'echo asked to stop; exit 0' PWR INT TERM
[ ! -f /etc/start ] || . /etc/start
sleep 3600 &
wait
INIT
chmod 0755 "$root/sbin/init"
[ -z "$extra" ] || cp -R "$extra/." "$root/"
printf 'architecture: %s\ncreation_date: 1\nproperties:\n  description: busybox for tests\n  os: busybox\n' \
    "$(uname -m)" >"$work/metadata.yaml"
tar -C "$work" --numeric-owner --owner=0 --group=0 -czf "$work/image.tar.gz" metadata.yaml rootfs
# The client talks to the socket of a directory.
INCUS_DIR=$(dirname "$socket") INCUS_CONF="$work/client" timeout 60 \
    incus --quiet image import "$work/image.tar.gz" --alias "$alias" </dev/null >/dev/null
echo "$alias"
