"""Chunks that inflate to more than they may, and chunks that are not there."""

import bz2
import gzip
import json
import lzma
import struct
import zlib

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from napari_volseg.errors import DataError
from napari_volseg.io import open_volume
from napari_volseg.io.zarr_chunks import inflated_size

BOMB = 2**27
PACKERS = {
    "blosc": numcodecs.Blosc(),
    "bz2": numcodecs.BZ2(),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(),
    "zlib": numcodecs.Zlib(),
    "zstd": numcodecs.Zstd(),
}


@pytest.fixture(scope="module")
def bombs():
    """128 MiB of zeros in as few bytes as each format takes."""
    zeros = bytes(BOMB)
    some, n = bytes(2**20), BOMB // 2**20
    return {
        "blosc": struct.pack("<BBBBIII", 2, 1, 0x33, 1, BOMB, BOMB, 30) + bytes(14),
        "bz2": bz2.compress(some) * n,  # of these, streams may follow each other
        "gzip": gzip.compress(some) * n,
        "lz4": numcodecs.LZ4().encode(zeros),
        "lzma": lzma.compress(some, preset=0) * n,
        "zlib": zlib.compress(zeros, 1),
        "zstd": numcodecs.Zstd().encode(zeros),
        "zstd in blocks": unstated_zstd(),
    }


def unstated_zstd():
    """Zstandard of a frame without its length: 2,048 times a byte 131,072 times."""
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    end = (1).to_bytes(3, "little")
    return (0xFD2FB528).to_bytes(4, "little") + b"\0\x58" + 2048 * block + end


def chunk_of(path):
    files = (p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    return min(p for p in files if p.suffix != ".json")


@pytest.mark.parametrize("name", [*PACKERS, "zstd in blocks"])
def test_a_chunk_that_inflates_is_refused_before_it_does(tmp_path, bombs, name):
    values = np.ones((8, 8, 8), np.uint16)
    packer = PACKERS[name.split()[0]]
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=values, compressors=packer, zarr_format=2)
    chunk_of(path).write_bytes(bombs[name])
    assert len(bombs[name]) < 2**21

    with pytest.raises(
        DataError, match=r"chunk 0\.0\.0 inflates to more than the 1024"
    ):
        open_volume(str(path)).read()


@pytest.mark.parametrize("sharded", ["", "whole", "part"])
@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("gzip", [GzipCodec()]),
        ("zstd", [ZstdCodec()]),
        ("blosc", [BloscCodec()]),
        ("zstd", [ZstdCodec(), Crc32cCodec()]),
    ],
)
def test_chunks_of_version_3_and_of_shards_too(tmp_path, bombs, name, codecs, sharded):
    path = tmp_path / "a.zarr"
    options = {"shards": (8, 8, 8)} if sharded else {}
    values = np.ones((8, 8, 8), np.uint8)
    zarr.create_array(
        path, data=values, chunks=(4, 4, 8), compressors=codecs, **options
    )
    np.testing.assert_array_equal(open_volume(str(path)).data[...], values)
    raw = chunk_of(path).read_bytes()
    if sharded:
        index = np.frombuffer(raw[-68:-4], "<u8").reshape(4, 2).copy()
        index[0] = len(raw) - 68, len(bombs[name])
        table = index.tobytes()
        table += numcodecs.CRC32C(location="end").encode(table)[-4:].tobytes()
        raw = raw[:-68] + bombs[name] + table
    else:
        raw = bombs[name] + (bytes(4) if len(codecs) > 1 else b"")
    chunk_of(path).write_bytes(raw)
    data = open_volume(str(path)).data

    with pytest.raises(DataError, match="inflates to more than the 128 bytes"):
        data[...] if sharded != "part" else data[0, 0, 0]


@pytest.mark.parametrize("filters", [None, [numcodecs.Delta("u2")]])
@pytest.mark.parametrize("name", PACKERS)
def test_chunks_of_every_kind_are_still_read(tmp_path, rng, name, filters):
    values = rng.integers(0, 999, (20, 90, 100), np.uint16)  # too much to be harmless
    zarr.create_array(
        tmp_path / "a.zarr",
        data=values,
        chunks=(16, 90, 100),
        compressors=PACKERS[name],
        filters=filters,
        zarr_format=2,
    )

    data = open_volume(str(tmp_path / "a.zarr")).data

    np.testing.assert_array_equal(data[...], values)
    assert data.missing_note is None


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "lzma"])
@pytest.mark.parametrize("n", [0, 1, 2_200_000])
def test_what_is_inflated_to_be_measured_is_measured_exactly(rng, name, n, monkeypatch):
    monkeypatch.setattr("napari_volseg.io.zarr_chunks._HARMLESS", -(2**60))
    packed = bytes(PACKERS[name].encode(rng.bytes(n // 2) + bytes(n - n // 2)))

    assert inflated_size(memoryview(packed), name, {}, 10**7) == n
    if name != "zlib":  # several streams, one after the other
        assert inflated_size(memoryview(packed * 2), name, {}, 10**7) == 2 * n
    assert inflated_size(memoryview(packed[: len(packed) // 2]), name, {}, 10**7) <= n


def test_what_is_packed_twice_is_refused(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(
        path,
        data=np.ones((4, 4, 4)),
        filters=[numcodecs.Zlib()],
        compressors=numcodecs.GZip(),
        zarr_format=2,
    )
    with pytest.raises(DataError, match=r"compressed twice \(zlib, gzip\)"):
        open_volume(str(path))


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_not_there_are_counted(tmp_path, rng, version):
    values = rng.integers(1, 9, (8, 12, 8), np.uint8)
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=values, chunks=(4, 4, 8), zarr_format=version)
    chunk_of(path).unlink()
    data = open_volume(str(path)).data

    assert data[4:].all()
    assert data.missing_note is None
    assert not data[:4, :4].any()
    data[...]
    assert data.missing_note.startswith("1 chunk is not in the folder of")
    chunk_of(path).unlink()
    data[...]
    assert data.missing_note.startswith("2 chunks are not")


def test_versions_may_be_mixed_in_one_folder(tmp_path, rng):
    values = rng.integers(0, 9, (4, 5, 6), np.uint8)
    zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    zarr.save_array(tmp_path / "a.zarr" / "raw", values, zarr_format=3)
    np.testing.assert_array_equal(
        open_volume(f"{tmp_path / 'a.zarr'}:raw").data[...], values
    )
    # Metadata of both: the newer counts, and nothing of the older is believed.
    (tmp_path / "a.zarr" / "raw" / ".zarray").write_text(json.dumps({"shape": "odd"}))
    assert open_volume(f"{tmp_path / 'a.zarr'}:raw").data.shape == (4, 5, 6)
