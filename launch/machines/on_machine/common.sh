# Read by the other scripts, from the folder that they lie in; settings.sh is this machine's.
. ./settings.sh
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
state=../state

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

has_interface() {
    ip link show dev "$INTERFACE" >/dev/null 2>&1
}

systemd_says() { # the property $1 of systemd, or of the unit $2
    # Only root can ask without D-Bus, which some machines lack, and which ends early when one goes down.
    asked=$1
    shift
    set -- systemctl show --value --property="$asked" "$@"
    "$@" 2>/dev/null || as_root "$@" 2>/dev/null
}

has_systemd() {
    [ -d /run/systemd/system ]
}
