#!/bin/sh
# Install the server that the tests of the model stores start for themselves. No service of it runs, now or after a boot.
command -v redis-server >/dev/null && exit 0
as_root=''
[ "$(id -u)" = 0 ] || as_root=sudo
if ! command -v apt-get >/dev/null || { [ -n "$as_root" ] && ! command -v sudo >/dev/null; }; then
    echo 'The tests start a Redis server: install redis-server so that the shell finds it (as root: apt-get install redis-server)'
    exit 1
fi
echo "installing the Debian package redis-server${as_root:+, with sudo}"
policy=/usr/sbin/policy-rc.d # Debian's way to say that installing a service must not start it
if [ ! -e $policy ]; then
    trap '$as_root rm -f $policy' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null && $as_root chmod +x $policy || exit 1
fi
{ $as_root apt-get update -q && $as_root apt-get install -q -y --no-install-recommends redis-server; } >/dev/null || {
    echo 'it could not be installed; see to it that redis-server is there, then try again'
    exit 1
}
! command -v systemctl >/dev/null || $as_root systemctl disable --quiet redis-server
