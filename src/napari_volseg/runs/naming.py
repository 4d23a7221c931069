"""Folder names that are safe everywhere, and never used twice."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from napari_volseg.errors import DataError

__all__ = ["new_folder", "safe_name"]

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\[\]]+')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")
_MAX_BYTES = 80


def safe_name(text: str, default: str = "volseg") -> str:
    """Return a name for a folder or file made from any text.

    Letters of every alphabet and spaces stay; path separators, control
    characters and names reserved on Windows do not.
    """
    name = _UNSAFE.sub("-", text)
    while len(name.encode("utf-8", "replace")) > _MAX_BYTES:
        name = name[:-1]
    name = name.encode("utf-8", "replace").decode().strip(" .-")
    if not name:
        return default
    return f"{name}-" if _RESERVED.match(name) else name


def new_folder(parent: Path, name: str) -> Path:
    """Create ``parent/name``, or ``name-2``, ``name-3``…, for this user only.

    Raises
    ------
    DataError
        If the folder cannot be made.
    """
    name = safe_name(name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for n in count(1):
            folder = parent / (name if n == 1 else f"{name}-{n}")
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise DataError(
            f"cannot make a folder in {parent}: {error.strerror or error}; choose "
            "another folder for runs (--runs DIR, or the variable VOLSEG_RUNS)"
        ) from None
    raise AssertionError("count() ends")  # pragma: no cover
