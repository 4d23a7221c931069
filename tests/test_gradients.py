"""Steps that memory, or the number of processes, divides differently."""

import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.events import Notice
from napari_volseg.failures import JobError
from napari_volseg.gradients import parts_after
from napari_volseg.networks.rsunet import RSUNet
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.training import train


@pytest.fixture
def run(tiny_config, make_cells, tmp_path):
    """Train with overrides; return the events and the last checkpoint."""
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
    common = ["model.rsunet_norm=group", "data.val_fraction=0"]

    def start(name, *overrides):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"), [*common, *overrides]
        )
        folder = tmp_path / name
        folder.mkdir()
        plan = plan_training(build_config(tree), pairs)
        events = list(train(plan, pairs, folder))
        return events, load_checkpoint(folder / "checkpoints")

    return start


@pytest.fixture
def fits(monkeypatch):
    """Let a forward pass of more than so many patches run out of memory."""

    def limit(n_patches):
        forward = RSUNet.forward

        def limited(self, image):
            if self.training and len(image) > n_patches:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return forward(self, image)

        monkeypatch.setattr(RSUNet, "forward", limited)

    return limit


@pytest.mark.parametrize(
    ("n_parts", "batch_size", "finer"),
    [
        (1, 4, 2),
        (2, 4, 4),
        (4, 4, None),
        (1, 1, None),
        (1, 6, 2),
        (2, 6, 6),
        (1, 3, 3),
        (3, 9, 9),
        (1, 7, 7),
        (2, 12, 4),
        (4, 12, 12),
    ],
)
def test_batches_are_divided_into_equal_parts(n_parts, batch_size, finer):
    assert parts_after(n_parts, batch_size) == finer


def test_lack_of_memory_halves_the_batch_and_keeps_the_step(run, fits):
    settings = ["data.iter_num_per_epoch=16", "optimization.max_epochs=1"]
    wanted = run(
        "halves",
        *settings,
        "system.training.batch_size=2",
        "optimization.accumulate_grad_batches=2",
    )
    fits(2)
    events, state = run("whole", *settings, "system.training.batch_size=4")
    assert state["record"]["step"] == wanted[1]["record"]["step"] == 4
    assert state["record"]["parts_per_batch"] == 2
    torch.testing.assert_close(state["network"], wanted[1]["network"], rtol=0, atol=0)
    (notice,) = [e for e in events if isinstance(e, Notice) and "Memory" in e.message]
    assert "2 patches at a time in place of 4" in notice.message
    assert notice.level == "warning"


def test_not_even_one_patch_ends_in_words(run, fits):
    fits(0)
    with pytest.raises(JobError, match="with one patch at a time: lower"):
        run("none")


def test_what_is_no_lack_of_memory_is_not_tried_again(run, monkeypatch):
    def broken(self, image):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(RSUNet, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run("broken")
