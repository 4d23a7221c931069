"""What TensorBoard finds in the folder of a run."""

import io

import numpy as np
import pytest
from PIL import Image

from napari_volseg.config import apply_overrides, build_config
from napari_volseg.events import Finished, Validated
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.targets import Targets
from napari_volseg.tensorboard_log import TensorBoardLog
from napari_volseg.training import train

pytest.importorskip("tensorboard")
# TensorBoard's own code, on numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(folder):
    """Return the scalars as {tag: {step: value}} and the images of the last step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    scalars = {
        tag: {entry.step: entry.value for entry in found.Scalars(tag)}
        for tag in tags["scalars"]
    }
    images = {
        tag: np.asarray(
            Image.open(io.BytesIO(found.Images(tag)[-1].encoded_image_string)).convert(
                "L"
            )
        )
        for tag in tags["images"]
    }
    return scalars, images


def test_an_epoch_has_the_names_that_people_know(tmp_path):
    board = TensorBoardLog(tmp_path, enabled=True)
    board.epoch(10, 1.5, (0.25, 0.5, 0.75), lr=0.001, grad_norm=2.0)
    board.validation(10, {"loss": 2.0, "f1_50": 0.5}, train_loss=1.5)
    board.validation(12, {"loss": 1.0})
    board.close()

    scalars, _ = read(tmp_path)

    assert scalars == {
        "train_loss_total_epoch": {10: 1.5},
        "train_loss_0": {10: 0.25},
        "train_loss_1": {10: 0.5},
        "train_loss_2": {10: 0.75},
        "lr": {10: pytest.approx(0.001)},
        "grad_norm": {10: 2.0},
        "val_loss": {10: 2.0, 12: 1.0},
        "val_f1_50": {10: 0.5},
        "train_val_gap": {10: 0.5},
    }


def test_images_show_input_maps_and_truth(tmp_path, rng):
    image = rng.integers(0, 255, (4, 8, 10)).astype(np.uint8)
    maps, values = rng.integers(0, 255, (2, 3, 4, 8, 10)).astype(np.uint8)
    valid = np.ones(values.shape, bool)
    valid[2, :, :4] = False
    board = TensorBoardLog(tmp_path, enabled=True)
    board.images(3, image, maps, Targets(values, valid))
    board.close()

    _, images = read(tmp_path)

    assert images.keys() == {
        "preview/input",
        *(f"preview/{name}" for name in ("mask", "boundary", "distance")),
        *(f"preview/{name}_truth" for name in ("mask", "boundary", "distance")),
    }
    np.testing.assert_array_equal(images["preview/input"], image[2])
    np.testing.assert_array_equal(images["preview/boundary"], maps[1, 2])
    np.testing.assert_array_equal(images["preview/boundary_truth"], values[1, 2])
    np.testing.assert_array_equal(
        images["preview/distance_truth"][4:], values[2, 2, 4:]
    )
    assert (images["preview/distance_truth"][:4] == 128).all()


def test_a_resumed_run_voids_what_came_after_its_checkpoint(tmp_path):
    for steps in [(2, 4, 6), (4, 6, 8)]:
        board = TensorBoardLog(tmp_path, enabled=True)
        for step in steps:
            board.epoch(step, float(steps[0]), (), 0.1, 1.0)
        board.close()

    scalars, _ = read(tmp_path)

    assert scalars["train_loss_total_epoch"] == {2: 2.0, 4: 4.0, 6: 4.0, 8: 4.0}


def test_a_disk_that_refuses_ends_the_log_only(tmp_path):
    (tmp_path / "tensorboard").write_text("no folder")
    board = TensorBoardLog(tmp_path / "tensorboard", enabled=True)
    board.epoch(1, 1.0, (), 0.1, 1.0)
    board.epoch(2, 1.0, (), 0.1, 1.0)
    assert not board.enabled
    board.close()


def test_switched_off_it_writes_nothing(tmp_path):
    board = TensorBoardLog(tmp_path / "tensorboard", enabled=False)
    board.epoch(1, 1.0, (), 0.1, 1.0)
    board.close()
    assert not list(tmp_path.iterdir())


def test_a_training_logs_every_epoch(tiny_config, make_cells, tmp_path):
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
    tree = apply_overrides(
        tiny_config.model_dump(mode="json"), ["monitor.tensorboard=true"]
    )
    plan = plan_training(build_config(tree), pairs)
    events = list(train(plan, pairs, tmp_path))

    scalars, images = read(tmp_path / "tensorboard")

    for tag in ("train_loss_total_epoch", "train_loss_2", "lr", "grad_norm"):
        assert list(scalars[tag]) == [2, 4]
    first = next(e for e in events if isinstance(e, Validated))
    for name in ("distance_rmse", "distance_ssim", "distance_psnr", "boundary_f1"):
        logged = scalars[f"val_{name}"][2]
        assert logged == pytest.approx(first.metrics[name], rel=1e-5)
    assert {"mask_dice", "ap", "f1_50", "loss"} <= first.metrics.keys()
    gap = first.metrics["loss"] - scalars["train_loss_total_epoch"][2]
    assert scalars["train_val_gap"][2] == pytest.approx(gap, abs=1e-5)
    assert isinstance(events[-1], Finished)
    assert images["preview/input"].shape == (16, 16)
    assert set(np.unique(images["preview/mask_truth"])) <= {0, 255}
    assert images["preview/mask_truth"].any()
