#!/bin/sh
# Builds a small image without a registry: a static busybox and, where given, the files of a directory.
#
#   image.sh SOCKET NAME [DIRECTORY]
#
# SOCKET is a unix socket of a Docker or Podman engine, NAME is `repository[:tag]`; the contents of DIRECTORY go to `/`.
set -eu
# shellcheck source=tests/engines/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# = 2 ] || [ $# = 3 ] || { echo "usage: $0 SOCKET NAME [DIRECTORY]" >&2; exit 2; }
socket=$1 name=$2 extra=${3:-}
[ -S "$socket" ] || fail "\`$socket\` is no socket; start an engine with \`dockerd.sh start DIR\`"
[ -z "$extra" ] || [ -d "$extra" ] || fail "\`$extra\` is no directory"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
busybox_root "$root" "$extra"
tar -C "$root" --numeric-owner --owner=0 --group=0 -cf - . |
    docker -H "unix://$socket" import --change 'ENV PATH=/bin' --change 'CMD ["/bin/sh"]' - "$name" >/dev/null
echo "$name"
