#!/usr/bin/env bash
# Debian's cloud-init in a folder of the build, to run in containers: installed, it would configure this machine at its
# next boot. With it come the packages that it needs and this machine has not.
#
#   cloud-init.sh fetch    downloads and unpacks it, 3 MB, if it is not there yet
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"

folder=$target_dir/engines/cloud-init

[ "${1:-}" = fetch ] || fail "usage: $0 fetch"
if [ -d "$folder/usr/lib/python3/dist-packages/cloudinit" ]; then exit 0; fi
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "cloud-init is fetched with apt-get and as root; unpack Debian's package into \`$folder\`"
say "downloading Debian's cloud-init into $folder (3 MB): the tests have it read what machines are given"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/partial" "$work/tree"
apt-get install -y -qq --download-only --no-install-recommends -o Dir::Cache::archives="$work" \
    -o APT::Sandbox::User=root cloud-init >&2
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/tree"; done
[ -d "$work/tree/usr/lib/python3/dist-packages/cloudinit" ] ||
    fail "apt-get downloaded no cloud-init; is it installed on this machine? then unpack its package into \`$folder\`"
mkdir -p "${folder%/*}"
# Whole or not at all; of two at once the first wins.
mv -T "$work/tree" "$folder" 2>/dev/null || [ -d "$folder" ]
