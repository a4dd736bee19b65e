#!/usr/bin/env bash
# Makes sure that the real things the tests run against are there: a container engine, the image that its runners
# boot from, a browser. Says what it installs before it does. Exits 0 with what is missing on stdout, one word a line;
# with CI=true anything missing is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

PATH=$PATH:/usr/sbin:/sbin

# word, how its presence shows, the Debian package it comes from
engines="docker dockerd docker.io
docker busybox busybox-static
browser chromium chromium"

missing_packages() {
    while read -r _ command package; do
        # busybox may be there without its own libraries linked in, and the runner image is nothing but this file.
        if [ "$package" = busybox-static ]; then
            dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q 'ok installed' || echo "$package"
        else
            command -v "$command" >/dev/null || echo "$package"
        fi
    done <<<"$engines"
}

packages=$(missing_packages)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    list=$(echo $packages)
    say "installing Debian packages that the tests run against: apt-get install --no-install-recommends $list"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists as they are"
    # Nothing is started by the installation: the tests run daemons of their own, on sockets of their own.
    apt-get install -y -qq --no-install-recommends $list >&2 || say "apt-get could not install everything"
    packages=$(missing_packages)
fi

missing=""
for package in $packages; do
    word=$(awk -v package="$package" '$3 == package { print $1; exit }' <<<"$engines")
    say "missing: $package (on Debian: apt-get install $package)"
    missing="$missing $word"
done
if [ -z "$missing" ] && [ "$(id -u)" != 0 ]; then
    say "a private container engine needs root; run as root for those tests"
    missing=docker
fi
if [ -n "$missing" ] && in_ci; then
    fail "CI=true and not everything that the tests run against is here:$missing"
fi
tr ' ' '\n' <<<"$missing" | sed '/^$/d' | sort -u
