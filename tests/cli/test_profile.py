"""``volseg profile`` on the command line."""

import json

import pytest

from napari_volseg.cli import main
from napari_volseg.config import build_config
from napari_volseg.io import write_text
from napari_volseg.runs import TrainingPair, create_run

SETTINGS = [
    "model.filters=[4,8]",
    "data.patch_size=[8,16,16]",
    "system.training.batch_size=1",
    "system.device=cpu",
    "optimization.precision=32",
]


def _answer(capsys, *arguments):
    assert main(["profile", *arguments, "--steps", "1", "--threads", "0"]) == 0
    return capsys.readouterr().out


def test_the_verdict_is_given_in_words(em, capsys, workplace):
    out = _answer(
        capsys, "quick", "--image", "em.h5:raw", "--label", "em.h5:labels", *SETTINGS
    )
    assert "the network waits" in out
    assert "(configured)" in out
    assert "read" in out
    assert "collate" in out
    assert sorted(p.name for p in workplace.iterdir()) == ["em.h5"]


def test_json_is_only_json_and_a_yaml_file_may_be_named_by_config(em, capsys):
    tree = {"data": {"train_image": "em.h5:raw", "train_label": "em.h5:labels"}}
    write_text("mine.yaml", json.dumps(tree))
    answer = json.loads(_answer(capsys, "--config", "mine.yaml", *SETTINGS, "--json"))
    assert set(answer["stages_ms"]) == {"read", "crop", "augment", "collate"}
    assert [t["threads"] for t in answer["trials"]] == [0, 1]
    assert answer["verdict"] in ("ready", "slow", "contended")


def test_a_run_is_profiled_with_its_own_data(cells, tmp_path, capsys, tiny_config):
    run = create_run(
        build_config(tiny_config.model_dump(mode="json")),
        [TrainingPair(cells, None, "train")],
        tmp_path / "runs",
    )
    before = sorted(run.rglob("*"))
    answer = json.loads(_answer(capsys, str(run), "--json"))
    assert answer["batch_size"] == 2
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "two"], "--threads two must be numbers"),
        (["--threads", "99"], "from 0 to 64"),
        (["--steps", "0"], "--steps 0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments, message):
    assert main(["profile", "quick", *arguments]) == 2
    assert message in capsys.readouterr().err
