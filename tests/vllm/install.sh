#!/bin/sh
# install.sh VENV -- vLLM's CPU build into a new environment: 2.2 GB, about a minute. For tests only.
# PYTHON=... names another Python 3.11. The "+cpu" build of torch is on no package index: where pip
# is set up with find-links for it, that folder is taken; elsewhere give uv the index of PyTorch's
# CPU builds, for example in UV_INDEX. It is the one file here that no hash is known for.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"${PYTHON:-python3}" -m venv "$1"
python=$1/bin/python
"$python" -m pip --disable-pip-version-check install --quiet uv==0.13.9
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    UV_FIND_LINKS=$PIP_FIND_LINKS
    export UV_FIND_LINKS
fi
# Compiled now: with PYTHONDONTWRITEBYTECODE=1 every server would parse all sources again, and
# take twice as long to start.
set -- --quiet --python "$python" --no-deps --compile-bytecode
"$python" -m uv pip install "$@" "torch==2.13.0+cpu"
"$python" -m uv pip install "$@" --require-hashes -r "$here/requirements.lock"
