#!/bin/sh
# The simulator's runner for a container: connects with its configuration, takes one job, and goes.
# Needs nothing but busybox. Exit codes: 0 done or told to stop, 1 stopped in the middle of a job, 2 it cannot connect.
set -u

config=$(printf %s "${ACTIONS_RUNNER_INPUT_JITCONFIG:?}" | base64 -d) || exit 2
field() { printf %s "$config" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
url=$(field url) id=$(field id) secret=$(field secret)

post() { wget -q -T 10 -O - --post-data '' "$url/_runner/$1"; }

session=$(post "connect?id=$id&secret=$secret") || exit 2
echo "runner $(field name) is online"

job=
stop() {
    if [ -n "$job" ]; then
        echo "stopped in the middle of job $job"
        exit 1
    fi
    post "$session/leave" >/dev/null
    echo "stopped without a job"
    exit 0
}
trap stop TERM INT

while [ -z "$job" ]; do
    # In the background, so that a signal is heard while it waits.
    answer=/tmp/job.$$
    wget -q -T 20 -O "$answer" "$url/_runner/$session/job" &
    wait $! || sleep 1
    read -r job seconds conclusion <"$answer" || job=
done
echo "job $job starts"
sleep "$seconds" &
wait $!
post "$session/done?conclusion=$conclusion" >/dev/null
echo "job $job is over"
