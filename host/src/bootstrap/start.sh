# Makes this machine one short-lived runner and powers it off, whatever happens. Runs once, as root.
# The assignments above are all it knows. docs/bootstrap.md says what it does and in which order.
set -u
umask 077
PATH=${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
# In seconds: between attempts; a request; a report; an exchange, for which pacer asks GitHub; a download with its
# attempts; waiting for pacer to have a configuration; what installs the runner's dependencies; until a way to power
# off has had its chance.
pause=2 request=30 tell=10 answer=90 download=900 exchange=600 install=600 settle=30

work=$(mktemp -d /run/pacer.XXXXXX 2>/dev/null || mktemp -d) || work=/tmp
log=$work/log
jit=${PACER_JIT_CONFIG:-} switch='' url=${PACER_URL:-}
# In a file, so that the dead man's switch has the one that is in force.
printf %s "${PACER_TOKEN:-}" >"$work/token"
unset PACER_TOKEN PACER_JIT_CONFIG

say() { echo "pacer: $*" | tee -a "$log" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }
# To busybox no process is the own group, which always lives.
lives() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
# The clock of the wall jumps when a new machine first hears the time.
now() { cut -d. -f1 /proc/uptime; }

# bounded SECONDS COMMAND: with busybox's `timeout`, the whole command line would stay visible for the full time.
bounded() {
    limit=$1
    shift
    "$@" &
    bound=$!
    { sleep "$limit"; kill -9 "$bound"; } >/dev/null 2>&1 &
    guard=$!
    wait "$bound"
    code=$?
    # bash's subshells have their parent's traps at first: a signal that can be caught would end the machine.
    { kill -9 "$guard"; wait "$guard"; } 2>/dev/null
    return "$code"
}

power_off() {
    # Nothing ends this before the machine is off, and the switch looks on in case something does.
    trap '' HUP INT TERM
    trap - EXIT
    bounded "$settle" sync
    for way in 'systemctl poweroff' 'shutdown -P now' 'poweroff' 'poweroff -f' 'halt -fp'; do
        # What succeeds takes a moment, and is not held up; what hangs is given up for the next way.
        # shellcheck disable=SC2086 # a command and its arguments
        if has "${way%% *}" && bounded "$settle" $way >/dev/null 2>&1; then
            trap - HUP INT TERM
            sleep "$settle"
            trap '' HUP INT TERM
        fi
    done
    echo 1 >/proc/sys/kernel/sysrq && echo o >/proc/sysrq-trigger
    exit 1
}

client=none
if has curl; then
    client=curl
elif has wget; then
    client=wget
    if wget --help 2>&1 | grep -qi busybox; then client=busybox; fi
fi
# usable URL: busybox's wget believes any certificate, so with it https would be a promise that nobody keeps.
usable() {
    case $client:$1 in none:* | busybox:https:*) return 1 ;; esac
}
wanted='install curl, or a wget that checks certificates'

# shellcheck disable=SC2317 # called through `bounded`
told_wget() {
    WGETRC=$work/rc
    export WGETRC
    exec wget "$@"
}

# post URL BODY SECONDS: prints the status, leaves the answer in $work/answer and its head, as far as the client shows
# it, in $work/head. The token never is an argument where the
# client can be told otherwise. busybox's cannot; before the job starts there is nobody to see it.
post() {
    printf %s "$2" >"$work/body"
    : >"$work/answer"
    : >"$work/head"
    token=$(cat "$work/token")
    case $client in
        curl)
            printf 'header = "Authorization: Bearer %s"\nheader = "Content-Type: application/json"\n' "$token" |
                curl -q -sS -m "$3" -K - --data-binary "@$work/body" -D "$work/head" -o "$work/answer" \
                    -w '%{http_code}' "$1" 2>>"$log" || true
            return
            ;;
        wget)
            printf 'header = Authorization: Bearer %s\nheader = Content-Type: application/json\n' "$token" >"$work/rc"
            bounded "$3" told_wget -q -S -t 1 -O "$work/answer" --post-file "$work/body" "$1" \
                2>"$work/head"
            ;;
        *)
            bounded "$3" wget -q -O "$work/answer" --header "Authorization: Bearer $token" \
                --header 'Content-Type: application/json' --post-file "$work/body" "$1" 2>"$work/head"
            ;;
    esac && echo 200 && return
    grep -v '^  ' "$work/head" >>"$log"
    sed -n 's/.*HTTP\/[0-9.]* \([0-9][0-9][0-9]\).*/\1/p' "$work/head" | tail -n 1 | grep . || echo 000
}

# report PHASE [TEXT]
report() {
    if [ -z "$url" ] || ! usable "$url"; then return; fi
    text=$(printf '%s\n' "${2:-}" | tr '\t' ' ' | LC_ALL=C tr -cd '\n\040-\176' |
        sed -e 's/[\\"]/\\&/g' -e 's/$/\\n/' | tr -d '\n')
    for try in ${tries:-1 2 3}; do
        case $(post "$url/api/runner/phase" "{\"phase\":\"$1\",\"log\":\"${text%\\n}\"}" "$tell") in
            2* | 4*) return ;;
        esac
        sleep "$((try * pause))"
    done
}

# Says that this machine has failed, once: to whoever comes first.
failed() {
    say "$*"
    mkdir "$work/over" 2>/dev/null || return
    report failed "$(tail -n 40 "$log" | tail -c 3000)"
}

fail() {
    failed "$*"
    exit 1
}

# shellcheck disable=SC2317 # the trap calls it
the_end() {
    code=$?
    trap '' HUP INT TERM
    [ -d "$work/over" ] || failed "the start script ended with $code"
    power_off
}
trap the_end EXIT
trap 'exit 1' HUP INT TERM

# The dead man's switch. It needs neither pacer nor this script to go on: where the script is killed it waits for the
# runner, and no longer than for the end of the machine's life.
(
    trap - EXIT INT TERM
    trap '' HUP
    tries=1
    end=$(($(now) + PACER_MAX_LIFE))
    why="this machine has reached its maximum life of $PACER_MAX_LIFE s"
    while left=$((end - $(now))) && [ "$left" -gt 0 ]; do
        if ! lives $$ && ! lives "$(cat "$work/runner" 2>/dev/null)"; then
            why='the start script was killed'
            break
        fi
        sleep "$((left < 5 ? left : 5))"
    done
    failed "$why"
    power_off
) </dev/null &
switch=$!
# Some stay until it is time.
if has shutdown; then shutdown -P "+$((PACER_MAX_LIFE / 60 + 2))" </dev/null >/dev/null 2>&1 & fi

[ -z "$url" ] || usable "$url" || fail "there is nothing here to speak to $url with: $wanted"
[ "$(id -u)" = 0 ] || fail "the start script has to run as root"

# A later boot would have neither this script nor its switch: whatever runs first ends it. What cloud-init started it
# guards by itself, and so that an image of this machine boots.
once() {
    boot=$(cat /proc/sys/kernel/random/boot_id) && cat >/etc/pacer-once <<END || return
#!/bin/sh
# This machine was made for one boot.
[ "\$(cat /proc/sys/kernel/random/boot_id)" = $boot ] && exit
systemctl poweroff -ff || poweroff -f || echo o >/proc/sysrq-trigger
END
    for place in /etc/systemd/system /etc/local.d /etc/cron.d; do
        if [ -d $place ]; then guarded=yes; fi
    done
    if [ -d /etc/systemd/system ]; then
        mkdir -p /etc/systemd/system/sysinit.target.wants
        printf '%s\n' '[Unit]' 'Description=Power off what was made for one boot' DefaultDependencies=no '[Service]' \
            Type=oneshot 'ExecStart=/bin/sh /etc/pacer-once' >/etc/systemd/system/pacer-once.service
        ln -sf ../pacer-once.service /etc/systemd/system/sysinit.target.wants/pacer-once.service
    fi
    if [ -d /etc/local.d ]; then cp /etc/pacer-once /etc/local.d/pacer-once.start; fi
    if [ -d /etc/cron.d ]; then echo '@reboot root sh /etc/pacer-once' >/etc/cron.d/pacer-once; fi
    for file in /etc/rc.local /etc/init.d/rcS; do
        if [ -f $file ]; then guarded=yes && sed -i '1a sh /etc/pacer-once' $file; fi
    done
    [ -n "$guarded" ]
}
guarded=''
[ -e /var/lib/cloud/instance/pacer-started ] || once 2>>"$log" || say "nothing here would end a second boot"

# Once: pacer only shows it.
tries=1
report booted
tries=''

# Where the job runs.
if ! id "$PACER_USER" >/dev/null 2>&1; then
    if has useradd; then useradd -m -s /bin/sh "$PACER_USER"; else adduser -D "$PACER_USER"; fi >>"$log" 2>&1 ||
        fail "the user $PACER_USER cannot be made"
fi
[ "$(id -u "$PACER_USER")" != 0 ] || fail "the user $PACER_USER is root by another name"
has runuser || has su || fail "neither runuser nor su is here to become $PACER_USER with"
home=$({ getent passwd "$PACER_USER" || grep "^$PACER_USER:" /etc/passwd; } 2>/dev/null | cut -d: -f6)
[ -d "$home" ] || home=/tmp

# fetch URL FILE
fetch() {
    end=$(($(now) + download))
    for try in 1 2 3 4 5; do
        left=$((end - $(now)))
        [ "$left" -gt 0 ] || break
        if [ "$client" = curl ]; then
            curl -fsSL --connect-timeout "$request" -m "$left" -o "$2" "$1"
        else
            bounded "$left" wget -q -O "$2" "$1"
        fi >>"$log" 2>&1 && return
        sleep "$((pause * try))"
    done
    return 1
}

latest() {
    if [ "$client" = curl ]; then
        curl -sSIL -m "$request" -o /dev/null -w '%{url_effective}' "$PACER_RELEASES/latest" 2>>"$log"
    else
        bounded "$request" wget -S -O /dev/null "$PACER_RELEASES/latest" 2>&1 |
            sed -n 's/.*[Ll]ocation: *\([^ ]*\).*/\1/p' | tail -n 1
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
    # What is compared with a checksum needs no certificate.
    if [ "$client" = none ] || { [ -z "$sum" ] && ! usable "$PACER_RELEASES"; }; then
        fail "there is nothing here to download the runner from $PACER_RELEASES with: $wanted, or pin its checksum"
    fi
    case $sum:$PACER_RELEASES in
        :http://127.* | :http://localhost[:/]*) ;;
        :http://*) fail "nothing is known to compare a runner for $arch from $PACER_RELEASES with: pin its checksum" ;;
    esac
    version=$PACER_VERSION
    [ -n "$version" ] || version=$(latest)
    [ -n "$version" ] || fail "the latest version cannot be learnt from $PACER_RELEASES/latest"
    archive=actions-runner-linux-$arch-$version.tar.gz
    say "downloading $archive"
    dir=$PACER_DIR
    # The user has to come through all of its parents.
    (umask 022 && mkdir -p "$dir" && : >"$dir/.archive") 2>>"$log" || fail "$dir cannot be written"
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
        (umask 022 && bounded "$install" "$dir/bin/installdependencies.sh") >>"$log" 2>&1 ||
            say "what the runner depends on could not be installed"
    fi
fi

[ "$(stat -c %U "$dir")" = "$PACER_USER" ] || chown -R "$PACER_USER" "$dir" 2>>"$log" ||
    fail "$dir cannot be given to $PACER_USER"

# The configuration: fetched once, for a token that is worthless afterwards.
if [ -n "$url" ]; then
    end=$(($(now) + exchange)) try=0
    while :; do
        status=$(post "$url/api/runner/config" '{}' "$answer")
        case $status in
            200) break ;;
            400 | 401 | 403 | 404 | 410) fail "pacer refused the configuration: $status" ;;
        esac
        say "pacer has no configuration yet: $status"
        try=$((try < 6 ? try + 1 : 6)) wait=$((pause * try))
        # busybox's wget shows no head.
        after=$(sed -n 's/^ *[Rr]etry-[Aa]fter: *\([0-9]\{1,3\}\).*/\1/p' "$work/head" | tail -n 1)
        [ "${after:-0}" -le "$wait" ] || wait=$after
        [ "$(($(now) + wait))" -lt "$end" ] || fail "pacer had no configuration for $exchange s"
        sleep "$wait"
    done
    field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$work/answer"; }
    jit=$(field jit_config)
    [ -n "$jit" ] || fail "pacer gave no configuration"
    field phase_token >"$work/token"
fi
rm -f "$work/answer" "$work/head" "$work/rc" "$work/body"

# What is left of the token and of the script, and where cloud-init keeps them. `$0` may be the shell itself.
if grep -q '^PACER_MAX_LIFE=' "$0" 2>/dev/null; then rm -f "$0"; fi
for place in /var/lib/cloud/instance /var/lib/cloud/instances/*; do
    rm -f "$place"/user-data.txt* "$place"/cloud-config.txt "$place"/scripts/* "$place"/obj.pkl
done
rm -f /run/pacer-start.sh /var/lib/cloud/seed/*/user-data /run/cloud-init/instance-data-sensitive.json \
    /run/cloud-init/combined-cloud-config.json

# The cloud would give the job our user-data, and its own credentials.
# closed FILTER FAMILY ADDRESS
closed() {
    has "$1" && "$1" -w -I OUTPUT -d "$3" -m owner --uid-owner "$PACER_USER" -j REJECT >>"$log" 2>&1 && return
    has ip && ip "$2" route replace blackhole "$3" >>"$log" 2>&1
}
open=''
closed iptables -4 169.254.169.254 || open=169.254.169.254
[ ! -s /proc/net/if_inet6 ] || closed ip6tables -6 fd00:ec2::254 || open="${open:+$open and }fd00:ec2::254"
[ -z "$open" ] || open="the metadata service at $open could not be kept from the job"
[ -z "$open" ] || say "$open"

tries=1
report runner-ready "$open"
tries=''
say "starting the runner in $dir as $PACER_USER"
mkfifo "$work/output" || fail "no pipe can be made in $work"
tee -a "$log" <"$work/output" >&2 &
output=$!
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
echo $runner >"$work/runner"
unset jit
wait $runner
code=$?
# What it said last is on its way; what it left behind may hold the pipe open for ever.
for _ in 1 2 3; do
    lives $output || break
    sleep 1
done
[ "$code" = 0 ] || fail "the runner ended with $code"
trap '' HUP INT TERM
mkdir "$work/over" 2>/dev/null || exit 0
say "the runner is done"
report job-done
exit 0
