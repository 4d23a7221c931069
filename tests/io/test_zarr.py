import json

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
    assert array.chunks == (1, 16, 128, 128)
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
    group = zarr.open_group(path, zarr_format=version)
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


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("place", ["./0", "0/", "scale0/image", "a/b/c"])
@pytest.mark.parametrize("inside", ["", "image"])
def test_a_level_at_any_place_has_its_axes_and_size(path, rng, version, place, inside):
    array = volume(rng, (4, 10, 12))
    image = path / inside
    zarr.create_group(path, zarr_format=version)
    write_multiscale(image, array, axes("zyx"), [0.5, 0.1, 0.2], version=version)
    normal = place.removeprefix("./").rstrip("/")
    if normal != "0":
        group = zarr.open_group(image, zarr_format=version)
        group.require_group(normal.rpartition("/")[0])
        (image / "0").rename(image / normal)
    rename_level(image, version, place)
    inner = f"{inside}/{normal}".lstrip("/")

    whole = f"{path}:{inside}" if inside else str(path)
    for source in (whole, f"{path}:{inner}", f"{path}:./{inner}", f"{path}/{inner}"):
        opened = open_volume(source)
        assert opened.voxel_size == pytest.approx((500, 100, 200))
        np.testing.assert_array_equal(opened.data[...], array)


@pytest.mark.parametrize("place", ["./0", "scale0/image"])
def test_a_level_at_any_place_is_listed_once(path, rng, place):
    write_multiscale(path, volume(rng, (4, 10, 12)), axes("zyx"), [1, 1, 1])
    if place != "./0":
        zarr.open_group(path, zarr_format=2).require_group("scale0")
        (path / "0").rename(path / place)
    rename_level(path, 2, place)

    assert list_datasets(str(path)) == [place.removeprefix("./")]


def rename_level(path, version, place):
    """Let an image list its first array as lying there."""
    attributes = zarr.open_group(path, zarr_format=version).attrs
    key = "multiscales" if version == 2 else "ome"
    value = attributes[key]
    image = (value if version == 2 else value["multiscales"])[0]
    image["datasets"][0]["path"] = place
    attributes[key] = value


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
