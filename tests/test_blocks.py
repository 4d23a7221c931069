import numpy as np
import pytest

from napari_volseg.blocks import BlockGrid, Ledger, choose_tile
from napari_volseg.geometry import Box

GRID = BlockGrid((10, 33, 50), (4, 16, 16))


def test_blocks_cover_the_volume_once():
    seen = np.zeros(GRID.shape_ZYX, int)
    for i in range(GRID.n_blocks):
        seen[GRID.box(i).slices] += 1
    assert GRID.n_blocks == 3 * 3 * 4
    assert (seen == 1).all()


@pytest.mark.parametrize(
    "box",
    [
        Box((0, 0, 0), (1, 1, 1)),
        Box((3, 15, 16), (5, 17, 32)),
        Box((0, 0, 0), (99, 99, 99)),
    ],
)
def test_blocks_that_touch_a_box(box):
    volume = np.zeros(GRID.shape_ZYX, bool)
    volume[box.slices] = True
    expected = [i for i in range(GRID.n_blocks) if volume[GRID.box(i).slices].any()]
    assert GRID.touching(box) == expected


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (9, 9)])
def test_tiles_hold_every_block_once_and_reach_through_the_volume(tile):
    columns = GRID.tiles(tile)
    assert sorted(i for column in columns for i in column) == list(range(GRID.n_blocks))
    for column in columns:
        box = GRID.around(column)
        assert (box.start[0], box.stop[0]) == (0, 10)
        assert sum(GRID.box(i).size for i in column) == box.size


def test_a_ledger_remembers(tmp_path):
    ledger = Ledger(tmp_path / "blocks")
    assert ledger.finished() == set()
    shard = tmp_path / "shard"
    shard.write_bytes(b"maps")
    ledger.finish(3, shard)
    ledger.finish(12, None)
    ledger.finish(3, tmp_path / "all maps are 0")
    (tmp_path / "blocks" / "plan.json").write_text("{}")
    (tmp_path / "blocks" / ".volseg-1.done").write_text("")
    again = Ledger(tmp_path / "blocks")
    assert again.finished() == {3, 12}
    assert again.empty() == {12}


def _windows(axis, start, stop):
    return (stop - start + 8) // 4


def test_the_tile_is_the_largest_that_fits():
    grid = BlockGrid((8, 160, 160), (4, 16, 16))
    assert choose_tile(grid, _windows, np.prod, 10**9) == (10, 10)
    assert choose_tile(grid, _windows, np.prod, 0) == (1, 1)
    height, width = choose_tile(grid, _windows, np.prod, 80 * 80)
    assert 20 <= height * width <= 25
