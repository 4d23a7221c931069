"""Settings drawn at random: they train, or are refused with advice that works."""

import random
import re

import numpy as np
import pytest

from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.learner import Learner
from napari_volseg.planning import plan_training
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.volume import LabelledVolume, Volume

ARCHITECTURES = (
    "rsunet",
    "monai_unet",
    "monai_basic_unetplusplus",
    "monai_attention_unet",
    "monai_segresnet",
    "monai_dynunet",
    "monai_swin_unetr",
    "monai_unetr",
)
"""All but MedNeXt, which cannot be made small; its refusals are those of others."""


@pytest.mark.parametrize("seed", range(32))
def test_what_is_combined_trains_or_is_refused_with_advice_that_works(
    tiny_config, seed
):
    draw = random.Random(seed)
    pairs = [TrainingPair(_volume(draw), None)]
    tree = apply_overrides(tiny_config.model_dump(mode="json"), _settings(draw))
    for _ in range(8):
        try:
            config = build_config(tree)
            plan = plan_training(config, pairs)
        except DataError as error:
            tree = apply_overrides(tree, [_advice(str(error))])
            continue
        batch = prepare_patches(plan, pairs, None).batch(0, 0)
        loss, _ = Learner(plan).learn([batch])
        assert np.isfinite(loss)
        return
    pytest.fail("the advice went round in circles")


def _volume(draw: random.Random) -> LabelledVolume:
    shape = draw.choice([(1, 40, 40), (5, 40, 40), (24, 40, 40), (12, 33, 50)])
    channels = draw.choice([1, 1, 2])
    labels = np.zeros(shape, np.int32)
    labels[:, 4:16, 4:16], labels[:, 20:30, 4:30] = 1, 2
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (channels, *shape), np.uint8)
    size = draw.choice([(10.0, 10.0, 10.0), (40.0, 10.0, 10.0), (10.0, 10.0, 30.0)])
    return LabelledVolume(Volume(image, size, "em"), labels)


def _settings(draw: random.Random) -> list[str]:
    one_of = draw.choice
    wanted = {
        "model.architecture": one_of(ARCHITECTURES),
        "model.filters": one_of([[4], [4, 6], [4, 8, 16], [6, 5, 7, 9], [3, 4, 4, 6]]),
        "model.rsunet_norm": one_of(["batch", "group", "instance"]),
        "model.deep_supervision": one_of(["false", "true"]),
        "model.gradient_checkpointing": one_of(["false", "false", "true"]),
        "model.monai_upsample": one_of(["linear", "transposed"]),
        "model.rsunet_skip": one_of(["add", "add", "attention", "dense"]),
        "model.kernel_sizes": one_of(["null", "null", [[2, 3, 3], [3, 3, 3]]]),
        "model.down_factors": one_of(["null", "null", [[2, 2, 2], [1, 4, 4]]]),
        "model.unetr_hidden_size": one_of([24, 30]),
        "model.unetr_num_heads": one_of([2, 4]),
        "model.loss.scales": one_of([1, 3]),
        "data.patch_size": one_of([[1, 32, 32], [8, 30, 30], [16, 16, 16], [7, 21, 9]]),
        "data.val_fraction": one_of([0, 0.2]),
        "data.targets.distance_kind": one_of(["depth", "signed"]),
        "system.training.batch_size": one_of([1, 2]),
        "system.training.num_gpus": one_of([0, 1, 4]),
        "optimization.precision": one_of(["32", "bf16-mixed", "16-mixed"]),
    }
    return [f"{key}={value}" for key, value in wanted.items()]


def _advice(message: str) -> str:
    """Return the override that a refusal advises; 'it' is what it begins with."""
    assert "\n" not in message
    (about, *_) = re.findall(r"\w+(?:\.\w+)+", message) or [""]
    found = re.search(r"set ([\w.]+)(?: to |=)(\[.*\]|[\w.]+)", message)
    if found is None:
        assert "leave it unset" in message
        return f"{about}=null"
    key, text = found.groups()
    if "." not in key:
        key = about if key == "it" else f"{about.rpartition('.')[0]}.{key}"
    return f"{key}={text}"
