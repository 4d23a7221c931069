"""What client and server agree on."""

from __future__ import annotations

import json
from typing import Any, Literal

__all__ = ["LANES", "Lane", "parse"]

Lane = Literal["box", "slices"]
LANES: tuple[Lane, ...] = ("box", "slices")


def parse(line: bytes) -> dict[str, Any]:
    """Return the message of a line; nothing for what a library printed."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
