import json

import numpy as np
import pytest

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.planning import AUTO_BATCH, plan_from_json, plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.volume import LabelledVolume, Volume


def _pair(shape=(20, 64, 64), voxel_size=(30.0, 8.0, 8.0), role="train", **changes):
    labels = np.zeros(shape[-3:], np.int32)
    for index, x in enumerate(range(2, shape[-1] - 6, 8), 1):
        labels[1:-1, 2:-2, x : x + 4] = index
    annotated = changes.get("annotated")
    volume = LabelledVolume(
        Volume(np.ones(shape, np.uint8), voxel_size, changes.get("name", "em")),
        labels,
        annotated,
    )
    return TrainingPair(volume, None, role)


def _plan(*pairs, overrides=()):
    return plan_training(load_config("quick", ["system.device=cpu", *overrides]), pairs)


def test_the_plan_is_plain_json():
    summary = json.loads(json.dumps(_plan(_pair()).summary()))
    assert summary["in_channels"] == 1
    assert summary["voxel_size"] == [30, 8, 8]
    assert summary["held_out"][0]["pair"] == 0


def test_the_patch_fits_the_volume_and_the_network():
    plan = _plan(_pair((10, 50, 300)))
    assert plan.patch_size[0] <= 12
    multiple = plan.pyramid.multiple
    assert all(n % m == 0 for n, m in zip(plan.patch_size, multiple, strict=True))
    assert any("Patches are" in notice for notice in plan.notices)


def test_given_validation_volumes_are_held_out_whole():
    plan = _plan(_pair(), _pair(role="val"))
    assert [h.pair for h in plan.held_out] == [1]
    assert plan.held_out[0].box.shape == (20, 64, 64)


def test_nothing_held_out_is_said_plainly():
    plan = _plan(_pair(), overrides=["data.val_fraction=0"])
    assert plan.held_out == ()
    assert any("Nothing is held out" in notice for notice in plan.notices)


def test_slices_that_stand_alone_are_learnt_in_plane():
    annotated = np.zeros((20, 64, 64), bool)
    annotated[[4, 12]] = True
    plan = _plan(_pair(annotated=annotated, voxel_size=(8.0, 8.0, 8.0)))
    assert (plan.boundary, plan.distance) == ("2d", "2d")
    dense = _plan(_pair(voxel_size=(8.0, 8.0, 8.0)))
    assert (dense.boundary, dense.distance) == ("3d", "3d")


def test_an_epoch_is_a_stated_number_of_steps():
    plan = _plan(
        _pair(),
        overrides=[
            "data.iter_num_per_epoch=1280",
            "system.training.batch_size=8",
            "optimization.accumulate_grad_batches=2",
        ],
    )
    assert plan.steps_per_epoch == 80


def test_different_voxel_sizes_are_said():
    plan = _plan(_pair(), _pair(voxel_size=(30.0, 16.0, 16.0), name="other"))
    assert any("other has voxels of 30×16×16 nm" in n for n in plan.notices)


@pytest.mark.parametrize(
    ("pairs", "overrides", "message"),
    [
        ([], [], "nothing to train on"),
        ([_pair(role="val")], [], "nothing to train on"),
        ([_pair(), _pair((2, 20, 64, 64), name="two")], [], "two has 2 channels"),
        ([_pair()], ["system.training.num_gpus=4"], "num_gpus is 4"),
        ([_pair()], ["optimization.precision=16-mixed"], "needs a GPU"),
        (
            [_pair()],
            ["model.architecture=monai_unet", "model.deep_supervision=true"],
            "no coarser outputs",
        ),
        (
            [_pair()],
            [
                "model.rsunet_norm=instance",
                "data.patch_size=[16,16,16]",
                "model.down_factors=[[4,4,4],[4,4,4],[1,1,1]]",
            ],
            "single voxel",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(pairs, overrides, message):
    with pytest.raises(DataError, match=message):
        _plan(*pairs, overrides=overrides)


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DataError, match="finds no CUDA GPU"):
        _plan(_pair(), overrides=["system.device=cuda"])


def test_processes_share_one_step():
    plan = _plan(
        _pair(),
        overrides=[
            "data.iter_num_per_epoch=1200",
            "system.training.batch_size=4",
            "system.training.num_processes=3",
            "optimization.accumulate_grad_batches=2",
        ],
    )
    assert (plan.n_ranks, plan.micro_batches, plan.steps_per_epoch) == (3, 6, 50)


def test_an_automatic_batch_has_a_stated_size():
    plan = _plan(_pair(), overrides=["system.training.batch_size=auto"])
    assert plan.batch_is_auto
    assert plan.config.system.training.batch_size == AUTO_BATCH["cpu"]


def test_an_automatic_plan_is_settled_and_says_why():
    config = load_config("auto", ["optimization.max_minutes=5", "system.device=cpu"])
    plan = plan_training(config, [_pair()])
    assert not plan.config.automatic.enabled
    assert plan.config.optimization.max_minutes == 5
    summary = json.loads(json.dumps(plan.summary()))
    settings = {choice["setting"] for choice in summary["choices"]}
    assert {"data.patch_size", "model.filters"} <= settings
    assert "optimization.max_minutes" not in settings
    assert summary["fingerprint"]["n_instances"] == plan.n_instances
    again = plan_training(plan.config, [_pair()])
    assert again.config == plan.config
    assert "choices" not in again.summary()


def test_a_plan_reaches_another_process_whole():
    plan = _plan(_pair(), overrides=["system.training.num_processes=2"])
    assert plan_from_json(plan.to_json()) == plan
