"""Blocks on workers of dask.distributed: real processes, killed in the middle."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_volseg import spreading
from napari_volseg.blocks import BlockGrid, Ledger
from napari_volseg.checkpoint import model_metadata, save_model
from napari_volseg.config import InferenceConfig, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress
from napari_volseg.inference import predict
from napari_volseg.io import open_volume
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.runs import create_prediction
from napari_volseg.spreading import split_tiles

pytest.importorskip("distributed", reason="needs the extra [cluster]")

BLOCK = (8, 16, 16)
SHAPE = (24, 64, 64)
N_BLOCKS = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = build_config({"model": {"filters": [4, 8]}})
    patch, size = (8, 16, 16), (40.0, 10.0, 10.0)
    pyramid = plan_pyramid(config.model, size, patch)
    network = build_network(config.model, 1, pyramid)
    metadata = model_metadata(config, pyramid, 1, size, patch, 1, {})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, network.state_dict(), metadata)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    values = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    path = tmp_path_factory.mktemp("image") / "em.zarr"
    zarr.create_array(path, data=values, chunks=BLOCK)
    return path


def start(model, image, place, scheduler=None, folder=None, **options):
    """Predict into a job folder of its own, or go on in one."""
    # One window at a time: sums of floats do not depend on their neighbours.
    inference = InferenceConfig(batch_size=1, memory_gb=0.001)
    volume = open_volume(str(image), (40, 10, 10))
    resume = folder is not None
    if folder is None:
        folder = create_prediction(
            model, volume, str(image), place, inference=inference
        )
    events = predict(
        model,
        volume,
        folder,
        inference=inference,
        block=BLOCK,
        resume=resume,
        scheduler=scheduler,
        device="cpu",
        **options,
    )
    return folder, events


@pytest.fixture
def run(model, image, tmp_path, monkeypatch):
    """Predict, on the look-out for every block."""
    monkeypatch.setattr(spreading, "_LOOK_SECONDS", 0.0)

    def begin(scheduler=None, folder=None, image=image, **options):
        return start(model, image, tmp_path / "jobs", scheduler, folder, **options)

    return begin


@pytest.fixture(scope="module")
def serial(model, image, tmp_path_factory):
    """What one process finds."""
    folder, events = start(model, image, tmp_path_factory.mktemp("jobs"))
    list(events)
    return results(folder)


def results(folder):
    return [
        zarr.open_group(folder / name, mode="r")["0"][...]
        for name in ("maps.zarr", "instances.zarr")
    ]


def assert_same(folder, expected):
    assert len(Ledger(folder / "blocks").finished()) == N_BLOCKS
    for found, values in zip(results(folder), expected, strict=True):
        np.testing.assert_array_equal(found, values)
    marks = sorted(p.suffix for p in (folder / "blocks").iterdir())
    assert marks == [".done"] * N_BLOCKS + [".json"] * 2


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two workers, which are processes of their own."""
    program = (
        "import sys\n"
        "from napari_volseg.spreading import _local_cluster\n"
        "if __name__ == '__main__':\n"
        "    with _local_cluster(2) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.address = process.stdout.readline().strip()
    yield process
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    process.wait(60)


def test_two_processes_give_what_one_gives(run, serial, cluster):
    assert cluster.address.startswith("tcp://127.0.0.1:")
    folder, events = run(cluster.address)

    events = list(events)

    assert events[-1].reason == "completed"
    said = [event.message for event in events if isinstance(event, Notice)]
    assert f"2 workers are at work for {cluster.address}" in said
    boxes = [event.ready for event in events if isinstance(event, Progress)]
    assert sum(map(len, boxes)) == 6 * N_BLOCKS
    assert_same(folder, serial)


def test_a_worker_that_is_killed_costs_what_it_had_begun(run, serial, cluster):
    from distributed import Client

    folder, events = run(cluster.address)
    with Client(cluster.address, set_as_default=False) as client:
        pids = list(client.run(os.getpid).values())
    next(event for event in events if isinstance(event, Progress) and event.ready)
    kept = Ledger(folder / "blocks").finished()
    stamps = {i: mark(folder, i) for i in kept}
    assert len(kept) < N_BLOCKS
    os.kill(pids[0], signal.SIGKILL)

    assert list(events)[-1].reason == "completed"
    assert {i: mark(folder, i) for i in kept} == stamps  # nothing is written twice
    assert_same(folder, serial)


def mark(folder, block_id):
    return (folder / "blocks" / f"{block_id:06d}.done").stat().st_mtime_ns


def test_a_stop_keeps_blocks_and_ends_the_workers_turn(run, serial, cluster):
    asked = []
    folder, events = run(cluster.address, should_stop=lambda: bool(asked))
    for event in events:
        if isinstance(event, Progress) and event.ready:
            asked.append(event)

    assert isinstance(event, Finished)
    assert event.reason == "stopped"
    assert not (folder / "blocks" / "turn").exists()
    list(run(cluster.address, folder=folder)[1])
    assert_same(folder, serial)


def test_a_block_that_cannot_be_read_is_named(run, image, cluster, tmp_path):
    damaged = shutil.copytree(image, tmp_path / "em.zarr")
    (damaged / "c" / "2" / "3" / "3").write_bytes(b"?")
    folder, events = run(cluster.address, image=damaged)

    with pytest.raises(DataError, match=r"em\.zarr cannot be read"):
        list(events)
    assert not (folder / "instances.zarr").exists()


def test_a_scheduler_that_goes_away_is_said_and_blocks_are_kept(
    run, serial, cluster, monkeypatch
):
    monkeypatch.setattr(spreading, "_LOST_SECONDS", 1.0)
    monkeypatch.setattr(spreading, "_WAIT_SECONDS", 5.0)
    folder, events = run(cluster.address)
    next(event for event in events if isinstance(event, Progress) and event.ready)
    cluster.kill()  # and its workers with it

    with pytest.raises(DataError, match=r"went away: \d+ finished blocks are kept"):
        list(events)
    kept = Ledger(folder / "blocks").finished()
    assert 0 < len(kept) < N_BLOCKS
    stamps = {i: mark(folder, i) for i in kept}
    list(run(folder=folder)[1])  # resumed without one
    assert {i: mark(folder, i) for i in kept} == stamps
    assert_same(folder, serial)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("processes=0", "is no scheduler"),
        ("processes=x", "is no scheduler"),
        ("tcp://127.0.0.1:9", "there is no scheduler at"),
        ("nonsense://a", "there is no scheduler at"),
        ("127.0.0.1:8786", "is no scheduler"),
    ],
)
def test_what_is_no_scheduler_is_said(run, scheduler, message, monkeypatch):
    monkeypatch.setattr(spreading, "_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(spreading, "_LOST_SECONDS", 0.5)
    with pytest.raises(DataError, match=message):
        list(run(scheduler)[1])


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.integers(1, 30),
    st.randoms(),
)
def test_tasks_hold_every_block_once(counts, tile, n_workers, random):
    grid = BlockGrid(counts, (1, 1, 1))
    tiles = grid.tiles(tile)
    tiles = [[i for i in t if random.random() < 0.8] for t in tiles]  # the rest is done
    tiles = [t for t in tiles if t]

    tasks = list(split_tiles(tiles, grid, n_workers, lambda a, b: b - a + 1))

    assert sorted(i for t in tasks for i in t) == sorted(i for t in tiles for i in t)
    assert all(tasks)


@pytest.mark.parametrize(
    ("n_workers", "shared", "n_tasks"),
    [
        (1, 1, 1),  # alone, every cut is lost work
        (2, 1, 2),
        (3, 0, 3),
        (4, 0, 3),  # one of four would have two levels all the same
        (16, 1, 6),  # there are no more levels than these
    ],
)
def test_a_column_is_cut_where_workers_end_sooner(n_workers, shared, n_tasks):
    grid = BlockGrid((6, 1, 1), (1, 1, 1))
    tiles = grid.tiles((1, 1))

    tasks = list(split_tiles(tiles, grid, n_workers, lambda a, b: b - a + shared))

    assert len(tasks) == n_tasks


def test_columns_that_do_not_share_out_evenly_are_cut():
    grid = BlockGrid((6, 2, 1), (1, 1, 1))
    tiles = grid.tiles((1, 1))

    tasks = list(split_tiles(tiles, grid, 3, lambda a, b: b - a))

    assert len(tasks) == 6  # 4 of 12 levels for each of three


@pytest.fixture
def turn(tmp_path, monkeypatch):
    monkeypatch.setattr(spreading, "_TURN_SECONDS", 0.0)
    return tmp_path / "turn"


@pytest.mark.parametrize("stale", [None, "", "that of the last client"])
def test_a_turn_outlasts_reads_that_fail(turn, stale):
    mine = spreading._Turn(turn, "mine")
    if stale is not None:
        turn.write_text(stale)
    assert not any(mine.is_over() for _ in range(spreading._MISSES - 1))
    turn.write_text("mine")
    assert not mine.is_over()
    turn.unlink()
    assert not any(mine.is_over() for _ in range(spreading._MISSES - 1))


def test_a_turn_ends_with_that_of_another_or_a_file_that_stays_away(turn):
    turn.write_text("mine")
    replaced, removed = (spreading._Turn(turn, "mine") for _ in range(2))
    assert not replaced.is_over()
    assert not removed.is_over()
    turn.write_text("another")
    assert replaced.is_over()
    turn.unlink()
    assert [removed.is_over() for _ in range(spreading._MISSES)][-1]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", ["0", "1", "2"]),
        ("4", ["4"]),
        ("6,2", ["6", "2"]),
        (" GPU-8d0c, MIG-1f ,", ["GPU-8d0c", "MIG-1f"]),
    ],
)
def test_workers_take_the_gpus_that_the_user_left_visible(visible, names):
    assert [spreading._visible_gpu(i, visible) for i in range(len(names))] == names
