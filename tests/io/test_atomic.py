import errno
import json
import os
import stat

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.io import (
    atomic,
    atomic_path,
    create_zarr,
    write_hdf5,
    write_json,
    write_text,
    write_volume_zarr,
    writing,
)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "résultat 🧠.txt"
    path.write_text("old")
    return path


def only(target):
    """Whether nothing else is left in the folder."""
    return [p.name for p in target.parent.iterdir()] == [target.name]


def test_content_is_replaced_and_private(target):
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")
        assert target.read_text() == "old"

    assert target.read_text() == "new"
    assert only(target)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_a_writer_that_fails_leaves_the_old_content(target, kind):
    with pytest.raises(kind), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise kind

    assert target.read_text() == "old"
    assert only(target)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_content(target, monkeypatch, function):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(DataError, match="No space left") as caught:
        write_text(target, "new")

    assert target.name in str(caught.value)
    assert "as it was" in str(caught.value)
    assert target.read_text() == "old"
    assert only(target)


def test_hdf5_failures_that_name_errno_in_words_are_explained(target):
    with pytest.raises(DataError, match="free some space"), atomic_path(target):
        raise RuntimeError(
            "Can't decrement id ref count (file write failed: errno = 28)"
        )


def test_an_unrelated_error_passes_through(target):
    with pytest.raises(FileNotFoundError), atomic_path(target):
        raise FileNotFoundError("something else")


def test_replacing_is_retried_while_another_program_holds_the_file(target, monkeypatch):
    replace, failures = os.replace, iter([True, True, False])

    def held(*args):
        if next(failures):
            raise PermissionError(errno.EACCES, "held")
        replace(*args)

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: None)
    write_text(target, "new")

    assert target.read_text() == "new"


def test_replacing_gives_up_in_the_end(target, monkeypatch):
    def held(*args):
        raise PermissionError(errno.EACCES, "held")

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(atomic, "REPLACE_SECONDS", 0)
    with pytest.raises(DataError, match="held"):
        write_text(target, "new")

    assert target.read_text() == "old"
    assert only(target)


def test_a_link_at_the_target_is_replaced_not_followed(target):
    link = target.with_name("link")
    link.symlink_to(target)
    write_text(link, "new")

    assert target.read_text() == "old"
    assert link.read_text() == "new"
    assert not link.is_symlink()


@pytest.mark.parametrize("name", ["missing/a.txt", "", "x" * 300, "a\0b"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(DataError):
        write_text(tmp_path / name, "new")

    assert list(tmp_path.iterdir()) == []


def test_json_round_trip_keeps_unicode(tmp_path):
    value = {"name": "Zellkern µm 🧠", "size": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)

    assert json.loads((tmp_path / "a.json").read_bytes()) == value
    assert "µm" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_that_cannot_be_written_leaves_the_old_file(target):
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})

    assert target.read_text() == "old"


@pytest.fixture
def small_disk():
    """No file of this process may grow beyond 64 KiB."""
    resource = pytest.importorskip("resource", reason="no limit on file size here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_while_writing_text(target, small_disk):
    with pytest.raises(DataError, match="File too large"):
        write_text(target, "x" * 100_000)

    assert target.read_text() == "old"
    assert only(target)


@pytest.mark.parametrize("write", [write_hdf5, write_volume_zarr])
def test_a_disk_that_fills_up_while_writing_volumes(tmp_path, rng, small_disk, write):
    noise_ZYX = rng.integers(0, 255, (32, 128, 128), np.uint8)
    with pytest.raises(DataError, match="File too large"):
        write(tmp_path / "out", {"raw": noise_ZYX}, (1, 1, 1))

    assert list(tmp_path.iterdir()) == []


def test_slabs_of_a_zarr_array_report_a_full_disk(tmp_path, rng, small_disk):
    path = tmp_path / "maps.zarr"
    array = create_zarr(path, (32, 128, 128), np.uint8, (1, 1, 1), name="maps")
    with pytest.raises(DataError, match=r"maps\.zarr cannot be written"), writing(path):
        array[:] = rng.integers(0, 255, array.shape, np.uint8)
