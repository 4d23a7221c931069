"""A segmentation of blocks that ends anywhere goes on from what was finished."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import (
    blockwise,
    forget_blocks,
    segment,
    segment_stored,
    storing,
)
from napari_volseg.instances.records import Records
from napari_volseg.io import create_zarr
from napari_volseg.review import table_of_blocks

SHAPE = (10, 40, 60)
VOXEL = (30.0, 8.0, 8.0)
CONFIG = InstancesConfig(mask=0, seed_mask=0, seed_boundary=1.1, min_size=20)
BLOCK, HALO = (10, 20, 20), (0, 2, 2)
N_BLOCKS = 6


class Killed(BaseException):
    """Takes the place of SIGKILL."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", BLOCK)
    monkeypatch.setattr(storing, "_SHARD", BLOCK)
    monkeypatch.setattr(storing, "_HALO", HALO)


@pytest.fixture
def maps(tmp_path, rng):
    """Maps of noise, whose floods reach far beyond halos."""
    noise = [ndimage.gaussian_filter(rng.random(SHAPE), 1.5) for _ in range(3)]
    values = [255 * (n - n.min()) / np.ptp(n) for n in noise]
    path = tmp_path / "maps.zarr"
    stored = create_zarr(path, (3, *SHAPE), np.uint8, VOXEL, name="maps")
    stored[...] = np.array(values).astype(np.uint8)
    return stored


def _run(maps, path, config=CONFIG, source="maps.zarr"):
    return segment_stored(
        maps, path, config, VOXEL, memory=0, source=path.with_name(source)
    )


def _labels(path):
    return zarr.open_group(path, mode="r")["0"][...]


@pytest.fixture
def fuse(monkeypatch):
    """Die before or after one of the next changes to the disk."""
    left = [10**9]

    def burn():
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def wired(owner, name):
        act = getattr(owner, name)

        def changed(*args, **keys):
            burn()
            answer = act(*args, **keys)
            burn()
            return answer

        monkeypatch.setattr(owner, name, changed)

    for owner, name in (
        (Records, "_save"),
        (Records, "_touch"),
        (Path, "unlink"),
        (Path, "rename"),
        (zarr.Array, "__setitem__"),
    ):
        wired(owner, name)
    return left


@pytest.mark.parametrize("at_once", [1, 3])
def test_ending_again_and_again_between_any_two_writes_changes_nothing(
    maps, tmp_path, fuse, monkeypatch, at_once
):
    monkeypatch.setattr(storing, "_at_once", lambda *_: at_once)
    rng = np.random.default_rng(at_once)
    path = tmp_path / "instances.zarr"
    expected = segment_stored(maps, tmp_path / "whole.zarr", CONFIG, VOXEL, memory=0)
    deaths = 0
    while True:
        fuse[0] = int(rng.integers(2, 60))
        try:
            result = _run(maps, path)
            break
        except Killed:
            deaths += 1
        assert deaths < 200
    fuse[0] = 10**9
    assert deaths > 5
    np.testing.assert_array_equal(_labels(path), segment(maps[...], CONFIG))
    table = table_of_blocks(result, SHAPE, VOXEL)
    for name, column in table_of_blocks(expected, SHAPE, VOXEL).items():
        np.testing.assert_array_equal(table[name], column, err_msg=name)
    # Until it is forgotten, the result is told again without any work.
    fuse[0] = 1
    assert _run(maps, path).n_instances == expected.n_instances
    fuse[0] = 10**9
    forget_blocks(path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["instances.zarr", "maps.zarr", "whole.zarr"]


def _count(monkeypatch):
    """Count how often blocks are flooded and looked at for seeds."""
    counts = {"flood_block": 0, "reduce_block": 0}
    for name in counts:
        work = getattr(blockwise, name)

        def counted(*args, work=work, name=name):
            counts[name] += 1
            return work(*args)

        monkeypatch.setattr(blockwise, name, counted)
    return counts


def _stop_after(n_steps):
    def report(steps):
        if steps[0] == n_steps:
            raise Killed

    return report


def test_only_what_is_not_finished_is_done(maps, tmp_path, monkeypatch):
    path = tmp_path / "instances.zarr"
    # Steps are six blocks looked at, six sown, six flooded, six numbered.
    for n_steps, n_reduced, n_flooded in ((4, 2 + 6, 6), (9, 3, 6), (15, 0, 1)):
        forget_blocks(path)
        with pytest.raises(Killed):
            segment_stored(
                maps, path, CONFIG, VOXEL, memory=0, source=tmp_path / "maps.zarr",
                report=_stop_after(n_steps),
            )  # fmt: skip
        with monkeypatch.context() as patch:
            counts = _count(patch)
            visits = _run(maps, path).n_visits
        # A thread may be two blocks ahead of what was told.
        assert max(0, n_reduced - 2) <= counts["reduce_block"] <= n_reduced
        # Some more, as the halo is too small.
        assert counts["flood_block"] == visits >= n_flooded


@pytest.mark.parametrize("change", ["maps", "thresholds", "labels", "plan"])
def test_what_was_made_of_something_else_is_not_used(
    maps, tmp_path, monkeypatch, change
):
    path, config = tmp_path / "instances.zarr", CONFIG
    with pytest.raises(Killed):
        segment_stored(
            maps, path, config, VOXEL, memory=0, source=tmp_path / "maps.zarr",
            report=_stop_after(15),
        )  # fmt: skip
    work = tmp_path / ".volseg-instances"
    if change == "maps":
        maps[:, :, :20] = maps[:, :, :20][:, :, ::-1]
    elif change == "thresholds":
        config = CONFIG.model_copy(update={"seed_distance": 0.6})
    elif change == "labels":
        shutil.rmtree(work / path.name)
    else:
        (work / "plan.json").write_text("{")
    counts = _count(monkeypatch)
    _run(maps, path, config)
    assert counts["reduce_block"] == 2 * N_BLOCKS
    np.testing.assert_array_equal(_labels(path), segment(maps[...], config))


def test_blocks_stay_when_one_cannot_be_read(maps, tmp_path, monkeypatch):
    class Broken:
        shape, dtype = maps.shape, maps.dtype

        def __getitem__(self, key):
            if key[3].start >= 40:
                raise OSError("input/output error")
            return maps[key]

    path = tmp_path / "instances.zarr"
    with pytest.raises(DataError, match="x 40:60"):
        _run(Broken(), path)
    counts = _count(monkeypatch)
    _run(maps, path)
    # Two were looked at before the third, and two more may have been after it.
    assert counts["reduce_block"] in {2 * N_BLOCKS - n for n in (2, 3, 4)}
    np.testing.assert_array_equal(_labels(path), segment(maps[...], CONFIG))


_PROCESS = """
import sys
from pathlib import Path
import zarr
from napari_volseg.config import InstancesConfig
from napari_volseg.instances import segment_stored, storing
storing._BLOCK = storing._SHARD = {block}
storing._HALO = {halo}
folder = Path(sys.argv[1])
maps = zarr.open_group(folder / "maps.zarr", mode="r")["0"]
config = InstancesConfig.model_validate_json(sys.argv[2])
segment_stored(maps, folder / "instances.zarr", config, {voxel}, memory=0,
               source=folder / "maps.zarr")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_at_random_points(maps, tmp_path, rng):
    code = _PROCESS.format(block=BLOCK, halo=HALO, voxel=VOXEL)
    command = [sys.executable, "-c", code, str(tmp_path), CONFIG.model_dump_json()]
    work, path = tmp_path / ".volseg-instances", tmp_path / "instances.zarr"
    n_files = 0
    for _ in range(2):
        n_files += int(rng.integers(4, 14))
        process = subprocess.Popen(command)
        while process.poll() is None and len(_files(work)) < n_files:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = _files(work)
    assert not path.exists()
    assert subprocess.run(command, check=True).returncode == 0
    after = _files(work)
    kept = {p: t for p, t in before.items() if p.suffix == ".npz" and "peaks" in p.name}
    assert len(kept) > 2
    assert {p: after[p] for p in kept} == kept
    np.testing.assert_array_equal(_labels(path), segment(maps[...], CONFIG))


def _files(work):
    found = {}
    for path in work.glob("0*"):
        try:
            found[path] = path.stat().st_mtime_ns
        except OSError:
            continue
    return found


def test_a_kill_while_the_array_of_seeds_is_made_is_mended(maps, tmp_path, monkeypatch):
    path = tmp_path / "instances.zarr"

    def die(place, *args, **keys):
        (place / "0").mkdir(parents=True)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "create_zarr", die)
        with pytest.raises(Killed):
            _run(maps, path)

    _run(maps, path)
    np.testing.assert_array_equal(_labels(path), segment(maps[...], CONFIG))
