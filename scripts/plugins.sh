#!/usr/bin/env bash
# Builds the backends that come with pacer into plugins/*.wasm.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
need_wasm_target

cargo build --locked --profile plugin --target wasm32-wasip2 "${backend_packages[@]}"

for backend in "${backends[@]}"; do
    built=$target_dir/wasm32-wasip2/plugin/pacer_backend_$backend.wasm
    # An unchanged file stays untouched, and a changed one appears whole: a running server watches this folder.
    if ! cmp -s "$built" "plugins/$backend.wasm"; then
        cp "$built" "plugins/.$backend.wasm.new"
        mv "plugins/.$backend.wasm.new" "plugins/$backend.wasm"
    fi
    say "plugins/$backend.wasm ($(wc -c <"plugins/$backend.wasm") bytes)"
done
