import numpy as np
import pytest

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.planning import plan_training
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.splitting import hold_out_fold
from napari_volseg.splitting.survey import Survey
from napari_volseg.volume import LabelledVolume, Volume


def _volume(labels, annotated=None, name="em"):
    image = (labels > 0).astype(np.uint8) * 100
    return LabelledVolume(Volume(image, name=name), labels, annotated)


@pytest.fixture
def crowd():
    """Eight hundred objects: small ones on the left, large on the right."""
    labels = np.zeros((12, 160, 160), np.int32)
    index = 0
    for y in range(0, 160, 8):
        for x in range(0, 160, 8):
            size = 3 if x < 80 else 6
            for z in (0, 6):
                index += 1
                labels[z : z + size, y : y + size, x : x + size] = index
    return labels


def _coverage(volumes, folds):
    """Count how often each voxel of each volume is held out."""
    counts = [np.zeros(v.labels_ZYX.shape, int) for v in volumes]
    for fold in range(folds):
        for index, box in hold_out_fold(volumes, folds, fold):
            counts[index][box.slices] += 1
    return counts


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("is_partial", [False, True])
def test_folds_are_disjoint_and_cover_the_annotation(crowd, folds, is_partial):
    annotated = None
    if is_partial:
        annotated = np.zeros(crowd.shape, bool)
        annotated[2:11, 20:130, 40:151] = True
    volume = _volume(crowd, annotated)
    (counts,) = _coverage([volume], folds)
    known = np.ones(crowd.shape, bool) if annotated is None else annotated
    assert (counts[known] == 1).all()
    assert counts.max() == 1


def test_folds_have_equal_shares(crowd):
    shares = [
        sum(box.size for _, box in hold_out_fold([_volume(crowd)], 5, fold))
        for fold in range(5)
    ]
    assert max(shares) < 1.2 * min(shares)


def test_sizes_in_each_fold_are_distributed_like_all_sizes(crowd):
    volume = _volume(crowd)
    survey = Survey(volume)
    whole = survey.whole.classes / survey.whole.n_objects
    for fold in range(5):
        parts = [survey.describe(b) for _, b in hold_out_fold([volume], 5, fold)]
        classes = np.sum([p.classes for p in parts], axis=0)
        assert np.abs(classes / classes.sum() - whole).sum() < 0.25


def test_the_same_folds_every_time(crowd):
    first, second = (hold_out_fold([_volume(crowd)], 4, 2) for _ in range(2))
    assert first == second


def test_several_volumes_are_each_divided(crowd):
    volumes = [_volume(crowd), _volume(crowd[:, :80])]
    for counts in _coverage(volumes, 3):
        assert (counts == 1).all()
    for fold in range(3):
        assert {i for i, _ in hold_out_fold(volumes, 3, fold)} == {0, 1}


def test_enough_volumes_are_dealt_out_whole(crowd):
    volumes = [_volume(np.roll(crowd[:, : 40 + 20 * i], i)) for i in range(5)]
    for counts in _coverage(volumes, 3):
        assert (counts == 1).all()
    held = [len(hold_out_fold(volumes, 3, fold)) for fold in range(3)]
    assert sorted(held) == [1, 2, 2]


def test_sparse_annotation_is_divided_by_what_is_annotated(crowd):
    annotated = np.zeros(crowd.shape, bool)
    annotated[:, :, :20] = True
    annotated[:, :40, :] = True
    volume = _volume(crowd, annotated)
    shares = [
        sum(annotated[b.slices].sum() for _, b in hold_out_fold([volume], 4, fold))
        for fold in range(4)
    ]
    assert sum(shares) == annotated.sum()
    assert max(shares) < 1.5 * min(shares)


def test_too_many_folds_are_refused_with_the_remedy():
    labels = np.zeros((4, 20, 60), np.int32)
    labels[:, 2:8, 2:8] = 1
    labels[:, 2:8, 12:18] = 2
    with pytest.raises(DataError, match="use fewer folds"):
        hold_out_fold([_volume(labels)], 5, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.folds=1"], "at least 2"),
        (["data.folds=3", "data.fold=3"], "from 0 to 2"),
        (["data.fold=1"], "data.folds is 0 and data.fold is 1: .* at least 2"),
    ],
)
def test_impossible_folds_are_refused(crowd, settings, message):
    config = load_config("quick", ["system.device=cpu", *settings])
    with pytest.raises(DataError, match=message):
        plan_training(config, [TrainingPair(_volume(crowd), None, "train")])


def test_folds_and_validation_images_exclude_each_other(crowd):
    config = load_config("quick", ["system.device=cpu", "data.folds=3"])
    pairs = [TrainingPair(_volume(crowd), None, role) for role in ("train", "val")]
    with pytest.raises(DataError, match="leave out the validation images"):
        plan_training(config, pairs)


def _prepared(pairs, tmp_path, *settings):
    config = load_config(
        "quick", ["system.device=cpu", "data.patch_size=[8,32,32]", *settings]
    )
    plan = plan_training(config, pairs)
    return plan, prepare_patches(plan, pairs, tmp_path)


def test_nothing_of_a_fold_or_its_guard_is_learnt(crowd, tmp_path):
    pairs = [TrainingPair(_volume(crowd), None, "train")]
    plan, source = _prepared(pairs, tmp_path, "data.folds=4", "data.fold=1")
    valid = source.volumes[0].valid_CZYX
    hidden = np.zeros(crowd.shape, bool)
    for held in plan.held_out:
        hidden[held.box.grow(plan.guard, crowd.shape).slices] = True
    assert 0.2 < hidden.mean() < 0.6
    assert not valid[:, hidden].any()
    assert valid[0, ~hidden].all()
    assert plan.summary()["n_held_out_instances"] >= 800 / 4


def test_a_volume_that_is_held_out_whole_is_not_learnt_from(crowd, tmp_path):
    pairs = [
        TrainingPair(_volume(crowd[:, : 60 + 20 * i], name=f"em{i}"), None, "train")
        for i in range(3)
    ]
    plan, source = _prepared(pairs, tmp_path, "data.folds=3")
    (held,) = plan.held_out
    assert held.box == Box.whole(pairs[held.pair].volume.labels_ZYX.shape)
    assert len(source.volumes) == 2
    assert f"em{held.pair}" not in {v.name for v in source.volumes}
