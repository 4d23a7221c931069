#!/bin/sh
# Install the system libraries that Qt, OpenGL and a virtual screen need, where we may.
# Usage: scripts/system-packages.sh PYTHON
# Elsewhere (no apt, no root or sudo) say which are missing and go on.
set -eu
python=$1

packages="xauth xvfb libdbus-1-3 libegl1 libfontconfig1 libgl1 libglib2.0-0
  libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0
  libxcb-render-util0 libxcb-shape0 libxcb-sync1 libxcb-xfixes0 libxcb-xinerama0
  libxcb-xkb1 libxkbcommon-x11-0"
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  packages="$packages python$version-venv"
fi

command -v dpkg-query >/dev/null 2>&1 || exit 0
missing=
for package in $packages; do
  case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) in
    *" installed") ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  sudo=
elif sudo -n true >/dev/null 2>&1; then
  sudo="sudo -n"
else
  echo "Missing system packages; napari windows may fail to open. To install them:"
  echo "  sudo apt-get install$missing"
  exit 0
fi

echo "Installing system packages:$missing"
install() {
  # shellcheck disable=SC2086  # a list of words
  $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends $missing >/dev/null
}
install 2>/dev/null || { $sudo apt-get update -q >/dev/null && install; } || {
  echo "Could not install them; napari windows may fail to open." >&2
}
