"""Who works in a run folder: one process at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from napari_volseg.errors import DataError
from napari_volseg.io import write_json

__all__ = [
    "Owner",
    "in_use_message",
    "is_locked",
    "lock",
    "owner_in_words",
    "read_owner",
]

_LOCK = ".lock"
_SOFT_LOCK = ".lock.soft"
_OWNER = "owner.json"
_NO_LOCKS = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")
    if hasattr(errno, name)
}
"""What a file system answers that has no locks, as some of clusters."""
_PATIENCE = 2.0
"""Seconds to wait for an owner that is just leaving, or for one who only looks."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works in a folder."""

    pid: int
    host: str


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own a run folder; the lock is free again when the process ends, however.

    Raises
    ------
    DataError
        If another process owns it, or the folder cannot be written.
    """
    if not folder.is_dir():
        raise DataError(f"the run folder {folder} is not there (any more)")
    try:
        guard = _acquire(folder, _PATIENCE)
    except filelock.Timeout:
        raise DataError(in_use_message(folder)) from None
    except OSError as error:
        raise DataError(
            f"cannot write in the folder {folder}: {error.strerror or error}; check "
            "its permissions and that the disk is there"
        ) from None
    try:
        write_json(folder / _OWNER, asdict(Owner(os.getpid(), socket.gethostname())))
        yield
    finally:
        guard.release()


def is_locked(folder: Path) -> bool:
    """Return whether a living process owns the folder."""
    if not any((folder / name).exists() for name in (_LOCK, _SOFT_LOCK)):
        return False
    try:
        guard = _acquire(folder, 0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    guard.release()
    return False


def read_owner(folder: Path) -> Owner | None:
    """Return the newest owner of the folder, who may be gone by now."""
    try:
        fields = json.loads((folder / _OWNER).read_text("utf-8"))
        return Owner(int(fields["pid"]), str(fields["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _acquire(folder: Path, timeout: float) -> filelock.BaseFileLock:
    """Take the lock of a folder; a file with host and process where there is none.

    Such a file outlives a killed process. It is taken over when the process it
    names is not on this host any more.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it falls back on such a file by itself
        if not (folder / _SOFT_LOCK).exists():
            try:
                guard = filelock.FileLock(folder / _LOCK, timeout=timeout, mode=0o600)
                return _acquired(guard)
            except NotImplementedError:
                pass
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        soft = filelock.SoftFileLock(folder / _SOFT_LOCK, timeout=timeout, mode=0o600)
        return _acquired(soft)


def _acquired(guard: filelock.BaseFileLock) -> filelock.BaseFileLock:
    guard.acquire()
    return guard


def owner_in_words(folder: Path) -> str:
    """Return which process owns a folder, for messages."""
    owner = read_owner(folder)
    return f"process {owner.pid} on {owner.host}" if owner else "another process"


def in_use_message(folder: Path) -> str:
    """Return the sentence that says who owns a folder."""
    return (
        f"the run folder {folder} is in use by {owner_in_words(folder)}: stop that "
        "first, or start a new run"
    )
