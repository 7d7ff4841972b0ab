#!/bin/sh
# Install the browser in which the live page is tested, without a window: Debian's smallest Chromium, and one font.
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v $name >/dev/null && exit 0
done
as_root=''
[ "$(id -u)" = 0 ] || as_root=sudo
if ! command -v apt-get >/dev/null || { [ -n "$as_root" ] && ! command -v sudo >/dev/null; }; then
    echo 'The tests open the live page in a browser: install chromium so that the shell finds it'
    exit 1
fi
echo "installing the Debian package chromium-headless-shell${as_root:+, with sudo}"
{ $as_root apt-get update -q && $as_root apt-get install -q -y --no-install-recommends chromium-headless-shell fonts-dejavu-core; } >/dev/null || {
    echo 'it could not be installed; see to it that chromium is there, then try again'
    exit 1
}
