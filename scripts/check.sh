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
cargo clippy --locked --target wasm32-wasip2 -p pacer-backend -p pacer-backend-docker -p pacer-backend-simulated -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

say "house rules"
scripts/tidy.sh

if command -v cargo-deny >/dev/null; then
    say "dependencies"
    # Advisories are left out: they come from a database on the network that changes without us.
    cargo deny --locked check bans licenses sources
else
    say "dependencies: NOT CHECKED, cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
say "all checks passed"
