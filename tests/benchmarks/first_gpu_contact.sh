#!/bin/sh
# Everything that only a GPU can prove, with one command: see the head of first_gpu_contact.py.
# PYTHON: an interpreter with torch and numpy; default: this checkout's .venv, else python3.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}
[ -x "$python" ] || python=${PYTHON:-python3}
if ! "$python" -c 'import torch, numpy' 2>/dev/null; then
    echo "FAIL $python can't import torch and numpy: pip install torch numpy, or set PYTHON"
    exit 1
fi
exec "$python" "$here/first_gpu_contact.py" "$@"
