"""Who works in a run folder: one process at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from napari_volseg.errors import DataError
from napari_volseg.io import write_json

__all__ = ["Owner", "in_use_message", "is_locked", "lock", "read_owner"]

_LOCK = ".lock"
_OWNER = "owner.json"
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
    guard = filelock.FileLock(folder / _LOCK, timeout=_PATIENCE, mode=0o600)
    try:
        guard.acquire()
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
    if not (folder / _LOCK).exists():
        return False
    guard = filelock.FileLock(folder / _LOCK, timeout=0, mode=0o600)
    try:
        guard.acquire()
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


def in_use_message(folder: Path) -> str:
    """Return the sentence that says who owns a folder."""
    owner = read_owner(folder)
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return (
        f"the run folder {folder} is in use by {who}: stop that first, or start a "
        "new run"
    )
