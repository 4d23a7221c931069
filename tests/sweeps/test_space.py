import pytest
import yaml

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.sweeps import Range, parse_space, read_space
from napari_volseg.sweeps.folder import trial_config
from napari_volseg.sweeps.space import parse_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log:1e-4:1e-2", Range("log", 1e-4, 1e-2)),
        ("float:0:0.5", Range("float", 0.0, 0.5)),
        ("int:2:8", Range("int", 2.0, 8.0)),
        ("int:16:64:16", Range("int", 16.0, 64.0, 16)),
        ("rsunet|monai_unet", Range("choice", choices=("rsunet", "monai_unet"))),
        (
            "[16,64,64]|[24,96,96]",
            Range("choice", choices=("[16, 64, 64]", "[24, 96, 96]")),
        ),
        ("true|false", Range("choice", choices=("true", "false"))),
        ("null|3", Range("choice", choices=("null", "3"))),
    ],
)
def test_ranges_are_read_from_the_command_line(text, expected):
    values = parse_range("key", text)
    assert values == expected
    assert Range.from_json(values.to_json()) == values


def test_settings_that_do_not_vary_stay_settings():
    space, fixed = parse_space(
        ["a.b=log:1e-4:1e-2", "c=3", "d=[1,2]", "e=x|y", "f=em.h5:raw", "g="]
    )
    assert list(space) == ["a.b", "e"]
    assert fixed == ["c=3", "d=[1,2]", "f=em.h5:raw", "g="]


def test_the_values_to_try_first_are_the_ends():
    assert parse_range("k", "log:1e-4:1e-2").ends() == [1e-4, 1e-2]
    assert parse_range("k", "int:2:8").ends() == [2, 8]
    assert parse_range("k", "[1,2]|null|x").ends() == [[1, 2], None, "x"]
    assert parse_range("k", "1e-3|2026-01-02|1:30").ends() == [
        0.001,
        "2026-01-02",
        "1:30",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "log:0:1", "log:1:0.1", "log:1", "log:a:b", "log:1:2:3", "int:1.5:3",
        "int:1:8:0", "float:1:1", "a|a", "a|", "int:", "[1|[2]|[3}",
    ],
)  # fmt: skip
def test_what_is_no_range_is_one_sentence(text):
    if text == "a|":
        assert parse_range("k", text).choices == ("a", "null")
        return
    with pytest.raises(DataError, match="key") as caught:
        parse_range("key", text)
    assert "\n" not in str(caught.value)


def test_a_file_holds_ranges_nested_or_dotted(tmp_path):
    path = tmp_path / "space.yaml"
    tree = {
        "optimization.optimizer.lr": "log:1e-4:1e-2",
        "data": {"patch_size": [[16, 64, 64], [24, 96, 96]]},
        "model": {"deep_supervision": [True, False]},
    }
    path.write_text(yaml.safe_dump(tree))
    assert read_space(path) == {
        "optimization.optimizer.lr": Range("log", 1e-4, 1e-2),
        "data.patch_size": Range("choice", choices=("[16, 64, 64]", "[24, 96, 96]")),
        "model.deep_supervision": Range("choice", choices=("true", "false")),
    }
    path.write_text("model: {depth: 3}")
    with pytest.raises(DataError, match=r"model\.depth is one value"):
        read_space(path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.architecture=rsunet|rsunett", "model.architecture cannot be rsunett"),
        ("optimization.optimizer.lr=log:1e-3:5", "cannot be 5"),
        ("modle.filters=[4,8]|[8,16]", "did you mean 'model.filters'"),
        ("data.patch_size=[16,64]|[16,64,64]", "cannot be \\[16, 64\\]"),
    ],
)
def test_every_end_of_a_range_is_tried_before_anything_is_made(
    make_sweep, tmp_path, setting, message
):
    with pytest.raises(DataError, match=message):
        make_sweep(setting)
    assert not (tmp_path / "runs").exists()


def test_the_patch_may_vary_where_a_preset_repeats_it(make_sweep, data, tmp_path):
    from napari_volseg.sweeps import create_sweep

    config = load_config("hydra-lv")
    space, _ = parse_space(["data.patch_size=[16,64,64]|[24,96,96]"])
    sweep = create_sweep(config, space, tmp_path, "s", n_trials=2)
    trial = trial_config(sweep, {"data.patch_size": [24, 96, 96]})
    assert trial.data.patch_size == (24, 96, 96)
    assert trial.model.filters == config.model.filters


def test_what_varies_is_not_derived_from_the_data_again(tmp_path):
    from napari_volseg.sweeps import create_sweep

    space, _ = parse_space(["optimization.optimizer.lr=log:1e-4:1e-2"])
    sweep = create_sweep(load_config("auto"), space, tmp_path, "s", n_trials=2)
    trial = trial_config(sweep, {"optimization.optimizer.lr": 0.005})
    assert trial.automatic.enabled
    assert "optimization.optimizer.lr" in trial.automatic.kept
    assert trial.optimization.optimizer.lr == 0.005


def test_a_sweep_without_ranges_is_refused(make_sweep):
    with pytest.raises(DataError, match="nothing varies"):
        make_sweep("model.filters=[4,8]")
