#!/usr/bin/env bash
# Measures the promised figures in a release build and prints them with the machine they were measured on.
# `--strict` fails when one is missed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
scripts/build.sh
cargo build --locked --release -p pacer-bench
exec "$target_dir/release/pacer-bench" "$@"
