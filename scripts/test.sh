#!/usr/bin/env bash
# Runs every test: installs what they run against (it says what), builds what they run, runs them, and says at the
# end what could not be run and why. Arguments go to `cargo test`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
need_wasm_target

# On a person's machine this only says what is missing; the tests that want it then say so too.
scripts/ensure-engines.sh

scripts/plugins.sh
say "building the server and the simulator for the tests"
cargo build --locked --workspace

not_run=$(mktemp)
trap 'rm -f "$not_run"' EXIT
say "running the tests"
PACER_NOT_RUN=$not_run cargo test --locked --workspace "$@" || fail "tests failed, see above"

if grep '^LEFT' "$not_run" | sort >&2; then
    say "these were left to \`make test-engines\`, see above"
fi
if grep -q '^NOT RUN' "$not_run"; then
    say "these tests did NOT run:"
    grep '^NOT RUN' "$not_run" | sort >&2
    say "all tests that ran passed; $(grep -c '^NOT RUN' "$not_run") did not run"
else
    say "all tests ran and passed"
fi
