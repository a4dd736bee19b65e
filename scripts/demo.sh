#!/usr/bin/env bash
# Runs pacer against a simulated GitHub and a simulated cloud, and keeps jobs flowing until Ctrl-C, or for
# DEMO_SECONDS. Exits with 1 if a job was not served. Nothing is left behind.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
need_wasm_target

seconds=${DEMO_SECONDS:-}
case $seconds in
'' | *[!0-9]*) [ -z "$seconds" ] || fail "DEMO_SECONDS is \`$seconds\`; give whole seconds, or nothing to run until Ctrl-C" ;;
esac

say "building the server, the simulator and the backends; the first time this takes some minutes"
scripts/plugins.sh
cargo build --locked --release -p pacer -p pacer-simulator

folder=$(mktemp -d "${TMPDIR:-/tmp}/pacer-demo.XXXXXX")
server='' simulator=''
clean_up() {
    [ -z "$simulator" ] || kill -TERM "$simulator" 2>/dev/null || true
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap clean_up EXIT

# A port that nobody listens on now. Which one is a matter of chance, so that two demos get along.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}
port=$(free_port) github_port=$(free_port) cloud_port=$(free_port)
secret=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')

cat >"$folder/config.yaml" <<YAML
server: { addr: "127.0.0.1:$port", public_url: "http://127.0.0.1:$port" }
github:
  app_id: 123456
  private_key_path: gh-app.pem
  webhook_secret: file:secret
  api_url: "http://127.0.0.1:$github_port"
database: { url: "sqlite:pacer.db" }
plugins: { dir: "$PWD/plugins" }
auth: { disabled: true }
backends:
  cloud: { plugin: simulated, endpoints: { cloud: "http://127.0.0.1:$cloud_port" } }
projects:
  - name: demo
    scope: repo
    repos: [octocat/hello-world, octocat/spoon-knife]
    pools:
      - { name: small, backend: cloud, default: true, labels: [linux, x64], max_runners: 20, timeouts: { idle: 5s } }
      - { name: large, backend: cloud, labels: [linux, x64, gpu], max_runners: 5, timeouts: { idle: 5s } }
YAML
(umask 077 && printf %s "$secret" >"$folder/secret")

# Children in process groups of their own: Ctrl-C reaches this script alone, which ends them in order.
set -m
SIMULATOR_WEBHOOK_SECRET=$secret "$target_dir/release/pacer-simulator" serve \
    --listen "127.0.0.1:$github_port" --cloud "127.0.0.1:$cloud_port" \
    --webhook "http://127.0.0.1:$port/api/webhook" --key-out "$folder/gh-app.pem" \
    --repo octocat/hello-world --repo octocat/spoon-knife \
    --labels 'self-hosted,linux;self-hosted,demo,linux,x64;self-hosted,large,gpu' \
    --rate 2 --duration-ms 1000..6000 --boot-ms 300..1500 ${seconds:+--for "$seconds"} &
simulator=$!
until [ -s "$folder/gh-app.pem" ]; do
    kill -0 "$simulator" 2>/dev/null || fail "the simulator did not start, see above"
    sleep 0.1
done
"$target_dir/release/pacer" serve --config "$folder/config.yaml" 2>"$folder/pacer.log" &
server=$!
set +m

# Waits for `$1`, however often a signal interrupts the waiting.
reap() {
    local status=0
    while kill -0 "$1" 2>/dev/null; do wait "$1" 2>/dev/null && status=0 || status=$?; done
    wait "$1" 2>/dev/null && status=0 || status=$?
    return "$status"
}
trap 'say "stopping: no more jobs are queued, the last ones are served"; kill -TERM "$simulator" 2>/dev/null || true' INT TERM

say "jobs flow at http://127.0.0.1:$port/jobs ${seconds:+for $seconds s }(Ctrl-C stops)"
# Without a server the simulator would wait for its last jobs, or for its first, for a long time.
while kill -0 "$simulator" 2>/dev/null; do
    if ! kill -0 "$server" 2>/dev/null; then
        tail -n 20 "$folder/pacer.log" >&2
        fail "the server ended before the jobs did; the end of its log is above"
    fi
    sleep 0.2
done
served=0
reap "$simulator" || served=$?
simulator=''
kill -TERM "$server" 2>/dev/null || true
stopped=0
reap "$server" || stopped=$?
server=''
if [ "$stopped" != 0 ]; then
    tail -n 20 "$folder/pacer.log" >&2
    fail "the server ended with status $stopped"
fi
[ "$served" = 0 ] || { tail -n 20 "$folder/pacer.log" >&2; fail "not every job was served"; }
