"""The chain of pages of a TIFF, followed once before anything else is believed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from napari_volseg.errors import DataError

__all__ = ["check_pages"]

_MAX_TAGS = 4096


def check_pages(path: Path) -> None:
    """Raise DataError when the pages of a TIFF lead round in a circle.

    A reader that follows them would never come to an end. A chain that breaks off is
    left to the reader, who knows what it was for.
    """
    with path.open("rb") as stream:
        head = stream.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        n_format, n_bytes, tag_bytes = ("Q", 8, 20) if is_big else ("H", 2, 12)
        offset_format, offset_bytes = ("Q", 8) if is_big else ("I", 4)
        at = 8 if is_big else 4
        seen: set[int] = set()
        offset = _number(stream, at, order + offset_format, offset_bytes)
        while offset:
            if offset in seen:
                raise DataError(
                    f"{path.name} is damaged, its chain of {len(seen)} pages is "
                    "circular: copy it again"
                )
            seen.add(offset)
            n_tags = _number(stream, offset, order + n_format, n_bytes)
            if n_tags is None or n_tags > _MAX_TAGS:
                return
            at = offset + n_bytes + n_tags * tag_bytes
            offset = _number(stream, at, order + offset_format, offset_bytes)


def _number(stream: BinaryIO, at: int, layout: str, length: int) -> int | None:
    """Return an unsigned number of the file; None beyond its end."""
    if at >= 2**63:
        return None
    stream.seek(at)
    raw = stream.read(length)
    return int(struct.unpack(layout, raw)[0]) if len(raw) == length else None
