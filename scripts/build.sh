#!/usr/bin/env bash
# Builds the server and the backends for use.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
scripts/plugins.sh
cargo build --locked --release -p pacer
say "$target_dir/release/pacer"
