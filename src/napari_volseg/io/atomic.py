"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from napari_volseg.errors import DataError
from napari_volseg.io.failures import os_errno, reason
from napari_volseg.io.home import expand_home

__all__ = [
    "atomic_path",
    "flush_file",
    "flush_folder",
    "write_json",
    "write_text",
    "writing",
]

REPLACE_SECONDS = 5.0


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], folder: Path | None = None
) -> Iterator[Path]:
    """Give a temporary file that takes the place of `path` once it is complete.

    The temporary file is private (0600) and has the same suffix. When the block ends
    it is flushed to the disk and moved over `path`; when the block raises it is
    removed and `path` stays as it was.

    Parameters
    ----------
    folder
        Where the temporary file lies, on the disk of `path`; by default beside it.

    Raises
    ------
    DataError
        If the folder is missing or read-only, the disk is full, or another
        program keeps the file for longer than five seconds.
    """
    target = expand_home(path)
    name = f".volseg-{secrets.token_hex(8)}{target.suffix}"
    temporary = (folder or target.parent) / name
    with writing(target):
        if target.is_dir():
            raise DataError(f"{target} is a folder: choose another name")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        os.close(os.open(temporary, flags, 0o600))
    try:
        try:
            yield temporary
        except (OSError, RuntimeError) as error:
            if os_errno(error) is None:
                raise
            raise _unwritten(target, error) from error
        with writing(target):
            flush_file(temporary)
            _replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # moved away, or the disk is gone
            temporary.unlink()
    flush_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write an object as indented JSON atomically."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def writing(path: Path) -> _Writing:
    """Turn failures of the disk in a block into a `DataError` naming the file."""
    return _Writing(path)


class _Writing:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, DataError):
            return
        bad_path = isinstance(error, OSError | ValueError)  # a zero byte: ValueError
        if error is not None and (bad_path or os_errno(error) is not None):
            raise _unwritten(self._path, error) from error


def _unwritten(target: Path, error: BaseException) -> DataError:
    number = os_errno(error)
    cause = os.strerror(number) if number else reason(error)
    remedy = (
        "free some space or choose another disk"
        if number
        else "check that the folder exists and may be written to"
    )
    kept = "; the file there is as it was" if os.path.isfile(target) else ""
    return DataError(f"{target} cannot be written ({cause}): {remedy}{kept}")


def flush_file(path: Path) -> None:
    """Make what is in a file durable."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can flush one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    """Move the file; a virus scanner or indexer may hold the target for a while."""
    give_up = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(temporary, target)
            return
        except PermissionError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.05)
