#!/usr/bin/env bash
# Everything that only a GPU shows, in at most eight minutes: the tests marked gpu, and the numbers of benchmarks/gpu.md.
#
#     benchmarks/gpu.sh            # on a machine with a GPU; writes benchmarks/gpu.md
#     benchmarks/gpu.sh --small    # all parts in small, on a CPU, to see that they run; writes nothing into benchmarks/
#
# PYTHON names the interpreter; by default that of .venv, or else python3.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec timeout 480 "$python" benchmarks/gpu.py "$@"
