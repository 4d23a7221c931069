"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["age", "count", "duration", "file_size"]


def duration(seconds: float) -> str:
    """Return ``minutes:seconds``, or ``hours:minutes:seconds``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(n: int) -> str:
    """Return a number with its thousands (k) or millions (M) in words."""
    if n < 1000:
        return str(n)
    return f"{n / 1e3:.1f} k" if n < 1_000_000 else f"{n / 1e6:.1f} M"


def file_size(n_bytes: int) -> str:
    """Return a size in the largest unit that leaves a number above one."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def age(created: str, now: datetime | None = None) -> str:
    """Return how long ago something was, in its largest unit; empty when unknown.

    Parameters
    ----------
    created
        ISO 8601 with time zone. A moment to come, after a clock was set back, is
        ``just now``.
    """
    try:
        then = datetime.fromisoformat(created)
        seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "just now"
