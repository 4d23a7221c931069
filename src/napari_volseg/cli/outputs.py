"""Where a command may write: not unasked over a file, never over what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.io import expand_home, parse_source

__all__ = ["check_output", "refuse_inputs"]

_SAME = {".hdf5": ".h5"}
"""Other endings of a format."""


def check_output(
    path: Path, endings: Sequence[str], *, overwrite: bool, option: str = "-o"
) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Parameters
    ----------
    path
        Where the command is to write, without ``~``.
    endings
        What its name may end in, for instance ``.h5``.
    overwrite
        Whether it may take the place of what is there.
    option
        What the output is given with, for messages.

    Raises
    ------
    DataError
        For another format, a missing folder, or a file that is there.
    """
    ending = path.suffix.lower()
    if _SAME.get(ending, ending) not in endings:
        raise DataError(f"{path}: the output must end in {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} is not there: make it first")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write in the folder {path.parent}: choose another")
    if path.exists() and not overwrite:
        raise DataError(
            f"{path} is there already: choose another {option}, or --overwrite"
        )


def refuse_inputs(
    outputs: Iterable[Path], inputs: Iterable[str | Path | None], option: str = "-o"
) -> None:
    """Refuse an output that is an input, holds one or lies in the folder of one.

    Parameters
    ----------
    outputs
        Files and folders that would be replaced.
    inputs
        Sources and paths that are read; None and the empty text are none.
    option
        What the output is given with, for messages.

    Raises
    ------
    DataError
        For the first such output.
    """
    read = {_real(_file_of(each)) for each in inputs if each}
    around = {folder for path in read for folder in path.parents}
    stored = {_identity(path) for path in read} - {None}
    for output in outputs:
        path = _real(output)
        if path in read or _identity(path) in stored:
            raise DataError(
                f"{option} {output} would write over an input: choose another name"
            )
        if path in around or not read.isdisjoint(path.parents):
            raise DataError(
                f"{option} {output} would change an input, because one lies in the "
                "other: choose another folder"
            )


def _file_of(source: str | Path) -> Path:
    return source if isinstance(source, Path) else parse_source(source).path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(expand_home(path)))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells files apart whose names differ, as in upper and lower case."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
