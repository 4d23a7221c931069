"""Blocks that are joined in groups of groups."""

import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box, iter_boxes
from napari_volseg.instances import segment, segment_blocks
from napari_volseg.instances.grouping import join_blocks
from napari_volseg.instances.peaks import Rule
from napari_volseg.instances.seeds import reduce_block

SHAPE, BLOCK, COUNTS = (18, 22, 34), (4, 4, 4), (5, 6, 9)


@pytest.fixture
def heights(rng):
    noise = ndimage.gaussian_filter(rng.random(SHAPE), 1)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.mark.parametrize("rule", [Rule(20, 4), Rule(256, 1)])
def test_each_seed_has_one_id_and_each_block_is_told_once(heights, rule):
    boxes = list(iter_boxes(SHAPE, BLOCK))
    blocks = [reduce_block(heights[b.slices], b, SHAPE, rule, 1) for b in boxes]

    def read_layers(box: Box):
        def read(axis, at):
            here = np.moveaxis(heights[box.slices], axis, 0)
            return here[at - box.start[axis] - 1], here[at - box.start[axis]]

        return read

    group = join_blocks(
        lambda i: blocks[i].merged.peaks, COUNTS, SHAPE, read_layers, rule
    )
    labels = np.zeros(SHAPE, np.int32)
    first_id = group.n_seeds + 1
    told = []
    for i, orders in group.orders():
        told.append(i)
        part = heights[boxes[i].slices]
        found = np.zeros(part.shape, np.int32)
        blocks[i].paint(part, orders, first_id, found, 1)
        first_id += blocks[i].merged.n_seeds - len(blocks[i].merged.peaks.seeds)
        labels[boxes[i].slices] = found
    assert sorted(told) == list(range(len(boxes)))
    assert set(np.unique(labels)) - {0} == set(range(1, first_id))
    whole = reduce_block(heights, Box.whole(SHAPE), SHAPE, rule, 1)
    expected = np.zeros(SHAPE, np.int32)
    orders = whole.merged.own_orders()
    whole.paint(heights, orders, len(orders.ids) + 1, expected, 1)
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(expected)) == len(np.unique(labels))


def test_many_levels_of_groups_give_the_instances_of_the_whole(heights):
    heights = heights[:10, :14, :18]  # 60 blocks in three levels of groups
    maps = np.stack([np.maximum(heights, 90), heights // 4, heights])
    config = InstancesConfig(seed_distance=0.4, seed_depth=0.05, mask=0.3, min_size=5)
    labels = np.zeros(heights.shape, np.int32)
    found = segment_blocks(maps, labels, config, block=BLOCK, halo=(2, 2, 2))
    np.testing.assert_array_equal(labels, segment(maps, config))
    assert found.n_instances == labels.max() > 5
