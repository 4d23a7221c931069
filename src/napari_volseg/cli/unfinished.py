"""The folder beside an output in which it is made: begun, found again, removed."""

from __future__ import annotations

import glob
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_volseg.cli.maps_file import is_handed_over
from napari_volseg.errors import DataError
from napari_volseg.io import writing
from napari_volseg.runs import is_locked, lock, owner_in_words

__all__ = [
    "begin",
    "find_unfinished",
    "keep_what_is_done",
    "place_of",
    "refuse_in_use",
    "remove",
    "remove_leftovers",
    "working_folder",
]


def place_of(output: Path) -> Path:
    """Return where work is until it is complete: there must be room for it anyway."""
    return output.with_name(f"{output.name}.unfinished")


def begin(place: Path, create: Callable[[Path], Path]) -> Path:
    """Make the job folder of an output, whole or not at all; return it.

    Parameters
    ----------
    place
        See `place_of`; an old job in it is removed.
    create
        Makes the job in the folder that it is called with, and returns it.

    Raises
    ------
    DataError
        If another process works there, or something else is in the way.
    """
    if not _jobs(place) and (place.is_file() or any(place.glob("*"))):
        raise DataError(f"{place} is in the way: move or delete it")
    refuse_in_use(place)
    new = _hidden(place)
    with writing(new):
        new.mkdir(mode=0o700)
    try:
        with lock(new):  # tells it from what a killed process left
            name = create(new).name
        remove(place)
        with writing(place):
            new.rename(place)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return place / name


def refuse_in_use(place: Path) -> None:
    """Refuse to touch a job that another process works in.

    Raises
    ------
    DataError
        Which names the process.
    """
    for job in _jobs(place):
        if is_locked(job):
            output = place.with_name(place.name.removesuffix(".unfinished"))
            raise DataError(
                f"{output} is being made by {owner_in_words(job)}: wait for that or "
                "stop it, or choose another -o"
            )


@contextmanager
def working_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside an output that is changed, for as long as that takes.

    What killed processes left of theirs is removed.

    Raises
    ------
    DataError
        If the folder of the output cannot be written to.
    """
    place = place_of(output)
    remove_leftovers(place)
    folder = _hidden(place)
    with writing(output):
        folder.mkdir(mode=0o700)
    try:
        with lock(folder):  # tells it from what a killed process left
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_unfinished(place: Path) -> Path | None:
    """Return the job that has finished blocks, None without one."""
    return next((j for j in _jobs(place) if any(j.glob("blocks/*.done"))), None)


def remove(place: Path) -> None:
    """Remove a job folder, which is never found by its name with a part missing."""
    refuse_in_use(place)
    gone = _hidden(place)
    with writing(place), suppress(FileNotFoundError):
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(place: Path) -> None:
    """Remove folders that a process was killed in making, using or removing."""
    if any(is_handed_over(job) for job in _jobs(place)):
        remove(place)
    for old in place.parent.glob(f".volseg-{'?' * 16}-{glob.escape(place.name)}"):
        if not is_locked(old):
            shutil.rmtree(old, ignore_errors=True)


def keep_what_is_done(place: Path) -> None:
    """Say where finished blocks are; remove a job that has none."""
    if find_unfinished(place) is not None:
        sys.stderr.write(
            f"volseg: the finished blocks are kept in {place}: go on with --resume\n"
        )
    elif _jobs(place) or not any(place.glob("*")):
        with suppress(DataError):
            remove(place)


def _jobs(place: Path) -> list[Path]:
    return sorted(request.parent for request in place.glob("*/request.json"))


def _hidden(place: Path) -> Path:
    return place.with_name(f".volseg-{secrets.token_hex(8)}-{place.name}")
