"""``volseg bench`` on the command line."""

import json

import pytest

from napari_volseg.cli import main

SETTINGS = [
    "model.filters=[4,8]",
    "data.patch_size=[8,16,16]",
    "system.training.batch_size=1",
    "system.device=cpu",
    "optimization.precision=32",
    "--seconds",
    "0.01",
]


@pytest.fixture(autouse=True)
def no_trials_of_before(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_speeds_and_limits_are_told_and_nothing_is_kept(capsys, workplace):
    assert main(["bench", "quick", *SETTINGS, "--disk", "."]) == 0
    out = capsys.readouterr().out
    for word in (
        "cpu, float32",
        "train, steps",
        "predict, windows",
        "segment",
        "limit",
    ):
        assert word in out
    assert not list(workplace.iterdir())


def test_json_is_only_json_and_all_of_it_was_measured(em, capsys, workplace):
    data = ["--image", "em.h5:raw", "--label", "em.h5:labels"]
    assert main(["bench", *data, *SETTINGS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["patch_size"] == [8, 16, 16]
    assert answer["patches_per_step"] == 1
    assert answer["train"]["steps_per_minute"] > 0
    assert answer["predict"]["windows_per_minute"] > 0
    assert answer["predict"]["form"] == "cpu, float32, channels last"
    assert "no time" in answer["predict"]["note"]
    assert answer["segment"]["blockwise_mvox_per_minute"] > 0
    assert answer["segment"]["fits_mvox"] == pytest.approx(125)
    assert answer["disk_mb_per_second"] > 0
    assert 0.05 < answer["peak_memory_gb"] < 100
    assert [p.name for p in workplace.iterdir()] == ["em.h5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds 0 must be above 0"),
        (["--disk", "nowhere"], "nowhere cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_refused(failure, arguments, message):
    assert message in failure("bench", "quick", *arguments)
