#!/usr/bin/env bash
# House rules that no lint knows: who may name which library, and what never stands in the tree.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# `broken_by` ends pipelines and must set a variable of this shell.
shopt -s lastpipe
broken=0
# broken_by RULE: fails with the lines on stdin, if there are any.
broken_by() {
    local lines
    lines=$(cat)
    [ -n "$lines" ] || return 0
    printf '\n%s\n%s\n' "$1" "$lines" >&2
    broken=1
}

# Sources of the server that match a pattern, but for those under the folders named after it.
server_lines() {
    local pattern=$1
    shift
    local excluded=()
    for folder in "$@"; do excluded+=(":!$folder"); done
    git grep -nE "$pattern" -- 'host/src/*.rs' "${excluded[@]}" || true
}

server_lines '\bwasmtime(_wasi|_wasi_http)?::' host/src/plugins |
    broken_by 'Only host/src/plugins knows wasmtime: everything a backend can do goes through one place.'
server_lines '\bsqlx::' host/src/store |
    broken_by 'Only host/src/store knows sqlx.'
server_lines '\breqwest::' host/src/github |
    broken_by 'Only host/src/github knows reqwest; backends reach out through host/src/plugins.'
server_lines '\bserde_saphyr::' host/src/config |
    broken_by 'Only host/src/config knows that the configuration is YAML.'
server_lines '\bmaud::' host/src/console |
    broken_by 'Only host/src/console renders HTML.'
git grep -n 'pacer_simulator' -- 'host/*' 'plugins/*' ':!plugins/*/tests.rs' ':!plugins/*/tests/*' |
    broken_by 'Only tests know the simulator, production code never does.' || true
git grep -nE '#!?\[allow\(' -- '*.rs' |
    broken_by 'An exception from a lint is #[expect(…, reason = "…")].' || true
git grep -nE '#\[ignore' -- '*.rs' |
    broken_by 'No test is ignored: it runs, or it says loudly why it cannot.' || true
git grep -nE '\b(TODO|FIXME|XXX)\b' -- '*.rs' '*.sh' '*.toml' '*.yaml' '*.md' ':!scripts/tidy.sh' |
    broken_by 'Nothing is left for later in the tree.' || true
git grep -nE '/(work|tmp)/(wt|shared|main)\b|/root/' -- . ':!scripts/tidy.sh' |
    broken_by 'No path of anybody'"'"'s machine stands in the tree.' || true
git ls-files -z '*.rs' | xargs -0 awk 'FNR == 801 { print FILENAME ": more than 800 lines" }' |
    broken_by 'A file is read in one sitting: split it.'

# Every source file says what it is for.
git ls-files 'host/src/*.rs' 'tests/*.rs' 'plugins/*.rs' ':!*tests.rs' | while read -r file; do
    head -n 1 "$file" | grep -q "^//! ." || echo "$file"
done | broken_by 'A module starts with //! and says what it is for, what must hold and what is not here.'

[ "$broken" = 0 ] || fail "house rules are broken, see above"
