#!/usr/bin/env bash
# Makes sure that the real things the tests run against are there: a container engine, what its runners' image is made
# of, a daemon for virtual machines with a kernel for its guests, cloud-init, Incus, an emulated cloud, a browser. Says what
# it installs before it does. What stays missing is said; with CI=true it is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Podman is for `make test-engines` alone.
engines="docker incus libvirt ec2 machines browser"

# shellcheck disable=SC2086 # a list of words
packages=$(missing_packages $engines | tr '\n' ' ')
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian packages that the tests run against: apt-get install --no-install-recommends $packages"
    # Nothing has to be started by the installation: the tests run daemons of their own, on sockets of their own.
    # shellcheck disable=SC2086 # a list of words
    install_packages $packages
    packages=$(missing_packages $engines | tr '\n' ' ')
fi

kernel=""
tests/engines/guest.sh fetch || kernel="a kernel for guests (tests/engines/guest.sh fetch)"

cloud_init=""
tests/engines/cloud-init.sh fetch || cloud_init="cloud-init (tests/engines/cloud-init.sh fetch)"

moto=""
tests/engines/moto.sh install || moto="moto_server (python3 -m venv target/moto && target/moto/bin/pip install 'moto[server,ec2]')"

problem=""
for thing in "$moto" "$kernel" "$cloud_init"; do
    [ -z "$thing" ] || problem="${problem:+$problem; }missing: $thing"
done
[ -z "$packages" ] || problem="${problem:+$problem; }missing Debian packages: $packages(apt-get install $packages)"
[ "$(id -u)" = 0 ] || problem="${problem:+$problem; }a private container engine needs root, and this is not root"
[ -n "$problem" ] || exit 0
in_ci && fail "CI=true and not everything that the tests run against is here: $problem"
say "tests that want what is not here will say that they did not run: $problem"
