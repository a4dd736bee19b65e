#!/usr/bin/env bash
# Holds every backend to the contract on its real engine and puts it through every scenario, with a server between a
# simulated GitHub and the engine: installs the engine (it says what), starts it privately, runs the suites, ends it. ENGINE=docker makes one of them alone. What cannot run is said; with CI=true it is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
need_wasm_target

# In the order of how long they take.
engines="simulated hetzner ec2 podman docker incus libvirt"

wanted=${ENGINE:-$engines}
for engine in $wanted; do
    case " $engines " in
    *" $engine "*) ;;
    *) fail "ENGINE is \`$engine\`; there are $engines" ;;
    esac
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    for engine in $wanted; do
        mapfile -t missing < <(missing_packages "$engine")
        [ "${#missing[@]}" -gt 0 ] || continue
        say "installing Debian packages that $engine is made of: ${missing[*]}"
        install_packages "${missing[@]}"
    done
fi

case " $wanted " in
*" ec2 "*) tests/engines/moto.sh install || say "moto could not be installed" ;;
esac
case " $wanted " in
*" libvirt "*) tests/engines/guest.sh fetch || say "there is no kernel for guests" ;;
esac

scripts/plugins.sh
say "building the server and the suites"
cargo build --locked -p pacer
cargo test --locked -p pacer-contract --no-run

not_run=$(mktemp)
trap 'rm -f "$not_run"' EXIT
failed=()
for engine in $wanted; do
    say "the contract and the scenarios on $engine"
    ENGINE=$engine PACER_NOT_RUN=$not_run \
        cargo test --locked -p pacer-contract --test main -- "${engine}_" --nocapture || failed+=("$engine")
done
if [ -s "$not_run" ]; then
    say "these did NOT run:"
    sort "$not_run" >&2
fi
[ "${#failed[@]}" = 0 ] || fail "something is broken on: ${failed[*]}; see above"
say "the contract and the scenarios hold on: $wanted$([ ! -s "$not_run" ] || echo ' (as far as they ran)')"
