"""What the reviewer said of an instance, who and when."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

__all__ = ["STATUSES", "Mark", "Status", "mark"]

Status = Literal["todo", "accepted", "corrected", "rejected"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Mark:
    """A status with its author and time."""

    status: Status
    author: str
    time: str
    """ISO 8601, in UTC."""


def mark(status: Status) -> Mark:
    """Return a status set by this user now."""
    return Mark(status, _author(), datetime.now(UTC).isoformat(timespec="seconds"))


def _author() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
