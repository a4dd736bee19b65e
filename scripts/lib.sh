# Shared by the scripts beside it; sourced, not run. Keeps to what a plain Debian has: no Python, no jq.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Where cargo puts things; absolute, because tests run in folders of their own.
target_dir=${CARGO_TARGET_DIR:-target}
case $target_dir in
/*) ;;
*) target_dir=$PWD/$target_dir ;;
esac
export CARGO_TARGET_DIR=$target_dir
# Daemons are there, which is not in everybody's path.
PATH=$PATH:/usr/sbin:/sbin

# The backends that come with pacer: folders of `plugins/`, and what their packages are called after.
backends=(docker ec2 hetzner incus libvirt simulated)
backend_packages=("${backends[@]/#/-ppacer-backend-}")

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

fail() {
    printf '\033[1;31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# CI says so with CI=true; there a missing engine is a failure.
in_ci() { [ "${CI:-}" = true ] || [ "${CI:-}" = 1 ]; }

need_cargo() {
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    command -v cargo >/dev/null || fail "cargo was not found; install Rust from https://rustup.rs and open a new shell"
    cargo --version >/dev/null 2>&1 || fail "rustup has no toolchain to run; choose one with \`rustup default stable\`"
    command -v cc >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "no C compiler was found; on Debian: apt-get install gcc libc6-dev"
    say "installing a C compiler, which Rust links with: apt-get install --no-install-recommends gcc libc6-dev"
    install_packages gcc libc6-dev
    command -v cc >/dev/null || fail "there still is no C compiler, see above"
}

# The backends are WebAssembly components; Rust's compiler has that target, but not installed by default.
need_wasm_target() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    [ -d "$sysroot/lib/rustlib/wasm32-wasip2" ] && return
    command -v rustup >/dev/null ||
        fail "Rust's target wasm32-wasip2 is missing and there is no rustup to add it; install the target the way your Rust was installed"
    say "installing Rust's target wasm32-wasip2, which the backends are compiled to: rustup target add wasm32-wasip2"
    rustup target add wasm32-wasip2
}

# The daemon is started by its service and not in the search path.
has_incus() {
    command -v incus >/dev/null &&
        { [ -x /usr/libexec/incus/incusd ] || [ -x /usr/lib/incus/incusd ] || command -v incusd >/dev/null; }
}

installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q 'ok installed'; }

# packages_for ENGINE: Debian's, of what it is made of.
packages_for() {
    case $1 in
    # A busybox that needs no libraries: the runners' image is nothing but this file and a script.
    docker) echo docker.io busybox-static ;;
    # Its runtime is Docker's.
    podman) echo podman docker.io busybox-static ;;
    incus) echo incus-base busybox-static ;;
    libvirt) echo libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils busybox-static ;;
    # The emulated cloud is a Python program in an environment of its own.
    ec2) echo python3-venv ;;
    # A double of it, and the simulator's own cloud.
    hetzner | simulated) ;;
    # What machines fetch their configuration with, what reads their documents, what looks at pages.
    machines) echo curl wget python3 ;;
    browser) echo chromium ;;
    esac
}

# is_here PACKAGE: it, or what it is wanted for from somewhere else.
is_here() {
    case $1 in
    docker.io) command -v dockerd >/dev/null && command -v docker >/dev/null ;;
    libvirt-daemon | libvirt-daemon-driver-qemu) command -v libvirtd >/dev/null ;;
    libvirt-clients) command -v virsh >/dev/null ;;
    qemu-system-x86) command -v qemu-system-x86_64 >/dev/null ;;
    qemu-utils) command -v qemu-img >/dev/null ;;
    incus-base) has_incus ;;
    python3-venv) command -v moto_server >/dev/null || python3 -c 'import venv, ensurepip' 2>/dev/null ;;
    # The one that Debian's own modules are for.
    python3) [ -x /usr/bin/python3 ] ;;
    chromium | curl | wget | podman) command -v "$1" >/dev/null ;;
    *) installed "$1" ;;
    esac
}

# missing_packages ENGINE…: one a line.
missing_packages() {
    local engine package
    for engine in "$@"; do
        for package in $(packages_for "$engine"); do is_here "$package" || echo "$package"; done
    done | sort -u
}

apt_install() { apt-get install -y -qq --no-install-recommends "$@" || say "apt-get could not install: $*"; }

# Has apt know the backports of this release, and prints their name. Nobody's machine but CI's gets a new source.
backports() {
    local release suite targets site
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    suite=$release-backports
    # shellcheck disable=SC2016 # apt's own words
    targets=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages')
    if ! grep -q "^$suite main " <<<"$targets"; then
        site=$(awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }' <<<"$targets")
        in_ci && [ -n "$site" ] || return 1
        say "adding $suite to apt's sources: /etc/apt/sources.list.d/$suite.list"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" \
            >"/etc/apt/sources.list.d/$suite.list"
        apt-get update -qq >&2 || return 1
    fi
    echo "$suite"
}

# install_packages NAME…: Debian's. Each group by itself: where one is not to be had, the others are of use.
install_packages() {
    local name suite plain=()
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "apt-get update failed; trying with the package lists as they are"
    for name in "$@"; do
        case $name in
        qemu-* | incus-base) ;;
        *) plain+=("$name") ;;
        esac
    done
    [ "${#plain[@]}" = 0 ] || apt_install "${plain[@]}"
    case " $* " in
    *" qemu-"*)
        # Its parts go together only when they are of one release, and a machine may have some from the backports.
        case $(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null) in
        *~bpo*) suite=$(backports) || say "qemu-utils is from the backports, which apt does not know" ;;
        *) suite='' ;;
        esac
        apt_install ${suite:+-t "$suite"} qemu-system-x86 qemu-utils
        ;;
    esac
    case " $* " in
    *" incus-base "*)
        # Debian 12 has it in its backports only.
        apt-cache show incus-base >/dev/null 2>&1 || backports >/dev/null ||
            say "apt does not know incus-base; on Debian 12 add the backports to its sources"
        apt_install incus-base
        ;;
    esac
}
