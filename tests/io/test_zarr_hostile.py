"""Zarr folders that are damaged or reach for what is not theirs."""

import json
import os

import numcodecs
import numpy as np
import pytest
import zarr

from napari_volseg.errors import DataError
from napari_volseg.io import list_datasets, open_volume, read_labels, write_volume_zarr

VOXEL_SIZE = (40.0, 8.0, 4.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ein Würfel 🧊.ome.zarr"


def volume(rng, shape=(20, 30, 25), dtype="uint8"):
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


def edit(file, **changes):
    """Change the keys of a metadata file; an empty folder gets a new one."""
    metadata = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(metadata | changes))


def write_v2(path, array, **options):
    zarr.create_array(path, data=array, chunks=(8, 16, 16), zarr_format=2, **options)


@pytest.mark.parametrize("position", ["compressor", "filters"])
@pytest.mark.parametrize("codec", ["pickle", "json2", "my_codec"])
def test_codecs_that_are_not_allowed_are_named(path, rng, position, codec):
    write_v2(path, volume(rng))
    entry = {"id": codec}
    edit(path / ".zarray", **{position: [entry] if position == "filters" else entry})

    with pytest.raises(DataError, match=f"codec {codec}"):
        open_volume(str(path))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("codec", ["numcodecs.pickle", "vlen-utf8", "secret"])
def test_codecs_of_version_3_are_checked_inside_shards_too(path, rng, codec, nested):
    zarr.create_array(path, data=volume(rng))
    codecs = [{"name": "bytes"}, {"name": codec, "configuration": {}}]
    if nested:
        inside = {"chunk_shape": [1, 1, 1], "codecs": codecs, "index_codecs": []}
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    edit(path / "zarr.json", codecs=codecs)

    with pytest.raises(DataError, match=f"codec {codec}"):
        open_volume(str(path))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (".zarray", {"dtype": "|O"}, "values of type object"),
        (".zarray", {"dtype": [["a", "<u1"], ["b", "<f4"]]}, "compound"),
        (".zarray", {"dtype": "<c8"}, "values of type complex64"),
        (".zarray", {"dtype": "nonsense"}, "cannot be read"),
        (".zarray", {"shape": [-1, 2, 2]}, "shape"),
        (".zarray", {"shape": [0, 2, 2]}, "shape"),
        (".zarray", {"shape": "big"}, "shape"),
        (".zarray", {"shape": [2, 2]}, "axes|cannot be read"),
        (".zarray", {"chunks": [0, 2, 2]}, "chunks"),
        (".zarray", {"chunks": [2**20, 2**20, 2**10]}, "memory are free"),
        (".zarray", {"filters": 3}, "cannot be read"),
        (".zarray", {"compressor": "x"}, "cannot be read"),
    ],
)
def test_damaged_metadata(path, rng, file, changes, message):
    write_v2(path, volume(rng))
    edit(path / file, **changes)

    with pytest.raises(DataError, match=message):
        open_volume(str(path))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_metadata_that_is_not_json(path, rng, text):
    write_v2(path, volume(rng))
    (path / ".zarray").write_text(text, encoding="latin-1")

    with pytest.raises(DataError, match="JSON"):
        open_volume(str(path))


def chunks(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")


def test_links_out_of_the_folder_are_not_followed(path, rng, tmp_path):
    write_v2(path, volume(rng), compressors=None)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 8 * 16 * 16)
    chunk = chunks(path)[0]
    chunk.unlink()
    chunk.symlink_to(secret)

    with pytest.raises(DataError, match="leads out of its Zarr folder"):
        open_volume(str(path)).read()


@pytest.mark.parametrize("version", [2, 3])
def test_linked_groups_and_metadata_are_not_followed(path, rng, tmp_path, version):
    other = tmp_path / "other.zarr"
    zarr.save_array(other, volume(rng), zarr_format=version)
    zarr.create_group(path, zarr_format=version)
    (path / "raw").symlink_to(other)

    assert list_datasets(str(path)) == []
    with pytest.raises(DataError, match="leads out of its Zarr folder"):
        open_volume(f"{path}:raw")


@pytest.mark.parametrize("dataset", ["../other.zarr", "a/../../other.zarr", "..\\x"])
def test_paths_out_of_the_folder_are_refused(path, rng, tmp_path, dataset):
    write_v2(tmp_path / "other.zarr", volume(rng))
    zarr.create_group(path)

    with pytest.raises(DataError, match="out of its folder"):
        open_volume(f"{path}:{dataset}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_in_place_of_a_chunk_does_not_hang(path, rng):
    write_v2(path, volume(rng))
    chunk = chunks(path)[0]
    chunk.unlink()
    os.mkfifo(chunk)

    with pytest.raises(DataError, match="not a regular file"):
        open_volume(str(path)).read()


def test_a_truncated_chunk_is_an_error_of_its_read(path, rng):
    array = volume(rng)
    write_v2(path, array, compressors=numcodecs.Blosc())
    chunk = chunks(path)[-1]
    chunk.write_bytes(chunk.read_bytes()[:-7])
    opened = open_volume(str(path))

    np.testing.assert_array_equal(opened.data[:8], array[:8])
    with pytest.raises(DataError, match="cannot be read"):
        opened.read()


def test_a_wrong_name_names_the_nearest(path, rng):
    write_volume_zarr(path, {"maps": volume(rng), "b": volume(rng)}, VOXEL_SIZE)

    with pytest.raises(DataError, match=r"did you mean maps\?"):
        open_volume(f"{path}:map")
    with pytest.raises(DataError, match=r"several arrays \(b, maps\)"):
        read_labels(str(path))


def test_folders_without_volumes_say_so(tmp_path, path):
    zarr.create_group(path / "inner")
    zarr.create_group(path)
    with pytest.raises(DataError, match="without Zarr metadata"):
        open_volume(str(tmp_path))
    with pytest.raises(DataError, match="no array"):
        open_volume(str(path))
    with pytest.raises(DataError, match="is a group"):
        open_volume(f"{path}:inner")
