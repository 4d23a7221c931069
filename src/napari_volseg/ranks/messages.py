"""What a rank writes to its supervisor: one JSON object a line."""

from __future__ import annotations

import json
from typing import Any, Literal

from napari_volseg.events import Event, from_json, to_json

__all__ = ["Blame", "beat_line", "event_line", "failure_line", "parse_line"]

Blame = Literal["data", "defect", "lost"]
"""Whether a user can mend it, it is a defect, or another rank was lost first."""


def event_line(event: Event) -> bytes:
    """Return the line that passes on an event."""
    return _line(event=to_json(event))


def beat_line(phase: str, turn: int, longest_step: float) -> bytes:
    """Return the line that is a sign of life."""
    return _line(beat=phase, turn=turn, longest_step=longest_step)


def failure_line(blame: Blame, message: str) -> bytes:
    """Return the line that says why a rank ends."""
    return _line(failed=blame, message=message)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None for one that no rank wrote so.

    An event comes as an object of its kind.
    """
    try:
        fields = json.loads(line)
        if "event" in fields:
            event = from_json(fields["event"])
            return None if event is None else {"event": event}
        if "beat" in fields:
            return {
                "phase": str(fields["beat"]),
                "turn": int(fields["turn"]),
                "longest_step": float(fields["longest_step"]),
            }
        return {"failed": str(fields["failed"]), "message": str(fields["message"])}
    except (ValueError, KeyError, TypeError):
        return None


def _line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"
