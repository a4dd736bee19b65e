#!/bin/sh
# A tiny guest for virtual machines: a Debian kernel, a busybox, and an init that stands in for cloud-init. It mounts the
# seed, shows its meta-data on the serial console, and runs its user-data if that is a script. Then it stays on until
# `poweroff` tells its init to go down; without a script it goes down at once. It goes down early when its power button is
# pressed, unless it has a file `/etc/deaf`.
#
#   guest.sh fetch      downloads the kernel's package (30 MB) if it is not in the build's folder yet
#   guest.sh build DIR [FILES]  makes DIR/vmlinuz and DIR/initramfs, the latter with what is in the folder FILES
#
# Its network is QEMU's own: the host's loopback interface is 10.0.2.2.
set -eu

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
    echo "guest.sh: $1" >&2
    exit 1
}

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${CARGO_TARGET_DIR:-$root/target}/engines/kernel
# What the guest needs of a kernel that has everything as modules; in the order in which they are loaded.
modules="drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk drivers/cdrom/cdrom fs/isofs/isofs
drivers/input/evdev drivers/acpi/button net/core/failover drivers/net/net_failover drivers/net/virtio_net"

fetch() {
    [ ! -f "$cache/vmlinuz" ] || [ ! -f "$cache/modules/virtio_net.ko" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "a kernel is fetched with apt-get, which is not here; put \`vmlinuz\` and its modules into \`$cache\`"
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt knows no kernel for clouds; run \`apt-get update\`"
    echo "guest.sh: downloading a kernel for guests, Debian's $package (30 MB), into $cache" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" >&2 && dpkg-deb -x ./*.deb tree) ||
        fail "the package \`$package\` cannot be downloaded"
    # Beside its place, so that it appears there whole or not at all; of two at once the first wins.
    mkdir -p "${cache%/*}"
    new=$(mktemp -d "$cache.XXXXXX")
    mkdir "$new/modules"
    cp "$work"/tree/boot/vmlinuz-* "$new/vmlinuz"
    for module in $modules; do cp "$work"/tree/lib/modules/*/kernel/"$module".ko "$new/modules/"; done
    chmod 755 "$new"
    # One of another version of this script makes way.
    [ -f "$cache/modules/virtio_net.ko" ] || rm -rf "$cache"
    mv -T "$new" "$cache" 2>/dev/null || rm -rf "$new"
}

build() {
    out=$1 files=${2:-}
    [ -f "$cache/vmlinuz" ] || fail "there is no kernel for the guest; \`$0 fetch\` downloads one"
    busybox=$(command -v busybox) || fail "missing: busybox; install it with \`apt-get install -y --no-install-recommends busybox-static\`"
    if ldd "$busybox" >/dev/null 2>&1; then
        fail "\`$busybox\` is not static; install \`busybox-static\`"
    fi
    mkdir -p "$out"
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree/bin" "$tree/modules" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/seed" "$tree/tmp" \
        "$tree/run" "$tree/etc" "$tree/root" "$tree/home"
    printf 'root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001:runner:/tmp:/bin/sh\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nrunner:x:1001:\n' >"$tree/etc/group"
    chmod 755 "$tree"
    chmod 1777 "$tree/tmp"
    [ -z "$files" ] || cp -R "$files/." "$tree/"
    cp "$busybox" "$tree/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
    done
    for module in $modules; do cp "$cache/modules/${module##*/}.ko" "$tree/modules/"; done
    cat >"$tree/init" <<'END'
#!/bin/sh
PATH=/bin
# What busybox's `poweroff` sends to its init.
trap 'echo "guest: told to power off"; poweroff -f' USR2
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
END
    for module in $modules; do echo "insmod /modules/${module##*/}.ko" >>"$tree/init"; done
    cat >>"$tree/init" <<'END'
[ -e /etc/deaf ] || for event in /dev/input/event*; do
    (head -c 1 "$event" >/dev/null && echo "guest: power button" && poweroff -f) &
done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
for device in /dev/vd*; do mount -o ro -t iso9660 "$device" /seed 2>/dev/null && break; done
echo "guest: seed has" $(ls /seed)
sed 's/^/guest: /' /seed/meta-data
if [ "$(head -c 2 /seed/user-data)" = '#!' ]; then
    cp /seed/user-data /tmp/script
    chmod 700 /tmp/script
    # A signal is heard while a child in the background is waited for.
    /tmp/script &
    wait $!
    echo "guest: script ended with $?"
    while :; do
        sleep 60 &
        wait $!
    done
fi
poweroff -f
END
    chmod 755 "$tree/init"
    (cd "$tree" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$out/initramfs"
    cp "$cache/vmlinuz" "$out/vmlinuz"
    chmod 644 "$out/initramfs" "$out/vmlinuz"
}

case ${1:-} in
fetch) fetch ;;
build) { [ $# = 2 ] || [ $# = 3 ]; } && build "$2" "${3:-}" || { echo "usage: $0 fetch | build DIR [FILES]" >&2; exit 2; } ;;
*) echo "usage: $0 fetch | build DIR [FILES]" >&2; exit 2 ;;
esac
