#!/bin/sh
# install.sh VENV -- the Helm library and the schemas of Kubernetes into a new environment (270
# MB, half a minute). For tests only. The Helm library needs Python 3.12, one more than Recto:
# PYTHON312=... names one; else the path is searched, and pyenv where it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# The real program behind a name (pyenv's shims depend on the folder), if it is new enough.
new_enough() {
    "$@" -c 'import sys, venv; sys.version_info >= (3, 12) or sys.exit(1); print(sys.executable)' \
        2>/dev/null
}

find_python() {
    for name in ${PYTHON312:-} python3.12 python3.13 python3.14 python3; do
        new_enough "$name" && return
    done
    if command -v pyenv >/dev/null; then
        for version in $(pyenv versions --bare); do
            PYENV_VERSION=$version new_enough python3 && return
        done
    fi
    return 1
}

if ! python=$(find_python); then
    echo "The chart's tests need Python 3.12 or newer, and none was found." >&2
    echo "Install one (pyenv install 3.12, say), or name it in PYTHON312=/path/to/python3.12." >&2
    exit 1
fi
"$python" -m venv "$1"
"$1/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes \
    -r "$here/requirements.lock"
