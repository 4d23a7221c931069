#!/bin/sh
# Run pytest, with a virtual screen where there is one; arguments go to pytest.
# Usage: scripts/run-tests.sh PYTHON [pytest arguments]
# MARK chooses tests by their markers; by default all but the nightly ones.
set -eu
python=$1
shift
mark=${MARK:-not nightly}

workers=$("$python" -c 'import os; print(min(4, os.cpu_count() or 1))')
# One thread a process: two processes of two threads each thrash two cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Numba, which napari draws labels with, would set OpenMP's threads back to all cores
# for PyTorch too: tests of networks then take up to twenty times as long.
export NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-$OMP_NUM_THREADS}"
set -- -m pytest -q -n "$workers" \
  --durations=10 --durations-min=5 "$@"

if command -v xvfb-run >/dev/null 2>&1; then
  exec xvfb-run -a -s "-screen 0 1600x1000x24" "$python" "$@" -m "$mark"
elif [ "$(uname)" = Linux ] && [ -z "${DISPLAY:-}" ]; then
  echo "No screen and no xvfb-run: leaving out the tests that open windows."
  exec "$python" "$@" -m "($mark) and not gui"
fi
exec "$python" "$@" -m "$mark"
