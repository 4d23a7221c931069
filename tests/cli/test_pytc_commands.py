"""The commands of PyTorch Connectomics, with ``volseg train`` for their script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from napari_volseg.cli import main
from napari_volseg.cli.main import build_parser
from napari_volseg.config import load_config
from napari_volseg.runs import list_runs, read_config

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"

BASELINE = (
    "model.architecture=monai_unet data.patch_size=[24,96,96] "
    "model.input_size=[24,96,96] model.output_size=[24,96,96] "
    "model.filters=[32,64,128,256] model.loss_weights=[1.0,0.5,2.0] "
    "system.training.batch_size=32 experiment_name=hydra_lv_baseline"
)
COMMANDS = (
    "",
    "system.training.batch_size=8",
    "system.training.num_gpus=1 system.training.batch_size=4",
    BASELINE,
    "system.training.batch_size=8 optimization.accumulate_grad_batches=2",
    "optimization.optimizer.lr=0.0005",
    "optimization.gradient_clip_val=0.3",
    "system.training.num_workers=16",
    "system.training.num_workers=0",
    "model.architecture=mednext model.mednext_size=B model.deep_supervision=true",
    "model.deep_supervision=true",
)


@pytest.fixture
def tutorial(em, workplace) -> Path:
    """Write ``tutorials/hydra-lv.yaml`` for the data of these tests."""
    tree = load_config("hydra-lv").model_dump(mode="json")
    tree["data"] |= {"train_image": "em.h5:raw", "train_label": "em.h5:labels",
                     "train_mask": []}  # fmt: skip
    path = workplace / "tutorials" / "hydra-lv.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.usefixtures("tutorial")
@pytest.mark.parametrize("settings", COMMANDS)
def test_a_training_command_trains_with_its_settings(settings, tmp_path, capsys):
    words = settings.split()
    assert main(["train", "--config", "tutorials/hydra-lv.yaml", *words]) == 0
    (run,) = list_runs(tmp_path / "runs")
    config = read_config(run.folder)
    name = "hydra_lv_baseline" if "baseline" in settings else "hydra_lv_rsunet"
    assert run.folder.name == config.experiment_name == name
    for word in words:
        key, _, text = word.partition("=")
        value = config.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        assert value == yaml.safe_load(text)


def test_the_baseline_is_a_preset_too():
    changed = load_config("hydra-lv", BASELINE.split())
    baseline = load_config("hydra-lv-baseline")
    assert baseline.description != changed.description
    assert baseline == changed.model_copy(update={"description": baseline.description})


def test_a_tutorial_that_is_not_there_leads_to_the_preset(failure):
    text = failure("train", "--config", "tutorials/hydra-lv.yaml")
    assert "a preset 'hydra-lv'" in text


def _seed_commands(script: str) -> list[list[str]]:
    found = []
    for page in sorted(SEEDS.glob("*.txt")):
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(rf"^python scripts/{script}\.py (.*)$", text, re.M):
            found.append(shlex.split(line, comments=True))
    return found


@pytest.mark.skipif(not SEEDS.is_dir(), reason="needs the seed documents")
def test_every_command_of_the_seed_documents_is_understood():
    commands = _seed_commands("main")
    assert len(commands) > 10
    for words in commands:
        args, settings = build_parser().parse_known_args(["train", *words])
        given = [args.target] if args.target else []
        assert args.config == "tutorials/hydra-lv.yaml"
        load_config("hydra-lv", [*given, *settings])
    for script, command in (
        ("profile_dataloader", ["profile"]),
        ("visualize_neuroglancer", ["view", "--neuroglancer"]),
    ):
        (words,) = _seed_commands(script)
        build_parser().parse_args([*command, *words])
