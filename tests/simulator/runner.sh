#!/bin/sh
# The simulator's runner for a container: connects with its configuration, takes one job, and goes.
# Needs nothing but busybox. Exit codes: 0 done, told to stop, or removed; 1 stopped in the middle of a job; 2 it cannot
# connect.
set -u

job='' child=''
stop() {
    [ -n "$child" ] && kill "$child" 2>/dev/null
    if [ -n "$job" ]; then
        echo "stopped in the middle of job $job"
        exit 1
    fi
    [ -n "${session:-}" ] && post "$session/leave" >/dev/null
    echo "stopped without a job"
    exit 0
}
trap stop TERM INT

config=$(printf %s "${ACTIONS_RUNNER_INPUT_JITCONFIG:?}" | base64 -d) || exit 2
field() { printf %s "$config" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
url=$(field url) id=$(field id) secret=$(field secret)

# `timeout`, because `wget -T` of Debian's static busybox 1.35 crashes.
post() { timeout 10 wget -q -O - --post-data '' "$url/_runner/$1"; }
# A signal is heard while a child in the background is waited for.
patiently() { "$@" & child=$!; wait "$child"; }

session=$(post "connect?id=$id&secret=$secret") || exit 2
echo "runner $(field name) is online"

answer=/tmp/job.$$
while [ -z "$job" ]; do
    if patiently timeout 20 wget -q -O "$answer" "$url/_runner/$session/job"; then
        read -r job seconds conclusion <"$answer" || job=''
    elif ! post "$session/alive" >/dev/null; then
        echo "the runner was removed"
        exit 0
    fi
done

echo "job $job starts"
whole=${seconds%.*} part=${seconds#"${seconds%.*}"}
while [ "$whole" -gt 5 ]; do
    patiently sleep 5
    post "$session/alive" >/dev/null
    whole=$((whole - 5))
done
patiently sleep "$whole$part"
post "$session/done?conclusion=$conclusion" >/dev/null
echo "job $job is over"
