#!/bin/sh
# base.sh FOLDER -- what the Dockerfile's steps start from, for `make test-image`, made once:
#   FOLDER/debian   Debian 12 as debootstrap makes it (minbase) with Debian's Python: it stands in
#                   for the base image, whose own root only a registry of images has
#   FOLDER/wheels   the packages of requirements-server.lock, downloaded with this machine's pip
#                   and its settings, so that neither gets into the root
# Needs root on a Debian: it installs debootstrap where that is missing. Elsewhere it says so and
# makes nothing; the tests then skip.
set -eu
folder=$1
lock=$(cd "$(dirname "$0")/../.." && pwd)/requirements-server.lock
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The image's steps need root on a Debian (debootstrap, chroot, mounts): left out." >&2
    exit 0
fi
if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap \
        >/dev/null
fi
if [ ! -e "$folder/debian/.made" ]; then
    echo "Making a Debian in $folder, once (about a minute) ..."
    rm -rf "$folder/debian"
    mkdir -p "$folder"
    if ! debootstrap --variant=minbase --include=python3,python3-venv bookworm "$folder/debian" \
        >"$folder/debootstrap.log" 2>&1; then
        tail -n 20 "$folder/debootstrap.log" >&2
        exit 1
    fi
    rm -rf "$folder"/debian/var/cache/apt/archives/*.deb "$folder"/debian/var/lib/apt/lists/*
    : >"$folder/debian/etc/resolv.conf" # debootstrap copies this machine's
    touch "$folder/debian/.made"
fi
if ! cmp -s "$lock" "$folder/wheels/.lock"; then
    echo "Downloading the packages of requirements-server.lock (half a minute) ..."
    rm -rf "$folder/wheels"
    version=$(chroot "$folder/debian" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "${PYTHON:-python3}" -m pip --disable-pip-version-check --quiet --quiet download --no-deps \
        --require-hashes --only-binary=:all: --python-version "$version" \
        -d "$folder/wheels" -r "$lock"
    cp "$lock" "$folder/wheels/.lock"
fi
