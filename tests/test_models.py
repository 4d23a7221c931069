import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from napari_volseg.config import build_config
from napari_volseg.errors import DataError
from napari_volseg.models import (
    FORMAT_VERSION,
    METADATA_KEY,
    read_model_info,
    read_model_metadata,
)


def _metadata(**changes):
    config = build_config({"instances": {"mask": 0.35}, "model": {"filters": [4, 8]}})
    return {
        "format_version": FORMAT_VERSION,
        "name": "mito-3",
        "created": "2026-05-01T12:00:00+00:00",
        "config": config.model_dump(mode="json"),
        "voxel_size": [30.0, 8.0, 8.0],
        "in_channels": 2,
        "scores": {"f1_50": 0.86, "ap": 0.5},
    } | changes


@pytest.fixture
def write(tmp_path):
    def write_model(metadata=None, *, raw=None):
        path = tmp_path / "model.safetensors"
        tensors = {"weight": np.zeros((2, 3), np.float32)}
        text = json.dumps(_metadata() if metadata is None else metadata)
        path.write_bytes(save(tensors, {METADATA_KEY: text}) if raw is None else raw)
        return path

    return write_model


def test_a_model_says_what_it_is(write):
    path = write()
    info = read_model_info(path)
    assert info.path == path
    assert info.name == "mito-3"
    assert info.voxel_size == (30.0, 8.0, 8.0)
    assert info.in_channels == 2
    assert info.score == 0.86
    assert info.scores == {"f1_50": 0.86, "ap": 0.5}
    assert info.instances.mask == 0.35
    assert info.architecture == "rsunet"
    assert info.created.startswith("2026-05-01")


def test_what_training_images_look_like_is_optional(write):
    """Earlier versions do not say it, and later ones may say it differently."""
    assert read_model_info(write()).intensities == ()
    assert read_model_info(write(_metadata(intensities=[["new"]]))).intensities == ()
    look = {"deciles": [0.5] * 9, "noise": 0.1, "dark_lines": None}
    ((channel,),) = read_model_info(write(_metadata(intensities=[[look]]))).intensities
    assert channel.noise == 0.1


def test_a_model_without_validation_has_no_score(write):
    assert read_model_info(write(_metadata(scores={}))).score is None


def test_a_newer_format_is_refused(write):
    path = write(_metadata(format_version=FORMAT_VERSION + 1, new_thing=[1]))
    with pytest.raises(DataError, match=r"newer version .* update"):
        read_model_metadata(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "incomplete"),
        (b"\x10\0\0", "incomplete"),
        (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "incomplete"),
        (struct.pack("<Q", 2) + b"{}", "was not made by napari-volseg"),
        (struct.pack("<Q", 2) + b"[]", "not valid JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not valid JSON"),
        (struct.pack("<Q", 10**5) + b"[" * 10**5, "not valid JSON"),
        (b"PK\x03\x04" + b"\0" * 100 + b"\xff" * 100, "PyTorch or zip"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
    ],
)
def test_other_files_are_named_for_what_they_are(write, raw, message):
    with pytest.raises(DataError, match=message):
        read_model_metadata(write(raw=raw))


def test_a_cut_off_file_is_incomplete_wherever_it_is_cut(write):
    whole = write().read_bytes()
    for length in (0, 7, 8, 50, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DataError, match="incomplete"):
            read_model_metadata(write(raw=whole[:length]))


def test_bytes_after_the_weights_are_refused(write):
    with pytest.raises(DataError, match="incomplete"):
        read_model_metadata(write(raw=write().read_bytes() + b"more"))


def test_a_header_that_lists_very_many_arrays_is_refused(write):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(i): entry for i in range(30_000)}).encode()
    with pytest.raises(DataError, match="30000 arrays"):
        read_model_metadata(write(raw=struct.pack("<Q", len(header)) + header))


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": None},
        {"format_version": "1"},
        {"config": []},
        {"config": {"modle": {}}},
        {"config": {"model": {"filters": "many"}}},
        {"voxel_size": [1, 2]},
        {"voxel_size": None},
        {"in_channels": 0},
        {"in_channels": "one"},
        {"scores": [1]},
    ],
)
def test_damaged_metadata_is_a_sentence(write, changes):
    with pytest.raises(DataError, match=r"model\.safetensors"):
        read_model_info(write(_metadata(**changes)))


def test_other_places_are_refused(tmp_path):
    with pytest.raises(DataError, match="a folder"):
        read_model_info(tmp_path)
    with pytest.raises(DataError, match="not there"):
        read_model_info(tmp_path / "none.safetensors")


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_crashes(write, position, value):
    data = bytearray(write().read_bytes())
    data[position % len(data)] = value
    try:
        read = read_model_info(write(raw=bytes(data))).path.name
    except DataError as error:
        read = str(error)
    assert "model.safetensors" in read
