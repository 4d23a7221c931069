import numpy as np
import pytest
import tifffile

from napari_volseg.errors import DataError
from napari_volseg.io import (
    failures,
    list_datasets,
    open_volume,
    read_labels,
    read_mask,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ein Würfel 🧊.tif"


def volume(rng, shape=(6, 20, 30), dtype="uint8"):
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"compression": "zlib", "volumetric": True, "tile": (4, 16, 16)},
    ],
    ids=str,
)
def test_stacks(path, rng, dtype, byteorder, options):
    array = volume(rng, dtype=dtype)
    if dtype == "bool" and "tile" in options:
        options = {}
    tifffile.imwrite(path, array, byteorder=byteorder, **options)

    opened = open_volume(str(path))

    assert opened.data.dtype == np.dtype(dtype)
    assert opened.data.dtype.isnative
    np.testing.assert_array_equal(opened.data[...], array)
    np.testing.assert_array_equal(opened.data[1:5:2, -3, ::-1], array[1:5:2, -3, ::-1])


def test_opening_reads_no_page(path, rng, monkeypatch):
    tifffile.imwrite(path, volume(rng), compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)

    assert open_volume(f"{path}[1:3]").shape_ZYX == (2, 20, 30)


def test_separate_pages_of_another_program(path, rng):
    array = volume(rng)
    with tifffile.TiffWriter(path) as writer:
        for page_YX in array:
            writer.write(page_YX, contiguous=False, metadata=None, tile=(16, 16))

    np.testing.assert_array_equal(read_labels(str(path)), array)
    np.testing.assert_array_equal(read_mask(str(path)), array != 0)


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("um", 1e3), ("micron", 1e3), ("\\u00B5m", 1e3), ("nm", 1), ("mm", 1e6)],
)
def test_imagej_hyperstacks(path, rng, unit, nm):
    array_ZCYX = volume(rng, (6, 2, 20, 30), "uint16")
    tifffile.imwrite(
        path,
        array_ZCYX,
        imagej=True,
        resolution=(5, 4),
        metadata={"axes": "ZCYX", "spacing": -0.5, "unit": unit},
    )

    opened = open_volume(str(path))

    assert opened.voxel_size == pytest.approx((0.5 * nm, 0.25 * nm, 0.2 * nm))
    np.testing.assert_array_equal(opened.data[...], array_ZCYX.swapaxes(0, 1))
    np.testing.assert_array_equal(
        open_volume(f"{path}[:,1]").data[...], array_ZCYX[:, 1]
    )


@pytest.mark.parametrize("metadata", [{}, {"unit": "pixel"}, {"unit": "banana"}])
def test_imagej_without_a_unit_has_no_voxel_size(path, rng, metadata):
    tifffile.imwrite(
        path, volume(rng), imagej=True, metadata={"axes": "ZYX"} | metadata
    )

    assert open_volume(str(path)).voxel_size == (1, 1, 1)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=str)
def test_ome_tiff(path, rng, options):
    path = path.with_suffix(".ome.tif")
    array = volume(rng, (2, 6, 20, 30), "uint16")
    metadata = {
        "axes": "CZYX",
        "PhysicalSizeX": 0.2,
        "PhysicalSizeY": 250,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 0.001,
        "PhysicalSizeZUnit": "mm",
    }
    tifffile.imwrite(path, array, metadata=metadata, **options)

    opened = open_volume(f"{path}[:,::2]")

    assert opened.voxel_size == pytest.approx((2000, 250, 200))
    np.testing.assert_array_equal(opened.data[...], array[:, ::2])


@pytest.mark.parametrize(
    ("shape", "voxel_size"),
    [((1, 20, 30), (250, 250, 200)), ((6, 20, 30), (1, 1, 1))],
    ids=["plane", "stack"],
)
def test_ome_tiff_without_the_distance_of_slices(path, rng, shape, voxel_size):
    path = path.with_suffix(".ome.tif")
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, volume(rng, shape), metadata=metadata)

    assert open_volume(str(path)).voxel_size == pytest.approx(voxel_size)


@pytest.mark.parametrize("axes", ["TZYX", "TCZYX"])
def test_time_points_are_picked_by_the_user(path, rng, axes):
    path = path.with_suffix(".ome.tif")
    array = volume(
        rng, (3, 2, 6, 20, 30)[-len(axes) :] if axes[1] == "C" else (3, 6, 20, 30)
    )
    tifffile.imwrite(path, array, metadata={"axes": axes})

    with pytest.raises(DataError, match=rf"{axes}.*time points.*\[0\]"):
        open_volume(str(path))
    np.testing.assert_array_equal(open_volume(f"{path}[2]").data[...], array[2])
    np.testing.assert_array_equal(open_volume(f"{path}[1:2]").data[...], array[1])


def test_slices_saved_as_time_points_get_a_hint(path, rng):
    tifffile.imwrite(path, volume(rng), imagej=True, metadata={"axes": "TYX"})

    with pytest.raises(DataError, match="save them as z"):
        open_volume(str(path))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=str)
@pytest.mark.parametrize(
    ("n_samples", "planarconfig"), [(3, "contig"), (4, "contig"), (4, "separate")]
)
def test_colours_are_channels_and_alpha_is_dropped(
    path, rng, n_samples, planarconfig, options
):
    array = volume(rng, (6, 20, 30, n_samples))
    stored = np.moveaxis(array, 3, 1) if planarconfig == "separate" else array
    tifffile.imwrite(
        path,
        stored,
        photometric="rgb",
        planarconfig=planarconfig,
        extrasamples=["unassalpha"] * (n_samples - 3),
        **options,
    )

    np.testing.assert_array_equal(
        open_volume(str(path)).data[...], np.moveaxis(array, 3, 0)[:3]
    )


def test_one_plane_is_a_volume_of_one_slice(path, rng):
    array_YX = volume(rng, (20, 30))
    tifffile.imwrite(path, array_YX)

    np.testing.assert_array_equal(open_volume(str(path)).data[...], array_YX[None])


def test_several_images_are_picked_by_number(path, rng):
    first, second = volume(rng), volume(rng, (7, 11, 13), "uint16")
    with tifffile.TiffWriter(path) as writer:
        writer.write(first, metadata=None)
        writer.write(second, metadata=None)

    assert list_datasets(str(path)) == ["0", "1"]
    with pytest.raises(DataError, match=r"2 images.*:0"):
        open_volume(str(path))
    np.testing.assert_array_equal(open_volume(f"{path}:1").data[...], second)
    with pytest.raises(DataError, match="no dataset 2"):
        open_volume(f"{path}:2")


# Hostile files


@pytest.mark.parametrize("other", ["../secret.tif", "/etc/secret.tif"])
def test_parts_in_other_files_are_not_read(path, rng, other):
    path = path.with_name("a.ome.tif")
    tifffile.imwrite(path, volume(rng), metadata={"axes": "ZYX"})
    elsewhere = (
        '<TiffData FirstZ="6" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{other}">urn:uuid:0</UUID></TiffData></Pixels>'
    )
    xml = tifffile.tiffcomment(path).replace('SizeZ="6"', 'SizeZ="7"')
    tifffile.tiffcomment(path, xml.replace("</Pixels>", elsewhere).encode())

    with pytest.raises(DataError, match="several files"):
        open_volume(str(path))


def test_metadata_in_another_file_is_not_read(path, rng):
    path = path.with_name("a.ome.tif")
    tifffile.imwrite(path, volume(rng), metadata={"axes": "ZYX"})
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    pointer = (
        f'<?xml version="1.0"?><OME xmlns="{namespace}" UUID="urn:uuid:1">'
        '<BinaryOnly MetadataFile="../companion.ome" UUID="urn:uuid:2"/></OME>'
    )
    tifffile.tiffcomment(path, pointer.encode())

    with pytest.raises(DataError, match="several files"):
        open_volume(str(path))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=str)
@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9])
def test_truncated_files(path, rng, options, share):
    tifffile.imwrite(path, volume(rng, (6, 64, 64)), **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(DataError, match="ein Würfel"):
        open_volume(str(path)).read()


def test_four_terabytes_declared_are_refused(path, rng):
    tifffile.imwrite(path, volume(rng, (20, 30)), metadata=None, bigtiff=True)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages.first.tags[name].overwrite(2**21, dtype="I")
        tif.pages.first.tags["StripByteCounts"].overwrite(2**42, dtype="Q")

    with pytest.raises(DataError, match=r"incomplete|memory are free"):
        open_volume(str(path)).read()


def test_a_page_that_inflates_beyond_memory_is_refused(path, monkeypatch):
    tifffile.imwrite(path, np.zeros((2, 600, 600), np.uint8), compression="zlib")
    assert path.stat().st_size < 10_000
    data = open_volume(str(path)).data
    assert data[0].shape == (600, 600)
    monkeypatch.setattr(failures, "_ALWAYS_FITS", 1000)
    monkeypatch.setattr(failures.psutil, "virtual_memory", Little)

    with pytest.raises(DataError, match="memory are free"):
        data[0, :1, :1]


class Little:
    available = 10_000


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"tile": (16, 16)}])
def test_pages_that_are_cut_off_while_the_file_is_open(path, rng, options, share):
    tifffile.imwrite(path, volume(rng, (6, 64, 64)), **options)
    data = open_volume(str(path)).data
    with path.open("r+b") as stream:
        stream.truncate(int(path.stat().st_size * share))

    with pytest.raises(DataError, match=r"cannot be read|incomplete|shorter"):
        data[...]


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_long_chain_that_bites_its_tail_is_refused(path, rng, bigtiff):
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for page_YX in volume(rng, (150, 4, 4)):
            writer.write(page_YX, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tif:
        middle, last = tif.pages[120], tif.pages[-1]
        head, tag, n = (8, 20, 8) if bigtiff else (2, 12, 4)
        place, target = last.offset + head + tag * len(last.tags), middle.offset
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(int(target).to_bytes(n, "little"))

    for read in (open_volume, list_datasets):
        with pytest.raises(DataError, match="chain of 150 pages is circular"):
            read(str(path))


def test_a_loop_of_pages_ends(path, rng):
    with tifffile.TiffWriter(path) as writer:
        for page_YX in volume(rng):
            writer.write(page_YX, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0], tif.pages[-1]
        n_tags = len(last.tags)
        place = last.offset + 2 + 12 * n_tags
        target = first.offset
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(int(target).to_bytes(4, "little"))

    with pytest.raises(DataError, match="circular"):
        open_volume(str(path))


def test_lzw_is_read_where_imagecodecs_is_installed(path, rng):
    pytest.importorskip("imagecodecs", reason="needs the package imagecodecs")
    data = volume(rng)
    tifffile.imwrite(path, data, compression="lzw")
    np.testing.assert_array_equal(open_volume(str(path)).read()[0], data)


def test_a_compression_that_is_missing_is_named(path, rng):
    tifffile.imwrite(path, volume(rng), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["Compression"].overwrite(34_676)  # SGI's, which nobody reads

    with pytest.raises(DataError, match="imagecodecs"):
        open_volume(str(path))


def test_complex_values_are_refused(path):
    tifffile.imwrite(path, np.zeros((3, 4, 5), np.complex64), photometric="minisblack")

    with pytest.raises(DataError, match="values of type complex64"):
        open_volume(str(path))
