#!/usr/bin/env bash
# Kills the server at random moments under load, again and again, and looks at what is left after it has settled.
# SOAK_KILLS (200) moments, SOAK_SEED (printed) to repeat a run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
scripts/plugins.sh
cargo build --locked --release -p pacer -p pacer-tests
PACER_BIN=$target_dir/release/pacer exec "$target_dir/release/pacer-soak" --kills "${SOAK_KILLS:-200}" ${SOAK_SEED:+--seed "$SOAK_SEED"}
