"""The bytes of Zarr chunks, looked at before they are decoded.

A few kilobytes can inflate to gigabytes. What a chunk may decode to is declared by its
array, so its compressed bytes are measured against that first: where a format says its
length, or bounds it, by reading that; else by inflating it piece by piece and keeping
nothing, up to the limit.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.io.zarr_nodes import Node

__all__ = ["ChunkRule", "chunk_rule", "inflated_size"]

_SLACK = 4096
"""Bytes that checksums and the like may add."""
_HARMLESS = 2**26
"""What the ratio of a format may add to a chunk without its being inflated first."""
_MAX_DEFLATE = 1032
_PIECE = 2**20
_ABSENT = 2**64 - 1
_SUMS_AT_START = frozenset({"adler32", "crc32", "jenkins_lookup3"})
_SUMS_AT_END = frozenset({"crc32c", "fletcher32"})
_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """What the bytes of a chunk, or of a shard of chunks, may be."""

    name: str
    """The array, for messages."""
    limit: int
    """Bytes that a chunk may decode to."""
    compressor: str | None
    options: Mapping[str, Any]
    skipped: tuple[int, int]
    """Bytes of checksums before and after what is compressed."""
    inner: ChunkRule | None = None
    """Of the chunks in a shard."""
    n_inner: int = 0
    index_bytes: int = 0
    index_first: bool = False

    def check_file(self, raw: memoryview, place: str) -> None:
        """Raise DataError when a whole file inflates beyond what is declared."""
        if self.inner is None:
            self._check(raw, place)
            return
        if len(raw) < self.index_bytes:
            return  # damaged; Zarr says how
        at = 0 if self.index_first else len(raw) - self.index_bytes
        index = np.frombuffer(raw[at : at + 16 * self.n_inner], "<u8").reshape(-1, 2)
        for start, length in index.tolist():
            if start != _ABSENT:
                self.inner.check_file(raw[start : start + length], place)

    def check_part(self, raw: memoryview, start: int | None, place: str) -> None:
        """Raise DataError when a part of a shard does; `start` is None for its end."""
        is_index = start is None or (self.index_first and start == 0)
        if self.inner is not None and not is_index:
            self.inner.check_file(raw, place)

    def _check(self, raw: memoryview, place: str) -> None:
        if self.compressor is None:
            return
        before, after = self.skipped
        packed = raw[before : len(raw) - after]
        if inflated_size(packed, self.compressor, self.options, self.limit) > (
            self.limit + _SLACK
        ):
            raise DataError(
                f"{self.name} cannot be read, its chunk {place} inflates to more than "
                f"the {self.limit} bytes that a chunk has: copy the Zarr folder again"
            )


def chunk_rule(node: Node, itemsize: int, name: str) -> ChunkRule:
    """Return what the chunks of an array may be.

    Raises
    ------
    DataError
        If chunks are compressed twice, or the index of shards is.
    """
    if node.version == 2:
        filters = node.metadata.get("filters") or []
        compressor = node.metadata.get("compressor")
        codecs = [(str(f["id"]), f) for f in filters]
        codecs += [(str(compressor["id"]), compressor)] if compressor else []
        return _rule(codecs, node.metadata["chunks"], itemsize, name)
    grid = node.metadata["chunk_grid"]["configuration"]
    return _v3_rule(node.metadata["codecs"], grid["chunk_shape"], itemsize, name)


def _v3_rule(entries: Any, shape: Any, itemsize: int, name: str) -> ChunkRule:
    codecs = [_v3_codec(entry) for entry in entries]
    shards = [options for codec, options in codecs if codec == "sharding_indexed"]
    if not shards:
        return _rule(codecs, shape, itemsize, name)
    options = shards[0]
    inner = _v3_rule(options["codecs"], options["chunk_shape"], itemsize, name)
    index = [_v3_codec(entry)[0] for entry in options["index_codecs"]]
    if set(index) - {"bytes", "crc32c"} or len(codecs) > 1:
        raise DataError(
            f"{name} is stored in shards with {', '.join(index)}, which is not "
            "supported: save it with the usual index of shards"
        )
    n_inner = prod(
        -(-n // m) for n, m in zip(shape, options["chunk_shape"], strict=True)
    )
    return ChunkRule(
        name,
        inner.limit * n_inner,
        None,
        {},
        (0, 0),
        inner,
        n_inner,
        16 * n_inner + (4 if "crc32c" in index else 0),
        options.get("index_location", "end") == "start",
    )


def _v3_codec(entry: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry.removeprefix("numcodecs."), {}
    options = entry.get("configuration") or {}
    return str(entry["name"]).removeprefix("numcodecs."), options


def _rule(
    codecs: list[tuple[str, Mapping[str, Any]]], shape: Any, itemsize: int, name: str
) -> ChunkRule:
    names = [codec for codec, _ in codecs]
    packers = [codec for codec in names if codec in _COMPRESSORS]
    if len(packers) > 1:
        raise DataError(
            f"{name} is compressed twice ({', '.join(packers)}), which is not "
            "supported: save it with one of them"
        )
    before = after = 0
    for codec, options in reversed(codecs):
        if codec in _COMPRESSORS:
            break
        if codec in _SUMS_AT_START | _SUMS_AT_END:
            default = "start" if codec in _SUMS_AT_START else "end"
            is_first = options.get("location", default) == "start"
            before, after = before + 4 * is_first, after + 4 * (not is_first)
    # Filters may change the type of the values, to eight bytes at most.
    is_plain = set(names) <= _COMPRESSORS | _SUMS_AT_END | {"bytes", "transpose"}
    limit = prod(shape) * (itemsize if is_plain else 8)
    found = [(codec, options) for codec, options in codecs if codec in _COMPRESSORS]
    compressor, options = found[0] if found else (None, {})
    return ChunkRule(name, limit, compressor, options, (before, after))


def inflated_size(
    raw: memoryview, compressor: str, options: Mapping[str, Any], limit: int
) -> int:
    """Return what bytes decode to; above `limit`, any number above it."""
    if compressor == "blosc":
        return int.from_bytes(raw[4:8], "little")
    if compressor == "lz4":
        return int.from_bytes(raw[:4], "little")
    if compressor == "zstd":
        return _zstd_size(raw, limit)
    if compressor in ("gzip", "zlib") and len(raw) * _MAX_DEFLATE < limit + _HARMLESS:
        return 0
    return _inflate(raw, compressor, options, limit)


def _zstd_size(raw: memoryview, limit: int) -> int:
    """Return the length of Zstandard frames (RFC 8878): as stated, else bounded."""
    total = at = 0
    while at + 5 <= len(raw):
        magic = int.from_bytes(raw[at : at + 4], "little")
        if magic & ~15 == 0x184D2A50:  # skipped by decoders
            at += 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528:
            break
        descriptor = raw[at + 4]
        is_single, has_sum = descriptor >> 5 & 1, descriptor >> 2 & 1
        length = (is_single, 2, 4, 8)[descriptor >> 6]
        start = at + 6 - is_single + (0, 1, 2, 4)[descriptor & 3]
        stated = int.from_bytes(raw[start : start + length], "little")
        at, bound = _zstd_blocks(raw, start + length)
        if length:
            total += stated + 256 * (length == 2)
        elif bound > limit + _HARMLESS:
            total += bound
        at += 4 * has_sum
    return total


def _zstd_blocks(raw: memoryview, at: int) -> tuple[int, int]:
    """Return where the blocks of a frame end, and a bound of what they decode to."""
    bound, is_last = 0, False
    while not is_last and at + 3 <= len(raw):
        header = int.from_bytes(raw[at : at + 3], "little")
        is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        # Stored, one byte repeated, or compressed: then at most 128 KiB.
        bound += size if kind < 2 else 2**17
        at += 3 + (1 if kind == 1 else size)
    return at, bound


def _inflate(
    raw: memoryview, compressor: str, options: Mapping[str, Any], limit: int
) -> int:
    """Inflate and throw away; stop at the first byte beyond the limit."""
    total, rest = 0, bytes(raw)
    while rest and total <= limit + _SLACK:
        stream: Any
        if compressor == "bz2":
            stream = bz2.BZ2Decompressor()
        elif compressor == "lzma":
            kind = int(options.get("format", lzma.FORMAT_XZ))
            raw_filters = options.get("filters") if kind == lzma.FORMAT_RAW else None
            stream = lzma.LZMADecompressor(kind, filters=raw_filters)
        else:
            stream = zlib.decompressobj(47)
        try:
            total, rest = _count(stream, rest, total, limit)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
            return total  # damaged; the codec says how
    return total


def _count(stream: Any, rest: bytes, total: int, limit: int) -> tuple[int, bytes]:
    """Return the length after one stream, and what follows it."""
    while not stream.eof and total <= limit + _SLACK:
        piece = stream.decompress(rest, _PIECE)
        rest = getattr(stream, "unconsumed_tail", b"")
        total += len(piece)
        if not piece and (not rest or stream.eof):
            break
    return total, stream.unused_data if stream.eof else b""
