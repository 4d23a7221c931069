import numpy as np
import pytest
import torch
from torch import nn

from napari_volseg.geometry import Box
from napari_volseg.instances import FittedThresholds
from napari_volseg.planning import HeldOut, plan_training
from napari_volseg.previews import preview_region
from napari_volseg.runs import TrainingPair
from napari_volseg.validation import HeldOutVoxels, _group, _pack, score_of


class Oracle(nn.Module):
    """Knows the mask: bright voxels, told apart by nothing but their distance."""

    def forward(self, image):
        inside = (image > 0.5).float()
        depth = nn.functional.avg_pool3d(inside, 3, 1, 1)
        maps = torch.cat([inside, 0 * inside, inside * depth], 1)
        return (torch.logit(maps, 1e-3),)


@pytest.fixture
def pairs(make_cells):
    return [
        TrainingPair(make_cells((12, 64, 64), seed=s, name=f"v{s}"), None)
        for s in range(2)
    ]


@pytest.fixture
def plan(tiny_config, pairs):
    return plan_training(tiny_config, pairs)


def test_every_held_out_box_is_scored_once(plan, pairs):
    assert len(plan.held_out) == 2
    voxels = HeldOutVoxels(plan, pairs, plan.held_out)
    maps = voxels.predict(Oracle())
    metrics = voxels.score(maps, plan.config.instances)
    expected = 0
    for held in plan.held_out:
        labels = pairs[held.pair].volume.labels_ZYX[held.box.slices]
        sizes = np.bincount(labels.ravel())[1:]
        expected += int((sizes >= plan.config.instances.min_size).sum())
    assert metrics["n_true"] == expected
    assert metrics["f1_50"] > 0.7


def test_fitting_finds_thresholds_where_there_were_none(plan, pairs):
    voxels = HeldOutVoxels(plan, pairs, plan.held_out)
    maps = voxels.predict(Oracle())
    start = plan.config.instances.model_copy(update={"seed_distance": 1.0})
    assert voxels.score(maps, start)["ap"] == 0
    assert voxels.score(maps, voxels.fit(maps, start))["ap"] > 0.5


def test_boxes_of_different_sizes_are_told_apart(plan, pairs):
    boxes = [
        HeldOut(0, Box((0, 0, 0), (12, 40, 20))),
        HeldOut(1, Box((4, 8, 0), (9, 64, 64))),
    ]
    voxels = HeldOutVoxels(plan, pairs, boxes)
    maps = voxels.predict(Oracle())
    assert [m.shape for m in maps] == [(3, 12, 40, 20), (3, 5, 56, 64)]
    packed = _pack(maps)
    assert packed.shape == (3, 12 + 1 + 5 + 1, 56, 64)
    assert not packed[:, 12].any()


def test_only_annotated_voxels_are_scored(plan, pairs):
    volume = pairs[0].volume
    annotated = np.zeros(volume.labels_ZYX.shape, bool)
    annotated[:, :32] = True
    half = [
        TrainingPair(type(volume)(volume.image, volume.labels_ZYX, annotated), None)
    ]
    whole_box = [HeldOut(0, Box.whole(volume.labels_ZYX.shape))]
    voxels = HeldOutVoxels(plan, half, whole_box)
    metrics = voxels.score(voxels.predict(Oracle()), plan.config.instances)
    assert metrics["n_true"] <= np.unique(volume.labels_ZYX[:, :32]).size - 1


def _scored(ap, loss, n_true=50):
    return score_of({"ap": ap, "loss": loss, "n_true": n_true})


def test_equal_instances_are_told_apart_by_the_loss():
    assert _scored(0.5, 1.0) > _scored(0.5, 2.0)
    assert _scored(0.6, 2.0) > _scored(0.5, 1.0)


def test_of_a_few_objects_the_loss_alone_decides():
    assert _scored(0.4, 1.0, n_true=5) > _scored(0.9, 1.5, n_true=5)


def test_a_preview_box_is_cut_to_the_volume_and_to_what_is_quick(pairs):
    size = (8, 16, 16)
    assert preview_region((1, (2, 3, 4), (6, 10, 9)), pairs, size) == (
        1,
        Box((2, 3, 4), (6, 10, 9)),
    )
    pair, box = preview_region(None, pairs, size)
    assert (pair, box.shape) == (0, (8, 16, 16))
    pair, box = preview_region((0, (0, 0, 0), (12, 64, 64)), pairs, size)
    assert box.shape == (12, 32, 32)
    assert preview_region((7, (0, 0, 0), (4, 4, 4)), pairs, size)[0] == 1
    assert preview_region((0, (90, 90, 90), (99, 99, 99)), pairs, size)[1].size > 0


def test_maps_are_scored_beside_instances(plan, pairs):
    voxels = HeldOutVoxels(plan, pairs, plan.held_out)
    metrics = voxels.score(voxels.predict(Oracle()), plan.config.instances)
    assert metrics["mask_dice"] > 0.7  # noise of the image
    assert metrics["boundary_f1"] == 0
    assert 0 < metrics["distance_rmse"] < 0.5
    assert 0 < metrics["distance_ssim"] < 1
    assert metrics["distance_psnr"] > 3


def test_perfect_maps_of_boxes_of_different_sizes_score_perfectly(plan, pairs):
    boxes = [
        HeldOut(0, Box((0, 0, 0), (12, 40, 20))),
        HeldOut(1, Box((4, 8, 0), (9, 64, 64))),
    ]
    voxels = HeldOutVoxels(plan, pairs, boxes)
    maps = [part.targets.values_CZYX for part in voxels._parts]
    metrics = voxels.score(maps, plan.config.instances)
    assert metrics["mask_dice"] == metrics["boundary_f1"] == 1
    assert metrics["distance_rmse"] == 0
    assert metrics["distance_ssim"] == pytest.approx(1)


UNLIKE = [
    HeldOut(0, Box((2, 0, 0), (8, 64, 64))),
    HeldOut(1, Box((0, 0, 0), (12, 20, 20))),
]
"""Boxes of two volumes that would leave most of a pack empty."""


@pytest.fixture
def unlike(plan, pairs):
    return HeldOutVoxels(plan, pairs, UNLIKE)


def test_boxes_that_do_not_pack_well_score_as_they_do_together(
    plan, pairs, unlike, monkeypatch
):
    monkeypatch.setattr("napari_volseg.validation._SMALL_PACK", 0)
    apart = HeldOutVoxels(plan, pairs, UNLIKE)
    assert (unlike._packs, apart._packs) == ([[0, 1]], [[0], [1]])
    maps = unlike.predict(Oracle())
    together = unlike.score(maps, plan.config.instances)
    scores = apart.score(maps, plan.config.instances)
    loss, expected = scores.pop("loss"), together.pop("loss")
    assert scores == pytest.approx(together)
    assert loss == pytest.approx(expected, rel=0.1)
    assert together["n_true"] > 2
    assert type(loss) is float  # checkpoints hold no scalars of NumPy


def test_boxes_of_one_shape_are_packed_together_whatever_their_size():
    assert _group([(1, 4000, 4000)] * 3) == [[0, 1, 2]]
    assert _group([(2, 3000, 3000), (300, 96, 96), (2, 3000, 2900)]) == [[0, 2], [1]]


def test_thresholds_are_fitted_to_the_middle_of_every_box(plan, unlike, monkeypatch):
    seen = []

    def note(maps, truth, known, start, **options):
        seen.append((maps.shape[1:], truth, known))
        return FittedThresholds(start, 0.0, {})

    monkeypatch.setattr("napari_volseg.validation.fit_thresholds", note)
    most = 20 * 32 * 32
    unlike.fit(unlike.predict(Oracle()), plan.config.instances, most)
    ((shape, truth, known),) = seen
    assert shape == truth.shape == known.shape
    assert truth.size <= most
    for ids in (np.unique(part) for part in unlike._truths):
        assert np.isin(ids[ids > 0], truth).any()
    # The small box is whole, of the large one the middle is used.
    assert known.sum() == 6 * 32 * 32 + 12 * 20 * 20
