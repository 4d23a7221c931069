"""The inside of a Zarr folder: groups, arrays and the bytes of their chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from napari_volseg.errors import DataError
from napari_volseg.io.ngff import (
    find_multiscale,
    list_levels,
    normal_place,
    read_level,
)

__all__ = [
    "ChunkCheck",
    "InsideStore",
    "Node",
    "checked_place",
    "list_nodes",
    "read_node",
]

_METADATA_BYTES = 16 * 2**20
_MAX_VISITED = 10_000
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Node:
    """An array or group: its metadata as it stands in the file."""

    is_array: bool
    version: int
    metadata: dict[str, Any]
    attributes: dict[str, Any]


def checked_place(place: str, name: str) -> str:
    """Return a path inside the store without empty parts.

    Raises
    ------
    DataError
        If it leads out of the store.
    """
    inside = normal_place(place)
    if ".." in inside.split("/") or "\\" in place or ":" in place or "\0" in place:
        raise DataError(f"{name} points out of its folder with {place}: not followed")
    return inside


def list_nodes(root: Path) -> list[str]:
    """Return images and arrays below a group; levels of an image are not repeated."""
    found: list[str] = []
    budget = iter(range(_MAX_VISITED))
    _walk(root, "", found, budget, 0, frozenset())
    return found


def _walk(
    root: Path,
    place: str,
    found: list[str],
    budget: Iterator[int],
    depth: int,
    levels: frozenset[str],
) -> None:
    """Add what lies at a place and below it, but for the levels of images above."""
    node = read_node(root, place)
    if node is None or next(budget, None) is None or depth > _MAX_DEPTH:
        return
    if node.is_array:
        if place and len(node.metadata.get("shape") or ()) >= 3:
            found.append(place)
        return
    multiscale = find_multiscale(node.attributes)
    if multiscale is not None:
        found.append(place or normal_place(read_level(multiscale, root.name)))
        levels |= {normal_place(f"{place}/{n}") for n in list_levels(multiscale)}
    with os.scandir(root / place) as entries:
        folders = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    for folder in folders:
        inner = f"{place}/{folder}" if place else folder
        if inner not in levels:
            _walk(root, inner, found, budget, depth + 1, levels)


def read_node(root: Path, place: str) -> Node | None:
    """Return what lies at a place of the store; None when nothing does."""
    v3 = _read_json(root, place, "zarr.json")
    if v3 is not None:
        return Node(
            v3.get("node_type") == "array", 3, v3, _object(v3.get("attributes"))
        )
    for file in (".zarray", ".zgroup"):
        v2 = _read_json(root, place, file)
        if v2 is not None:
            attributes = _read_json(root, place, ".zattrs") or {}
            return Node(file == ".zarray", 2, v2, attributes)
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_json(root: Path, place: str, file: str) -> dict[str, Any] | None:
    path = root / place / file
    _check_inside(os.path.realpath(root), path)
    if not path.is_file():
        return None
    if path.stat().st_size > _METADATA_BYTES:
        raise DataError(f"{path} is too large for metadata: the Zarr folder is damaged")
    try:
        return _object(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: copy the Zarr folder again, whole"
        ) from error


def _check_inside(root: str, path: Path) -> None:
    """Raise when a path leads out of a resolved root, or to a pipe or device."""
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(
            f"{path} leads out of its Zarr folder and is not followed: copy the data in"
        )
    if os.path.exists(real) and not (os.path.isfile(real) or os.path.isdir(real)):
        raise DataError(f"{path} is not a regular file: copy the Zarr folder again")


class ChunkCheck(Protocol):
    """What looks at the bytes of chunks before they are decoded."""

    def check_file(self, raw: memoryview, place: str, /) -> None:
        """Raise DataError for a file that must not be decoded."""

    def check_part(self, raw: memoryview, start: int | None, place: str, /) -> None:
        """Raise DataError for a part of one, which starts there or is its end."""


class InsideStore(LocalStore):
    """A store that reads regular files below its root and nothing else.

    Parameters
    ----------
    check
        Sees every chunk before it is decoded.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        read_only: bool = True,
        check: ChunkCheck | None = None,
    ) -> None:
        super().__init__(root, read_only=read_only)
        self._real = os.path.realpath(root)
        self._check = check
        self.missing: set[str] = set()
        """Keys of chunks that were asked for and are not there."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of a key that lies inside."""
        _check_inside(self._real, self.root / key)
        found = await super().get(key, prototype, byte_range)
        return self._seen(key, found, byte_range)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of a key that lies inside."""
        _check_inside(self._real, self.root / key)
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return self._seen(key, found, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of keys that all lie inside."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _seen(
        self, key: str, found: Buffer | None, part: ByteRequest | None
    ) -> Buffer | None:
        """Check the bytes of a chunk; note one that is not there."""
        name = key.rpartition("/")[2]
        if name.startswith(".z") or name == "zarr.json":
            return found
        if found is None:
            self.missing.add(key)
        elif self._check is not None:
            raw = found.as_numpy_array().data.cast("B")
            if part is None:
                self._check.check_file(raw, key)
            else:
                start = part.start if isinstance(part, RangeByteRequest) else None
                self._check.check_part(raw, start, key)
        return found
