import json
import os

import numcodecs
import numpy as np
import pytest
import zarr

from napari_volseg.errors import DataError
from napari_volseg.io import (
    create_zarr,
    list_datasets,
    open_volume,
    read_labels,
    read_mask,
    write_volume_zarr,
)

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


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int64", "float16", ">f4"])
@pytest.mark.parametrize("shape", [(20, 30, 25), (3, 5, 270, 7), (1, 1, 1)])
def test_round_trip(path, rng, dtype, shape):
    array = volume(rng, shape, dtype)
    array.flags.writeable = False
    write_volume_zarr(path, {"maps": array}, VOXEL_SIZE)

    opened = open_volume(f"{path}:maps")

    assert opened.voxel_size == VOXEL_SIZE
    assert opened.data.dtype.isnative
    assert opened.data.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(opened.data[...], array)


def test_images_and_labels_of_one_folder_are_told_apart(path, rng):
    maps, labels = volume(rng, (3, 4, 5, 6)), volume(rng, (4, 5, 6), "int32")
    write_volume_zarr(path, {"instances": labels, "maps": maps}, VOXEL_SIZE)

    assert list_datasets(str(path)) == ["instances", "maps"]
    np.testing.assert_array_equal(open_volume(str(path)).data[...], maps)
    np.testing.assert_array_equal(read_labels(str(path)), labels)
    np.testing.assert_array_equal(read_mask(f"{path}:instances"), labels != 0)
    attributes = zarr.open_group(path, mode="r")["instances"].attrs
    assert "image-label" in attributes["ome"]


def test_metadata_is_ome_zarr_0_5(path):
    array = create_zarr(path, (3, 20, 300, 300), "uint8", VOXEL_SIZE, name="maps")
    ome = zarr.open_group(path, mode="r").attrs["ome"]

    assert array.metadata.zarr_format == 3
    assert array.chunks == (1, 16, 256, 256)
    assert ome["version"] == "0.5"
    image = ome["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == list("czyx")
    assert {axis.get("unit") for axis in image["axes"]} == {None, "nanometer"}
    assert image["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 40.0, 8.0, 4.5]}
    ]


def test_an_image_is_readable_while_it_is_written(path, rng):
    values = volume(rng, (3, 50, 20, 20))
    array = create_zarr(path, values.shape, values.dtype, VOXEL_SIZE, name="maps")
    opened = open_volume(str(path))
    for start in range(0, 50, 7):  # slabs that do not meet chunks
        assert not opened.data[:, start:].any()
        array[:, start : start + 7] = values[:, start : start + 7]
        np.testing.assert_array_equal(
            opened.data[:, : start + 7], values[:, : start + 7]
        )


def test_nothing_is_overwritten(path, rng):
    path.mkdir()
    (path / "mine.txt").write_text("old")
    with pytest.raises(DataError, match="there already"):
        create_zarr(path, (2, 2, 2), "u1", VOXEL_SIZE, name="maps")
    with pytest.raises(DataError, match="there already"):
        write_volume_zarr(path, {"maps": volume(rng)}, VOXEL_SIZE)

    assert (path / "mine.txt").read_text() == "old"


def test_a_writer_that_fails_leaves_nothing(path, rng):
    class Failing:
        shape, dtype = (40, 5, 5), np.dtype("u1")

        def __getitem__(self, key):
            raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        write_volume_zarr(path, {"a": volume(rng), "b": Failing()}, VOXEL_SIZE)

    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("dtype", ["complex64", "U3", "M8[s]"])
def test_other_types_are_not_written(path, dtype):
    with pytest.raises(DataError, match="values of type"):
        create_zarr(path, (2, 2, 2), dtype, VOXEL_SIZE, name="maps")

    assert not path.exists()


# Zarr of other programs


def write_v2(path, array, **options):
    zarr.create_array(path, data=array, chunks=(8, 16, 16), zarr_format=2, **options)


@pytest.mark.parametrize(
    "compressor",
    [None, numcodecs.Blosc(), numcodecs.Zlib(), numcodecs.LZ4(), numcodecs.Zstd()],
)
def test_version_2(path, rng, compressor):
    array = volume(rng, dtype=">u2")
    filters = [numcodecs.Delta(">u2")]
    write_v2(path, array, compressors=compressor, filters=filters)
    edit(path / ".zattrs", resolution=[40, 8, 4.5])

    opened = open_volume(f"{path}[5:,::2]")

    assert opened.data.dtype == np.dtype("=u2")
    assert opened.voxel_size == (40, 16, 4.5)
    np.testing.assert_array_equal(opened.data[...], array[5:, ::2])


def test_version_3_with_shards_and_numcodecs(path, rng):
    array = volume(rng, (32, 32, 32))
    with pytest.warns(UserWarning, match="Numcodecs"):
        codec = zarr.codecs.numcodecs.LZMA()
    zarr.create_array(
        path, data=array, chunks=(8, 8, 8), shards=(16, 16, 16), compressors=codec
    )

    np.testing.assert_array_equal(open_volume(str(path)).data[3:20], array[3:20])


def write_multiscale(path, array, axes, scale, image_scale=None, version=2):
    """Write a two-level OME-Zarr 0.4 (v2) or 0.5 (v3)."""
    group = zarr.create_group(path, zarr_format=version)
    for level, step in ((0, 1), (1, 2)):
        part = array[..., ::step, ::step]
        group.create_array(str(level), data=part, chunks=part.shape)
    steps = [1] * (array.ndim - 2) + [2, 2]
    scales = [scale, [a * b for a, b in zip(scale, steps, strict=True)]]
    multiscale = {
        "axes": axes,
        "datasets": [
            {
                "path": str(i),
                "coordinateTransformations": [{"type": "scale", "scale": s}],
            }
            for i, s in enumerate(scales)
        ],
    }
    if image_scale:
        multiscale["coordinateTransformations"] = [
            {"type": "scale", "scale": image_scale}
        ]
    if version == 2:
        group.attrs["multiscales"] = [multiscale]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}


def axes(names, unit="micrometer"):
    return [
        {"name": n, "type": "space", "unit": unit} if n in "zyx" else {"name": n}
        for n in names
    ]


@pytest.mark.parametrize("version", [2, 3])
def test_multiscale_opens_its_full_size_in_nm(path, rng, version):
    array = volume(rng, (1, 2, 4, 10, 12))
    scale = [1, 1, 0.5, 0.1, 0.2]
    write_multiscale(
        path, array, axes("tczyx"), scale, [1, 1, 2, 1, 1], version=version
    )

    opened = open_volume(str(path))

    assert list_datasets(str(path)) == ["0"]
    assert opened.voxel_size == pytest.approx((1000, 100, 200))
    np.testing.assert_array_equal(opened.data[...], array[0])
    for level in (f"{path}:1", f"{path}/1"):
        assert open_volume(level).voxel_size == pytest.approx((1000, 200, 400))
        assert open_volume(level).shape_ZYX == (4, 5, 6)


def test_time_points_are_picked_by_the_user(path, rng):
    array = volume(rng, (3, 4, 10, 12))
    write_multiscale(path, array, axes("tzyx"), [1, 1, 1, 1])

    with pytest.raises(DataError, match=r"TZYX.*time points.*\[0\]"):
        open_volume(str(path))
    np.testing.assert_array_equal(open_volume(f"{path}[2]").data[...], array[2])


def test_axes_in_another_order_are_sorted(path, rng):
    array = volume(rng, (10, 12, 4, 2))
    write_multiscale(path, array, axes("xyzc"), [1, 2, 3, 1])

    opened = open_volume(str(path))

    assert opened.voxel_size == (3000, 2000, 1000)
    np.testing.assert_array_equal(
        opened.data[:, 1:, ::-1, 3], array.transpose(3, 2, 1, 0)[:, 1:, ::-1, 3]
    )


def test_labels_inside_an_image_are_found(path, rng):
    image, labels = volume(rng, (4, 10, 12)), volume(rng, (4, 10, 12), "int32")
    write_multiscale(path, image, axes("zyx"), [1, 1, 1])
    zarr.create_group(path / "labels", zarr_format=2)
    write_multiscale(path / "labels" / "cells", labels, axes("zyx"), [1, 1, 1])

    np.testing.assert_array_equal(read_labels(str(path)), labels)
    np.testing.assert_array_equal(open_volume(str(path)).data[...], image)
    assert list_datasets(str(path)) == ["0", "labels/cells"]


def test_dimension_names_are_read(path, rng):
    array = volume(rng, (4, 10, 12, 2))
    zarr.create_array(path, data=array, dimension_names=("z", "y", "x", "c"))

    assert open_volume(str(path)).data.shape == (2, 4, 10, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": []}, "multiscales/datasets"),
        ({"datasets": None}, "multiscales/datasets"),
        ({"datasets": [{"path": "7"}]}, "no such array"),
        ({"datasets": [{"path": "../other.zarr"}]}, "out of its folder"),
        ({"datasets": [{"path": "/etc"}]}, "no such array"),
        ({"datasets": [{"path": 3}]}, "multiscales/datasets"),
        ({"axes": ["z", "y"]}, "multiscales/axes"),
        ({"axes": [{"unit": "nm"}] * 3}, "multiscales/axes"),
        ({"axes": 5}, "multiscales/axes"),
    ],
)
def test_broken_multiscales_name_the_key(path, rng, change, message):
    write_volume_zarr(path.with_name("other.zarr"), {"a": volume(rng)}, VOXEL_SIZE)
    write_multiscale(path, volume(rng, (4, 10, 12)), axes("zyx"), [1, 1, 1])
    attributes = json.loads((path / ".zattrs").read_text())
    edit(path / ".zattrs", multiscales=[attributes["multiscales"][0] | change])

    with pytest.raises(DataError, match=message):
        open_volume(str(path))


@pytest.mark.parametrize("scale", [[0, 1, 1], [-1, 1, 1], ["a", 1, 1], [1, 1], None])
def test_absurd_scales_count_as_unknown(path, rng, scale):
    write_multiscale(path, volume(rng, (4, 10, 12)), axes("zyx"), [1, 1, 1])
    attributes = json.loads((path / ".zattrs").read_text())
    level = attributes["multiscales"][0]["datasets"][0]
    level["coordinateTransformations"][0]["scale"] = scale
    edit(path / ".zattrs", **attributes)

    assert open_volume(str(path)).voxel_size == (1, 1, 1)


# Hostile folders


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
