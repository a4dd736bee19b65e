#!/usr/bin/env bash
# Everything that can be said about the sources without running them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
need_wasm_target

say "formatting"
cargo fmt --all --check

say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo clippy --locked --target wasm32-wasip2 -p pacer-backend "${backend_packages[@]}" -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

say "house rules"
scripts/tidy.sh

if in_ci && ! command -v cargo-deny >/dev/null; then
    # Unoptimised: it is built in a fraction of the time, and looks through the lock file in seconds all the same.
    say "installing cargo-deny, which checks the dependencies: cargo install --locked --debug cargo-deny"
    cargo install --locked --debug --quiet cargo-deny
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
if command -v cargo-deny >/dev/null; then
    say "dependencies"
    # Advisories are left out: they come from a database on the network that changes without us.
    cargo deny --locked check bans licenses sources
else
    not_checked="dependencies, because cargo-deny is not installed (cargo install --locked cargo-deny)"
    say "dependencies: NOT CHECKED"
fi
say "all checks passed${not_checked:+, except: $not_checked}"
