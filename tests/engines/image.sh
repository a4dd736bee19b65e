#!/bin/sh
# Builds a small image without a registry: a static busybox and, where given, the files of a directory.
#
#   image.sh SOCKET NAME [DIRECTORY]
#
# SOCKET is a unix socket of a Docker or Podman engine, NAME is `repository[:tag]`; the contents of DIRECTORY go to `/`.
set -eu

fail() {
    echo "image.sh: $1" >&2
    exit 1
}

[ $# = 2 ] || [ $# = 3 ] || { echo "usage: $0 SOCKET NAME [DIRECTORY]" >&2; exit 2; }
socket=$1 name=$2 extra=${3:-}
[ -S "$socket" ] || fail "\`$socket\` is no socket; start an engine with \`dockerd.sh start DIR\`"
[ -z "$extra" ] || [ -d "$extra" ] || fail "\`$extra\` is no directory"
busybox=$(command -v busybox) || fail "missing: busybox; install it with \`apt-get install -y --no-install-recommends busybox-static\`"
if ldd "$busybox" >/dev/null 2>&1; then
    fail "\`$busybox\` is not static; install \`busybox-static\`"
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/etc" "$root/root" "$root/tmp" "$root/proc" "$root/sys" "$root/dev"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001:runner:/tmp:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nrunner:x:1001:\n' >"$root/etc/group"
[ -z "$extra" ] || cp -R "$extra/." "$root/"
tar -C "$root" --numeric-owner --owner=0 --group=0 -cf - . |
    docker -H "unix://$socket" import --change 'ENV PATH=/bin' --change 'CMD ["/bin/sh"]' - "$name" >/dev/null
echo "$name"
