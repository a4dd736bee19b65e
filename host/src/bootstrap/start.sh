# Makes this machine one short-lived runner and powers it off, whatever happens. Runs once, as root.
# The assignments above are all it knows. docs/bootstrap.md says what it does and in which order.
set -u
umask 077
PATH=${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

work=$(mktemp -d /run/pacer.XXXXXX 2>/dev/null || mktemp -d) || work=/tmp
log=$work/log
jit=${PACER_JIT_CONFIG:-} told_the_end='' switch='' pause=${PACER_PAUSE:-2}
# In a file, so that the dead man's switch has the one that is in force.
printf %s "${PACER_TOKEN:-}" >"$work/token"
unset PACER_TOKEN PACER_JIT_CONFIG

say() { echo "pacer: $*" | tee -a "$log" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

power_off() {
    trap - EXIT
    # Nothing here may hold up the shutdown that it asks for.
    trap 'exit 1' HUP INT TERM
    [ -z "$switch" ] || kill "$switch" 2>/dev/null
    sync
    for way in 'systemctl poweroff' 'shutdown -P now' 'poweroff' 'poweroff -f' 'halt -fp'; do
        # What succeeds takes a moment; what hangs is given up for the next way.
        if has "${way%% *}" && $way >/dev/null 2>&1; then sleep 30; fi
    done
    echo 1 >/proc/sys/kernel/sysrq && echo o >/proc/sysrq-trigger
    exit 1
}

# The end of the log as the inside of a JSON string.
tail_of_log() {
    tail -n 40 "$log" 2>/dev/null | tail -c 3000 | LC_ALL=C tr -cd '\n\040-\176' |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | sed -e ':a' -e 'N' -e '$!ba' -e 's/\n/\\n/g'
}

# Runs a command for 30 s at most. busybox has a `timeout` too, which stays with the whole command line until then.
bounded() {
    "$@" &
    client=$!
    { sleep 30; kill "$client"; } >/dev/null 2>&1 &
    guard=$!
    wait "$client"
    code=$?
    kill "$guard" 2>/dev/null
    return "$code"
}

# post URL BODY: prints the status, leaves the answer in $work/answer. The token never is an argument where the
# client can be told otherwise, and busybox cannot: before the job starts there is nobody to see it.
post() {
    printf %s "$2" >"$work/body"
    : >"$work/answer"
    token=$(cat "$work/token")
    if has curl; then
        printf 'header = "Authorization: Bearer %s"\nheader = "Content-Type: application/json"\n' "$token" |
            curl -sS -m 30 -K - --data-binary "@$work/body" -o "$work/answer" -w '%{http_code}' "$1" 2>>"$log" || true
    elif has wget; then
        if wget --help 2>&1 | grep -qi busybox; then
            bounded wget -q -O "$work/answer" --header "Authorization: Bearer $token" \
                --header 'Content-Type: application/json' --post-file "$work/body" "$1" 2>"$work/head"
        else
            printf 'header = Authorization: Bearer %s\nheader = Content-Type: application/json\n' "$token" >"$work/rc"
            WGETRC=$work/rc bounded wget -q -S -O "$work/answer" --content-on-error --post-file "$work/body" "$1" \
                2>"$work/head"
        fi && echo 200 && return
        grep -v '^  ' "$work/head" >>"$log"
        sed -n 's/.*HTTP\/[0-9.]* \([0-9][0-9][0-9]\).*/\1/p' "$work/head" | tail -n 1 | grep . || echo 000
    else
        say "neither curl nor wget is here"
        echo 000
    fi
}

# report PHASE [with the log]
report() {
    [ -n "${PACER_URL:-}" ] || return 0
    body="{\"phase\":\"$1\"}"
    [ $# = 1 ] || body="{\"phase\":\"$1\",\"log\":\"$(tail_of_log)\"}"
    for try in 1 2 3; do
        case $(post "$PACER_URL/api/runner/phase" "$body") in
            2*) return 0 ;;
            4*) return 0 ;;
        esac
        sleep "$pause"
    done
}

fail() {
    say "$*"
    told_the_end=1
    report failed log
    exit 1
}

the_end() {
    code=$?
    if [ -z "$told_the_end" ]; then
        say "the start script ended with $code"
        report failed log
    fi
    power_off
}
trap the_end EXIT
trap 'exit 1' HUP INT TERM

# The dead man's switch: it needs neither pacer nor this script to go on.
(
    trap - EXIT INT TERM
    trap '' HUP
    sleep "$PACER_MAX_LIFE"
    say "this machine has reached its maximum life of $PACER_MAX_LIFE s"
    report failed log
    power_off
) </dev/null &
switch=$!
if has shutdown; then shutdown -P "+$((PACER_MAX_LIFE / 60 + 2))" >/dev/null 2>&1; fi

[ "$(id -u)" = 0 ] || fail "the start script has to run as root"
report booted

# Where the job runs.
if ! id "$PACER_USER" >/dev/null 2>&1; then
    if has useradd; then useradd -m -s /bin/sh "$PACER_USER"; else adduser -D "$PACER_USER"; fi >>"$log" 2>&1 ||
        fail "the user $PACER_USER cannot be made"
fi
[ "$(id -u "$PACER_USER")" != 0 ] || fail "the user $PACER_USER is root by another name"
home=$(grep "^$PACER_USER:" /etc/passwd | cut -d: -f6)
[ -d "$home" ] || home=/tmp

# fetch URL FILE
fetch() {
    for try in 1 2 3 4 5; do
        if has curl; then curl -fsSL --connect-timeout 15 -m 900 -o "$2" "$1"; else wget -q -O "$2" "$1"; fi \
            >>"$log" 2>&1 && return 0
        sleep "$((pause * try))"
    done
    return 1
}

latest() {
    if has curl; then
        curl -sSIL -m 30 -o /dev/null -w '%{url_effective}' "$PACER_RELEASES/latest" 2>>"$log"
    else
        wget -S -O /dev/null "$PACER_RELEASES/latest" 2>&1 | sed -n 's/.*[Ll]ocation: *\([^ ]*\).*/\1/p' | tail -n 1
    fi | sed -n 's#.*/tag/v\([0-9][0-9.]*\).*#\1#p'
}

dir=''
for place in "$PACER_DIR" /opt/actions-runner /home/runner /actions-runner; do
    if [ -x "$place/run.sh" ]; then dir=$place && break; fi
done
if [ -z "$dir" ]; then
    case $(uname -m) in
        x86_64 | amd64) arch=x64 sum=$PACER_SHA256_X64 ;;
        aarch64 | arm64) arch=arm64 sum=$PACER_SHA256_ARM64 ;;
        *) fail "there is no runner for the architecture $(uname -m)" ;;
    esac
    version=$PACER_VERSION
    [ -n "$version" ] || version=$(latest)
    [ -n "$version" ] || fail "the latest version cannot be learnt from $PACER_RELEASES/latest"
    archive=actions-runner-linux-$arch-$version.tar.gz
    say "downloading $archive"
    dir=$PACER_DIR
    mkdir -p "$dir" || fail "$dir cannot be made"
    fetch "$PACER_RELEASES/download/v$version/$archive" "$dir/.archive" ||
        fail "$PACER_RELEASES/download/v$version/$archive cannot be downloaded"
    if [ -n "$sum" ]; then
        found=$(sha256sum "$dir/.archive" | cut -d' ' -f1)
        [ "$found" = "$sum" ] || fail "the checksum of $archive is $found and should be $sum"
    fi
    tar -xzf "$dir/.archive" -C "$dir" >>"$log" 2>&1 || fail "$archive cannot be unpacked in $dir"
    rm -f "$dir/.archive"
    [ -x "$dir/run.sh" ] || fail "$archive has no run.sh"
    chmod 755 "$dir"
    if [ -x "$dir/bin/installdependencies.sh" ] && ! ldconfig -p 2>/dev/null | grep -q libicu; then
        "$dir/bin/installdependencies.sh" >>"$log" 2>&1 || say "what the runner depends on could not be installed"
    fi
fi

[ "$(stat -c %U "$dir")" = "$PACER_USER" ] || chown -R "$PACER_USER" "$dir" || fail "$dir cannot be given to $PACER_USER"

# The configuration: fetched once, for a token that is worthless afterwards.
if [ -n "${PACER_URL:-}" ]; then
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        status=$(post "$PACER_URL/api/runner/config" '{}')
        case $status in
            200) break ;;
            401 | 403 | 404 | 410) fail "pacer refused the configuration: $status" ;;
        esac
        say "pacer has no configuration yet: $status"
        sleep "$((try < 6 ? pause * try : pause * 6))"
    done
    field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$work/answer"; }
    jit=$(field jit_config)
    [ -n "$jit" ] || fail "pacer gave no configuration"
    field phase_token >"$work/token"
fi
rm -f "$work/answer" "$work/head" "$work/rc" "$work/body"

# What is left of the token and of the script, and where cloud-init keeps them.
case $0 in /*) rm -f "$0" ;; esac
rm -f /var/lib/cloud/instance*/user-data.txt* /var/lib/cloud/instance*/*/user-data.txt* \
    /var/lib/cloud/instance*/scripts/* /var/lib/cloud/instance*/*/scripts/* \
    /var/lib/cloud/instance*/obj.pkl /var/lib/cloud/instance*/*/obj.pkl \
    /run/cloud-init/instance-data-sensitive.json /run/cloud-init/combined-cloud-config.json /run/pacer-start.sh

# The cloud would give the job our user-data, and its own credentials.
metadata=169.254.169.254
if has iptables && iptables -w -I OUTPUT -d $metadata -m owner --uid-owner "$PACER_USER" -j REJECT >>"$log" 2>&1; then
    if has ip6tables; then
        ip6tables -w -I OUTPUT -d fd00:ec2::254 -m owner --uid-owner "$PACER_USER" -j REJECT >>"$log" 2>&1
    fi
elif ! { has ip && ip route add blackhole $metadata/32 >>"$log" 2>&1; }; then
    say "the metadata service at $metadata could not be blocked"
fi

report runner-ready
say "starting the runner in $dir as $PACER_USER"
mkfifo "$work/output" || fail "no pipe can be made in $work"
tee -a "$log" <"$work/output" >&2 &
(
    exec >"$work/output" 2>&1 </dev/null
    umask 022
    trap - EXIT HUP INT TERM
    cd "$dir" || exit 1
    ACTIONS_RUNNER_INPUT_JITCONFIG=$jit HOME=$home USER=$PACER_USER LOGNAME=$PACER_USER
    export ACTIONS_RUNNER_INPUT_JITCONFIG HOME USER LOGNAME
    unset jit
    if has runuser; then
        exec runuser -u "$PACER_USER" -- ./run.sh
    else
        exec su -p -s /bin/sh "$PACER_USER" -c 'exec ./run.sh'
    fi
) &
runner=$!
unset jit
wait $runner
code=$?
[ "$code" = 0 ] || fail "the runner ended with $code"
told_the_end=1
say "the runner is done"
report job-done
exit 0
