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

has_systemd() {
    [ -d /run/systemd/system ]
}
