#!/usr/bin/env bash
# Makes sure that the real things the tests run against are there: a container engine, what its runners' image is made
# of, a daemon for virtual machines with a kernel for its guests, Incus, an emulated cloud, a browser. Says what it
# installs before it does. What stays missing is said; with CI=true it is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

missing_packages() {
    command -v dockerd >/dev/null && command -v docker >/dev/null || echo docker.io
    # A busybox that needs no libraries: the runners' image is nothing but this file and a script.
    dpkg-query -W -f '${Status}\n' busybox-static 2>/dev/null | grep -q 'ok installed' || echo busybox-static
    command -v chromium >/dev/null || echo chromium
    # What machines fetch their configuration with.
    for client in curl wget; do command -v "$client" >/dev/null || echo "$client"; done
    # A daemon for virtual machines, and what emulates them.
    command -v libvirtd >/dev/null || echo libvirt-daemon libvirt-daemon-driver-qemu
    command -v virsh >/dev/null || echo libvirt-clients
    # The emulated cloud is a Python program in an environment of its own.
    command -v moto_server >/dev/null || python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    has_incus || echo incus-base
    command -v qemu-system-x86_64 >/dev/null && command -v qemu-img >/dev/null || echo qemu-system-x86 qemu-utils
}

packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian packages that the tests run against: apt-get install --no-install-recommends $packages"
    # Nothing has to be started by the installation: the tests run daemons of their own, on sockets of their own.
    # shellcheck disable=SC2086 # a list of words
    install_packages $packages
    packages=$(missing_packages | tr '\n' ' ')
fi

tests/engines/guest.sh fetch || say "there is no kernel for guests"

moto=""
tests/engines/moto.sh || moto="moto_server (python3 -m venv target/moto && target/moto/bin/pip install 'moto[server,ec2]')"

problem=""
[ -z "$moto" ] || problem="missing: $moto"
[ -z "$packages" ] || problem="${problem:+$problem; }missing Debian packages: $packages(apt-get install $packages)"
[ "$(id -u)" = 0 ] || problem="${problem:+$problem; }a private container engine needs root, and this is not root"
[ -n "$problem" ] || exit 0
in_ci && fail "CI=true and not everything that the tests run against is here: $problem"
say "tests that want what is not here will say that they did not run: $problem"
