# Shared by the scripts beside it; sourced, not run. Keeps to what a plain Debian has: no Python, no jq.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Where cargo puts things; absolute, because tests run in folders of their own.
target_dir=${CARGO_TARGET_DIR:-target}
case $target_dir in
/*) ;;
*) target_dir=$PWD/$target_dir ;;
esac
export CARGO_TARGET_DIR=$target_dir

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
    command -v cc >/dev/null || fail "no C compiler was found; on Debian: apt-get install gcc"
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

# Has apt know where incus is: Debian 12 has it in its backports only. Nobody's machine but CI's gets a new source.
know_incus() {
    apt-cache show incus-base >/dev/null 2>&1 && return
    local release site
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    site=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
    if [ -z "$release" ] || [ -z "$site" ] || ! in_ci; then
        say "apt does not know incus-base; on Debian 12 add the suite $release-backports to apt's sources"
        return
    fi
    say "adding $release-backports to apt's sources, which has incus: /etc/apt/sources.list.d/$release-backports.list"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release-backports main" \
        >"/etc/apt/sources.list.d/$release-backports.list"
    apt-get update -qq || say "apt-get update failed; trying with the package lists as they are"
}
