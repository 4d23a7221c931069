#!/bin/sh
# Print a Python that the pinned versions support: 3.11 to 3.14, the default one first.
for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
    >/dev/null 2>&1; then
    "$candidate" -c 'import sys; print(sys.executable)'
    exit 0
  fi
done
echo "no Python 3.11 to 3.14 found: install one, or call make PYTHON=/path/to/python" >&2
exit 1
