"""Arrays that lie in a file as they are."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_volseg.errors import DataError
from napari_volseg.io import open_volume, plain
from napari_volseg.io.plain import PlainArray


def save(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, values)
    return open_volume(str(path)).data


@settings(deadline=None, max_examples=50)
@given(data=st.data(), gap=st.sampled_from([0, 8, 2**18]), order=st.sampled_from("CF"))
def test_every_part_is_numpy_s(data, gap, order, tmp_path_factory):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    values = np.arange(np.prod(shape), dtype=">u2").reshape(shape)
    path = tmp_path_factory.mktemp("plain") / "a.bin"
    path.write_bytes(b"head" + values.tobytes(order))
    slices = []
    for n in shape:
        start = data.draw(st.integers(0, n - 1))
        stop = data.draw(st.integers(start + 1, n))
        slices.append(slice(start, stop, data.draw(st.integers(1, 3))))
    array = PlainArray(path, values.dtype, 4, tuple(shape), is_fortran=order == "F")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_GAP", gap)
        part = array.read(tuple(slices))

    np.testing.assert_array_equal(part, values[tuple(slices)])


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_a_file_that_gets_shorter_while_it_is_open_is_an_error(tmp_path, rng, name):
    values = rng.integers(0, 99, (40, 64, 64), np.uint8)
    data = save(tmp_path / name, values)
    np.testing.assert_array_equal(data[:3], values[:3])
    with open(tmp_path / name, "r+b") as stream:
        stream.truncate(60_000)

    with pytest.raises(DataError, match=rf"{name} has become shorter"):
        data[...]
    np.testing.assert_array_equal(data[:3], values[:3])


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_another_array_in_its_place_is_noticed(tmp_path, rng, name):
    data = save(tmp_path / name, rng.integers(0, 99, (20, 30, 40), np.uint8))
    save(tmp_path / name, rng.integers(0, 99, (40, 30, 40), np.uint16))

    with pytest.raises(DataError, match="has changed since it was opened"):
        data[0]
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        data[0]
