"""``~`` in paths."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["expand_home"]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` or ``~user`` expanded.

    It stays as it is where no such user is known: files may be called so.
    """
    return Path(os.path.expanduser(path))
