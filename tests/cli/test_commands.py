"""The commands from training to evaluation, and what there is."""

import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from napari_volseg import worker
from napari_volseg.cli import hidden, main
from napari_volseg.cli.settings_help import iter_settings, settings_text
from napari_volseg.config import build_config, dump_config, preset_names
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Started
from napari_volseg.io import open_volume, read_labels, write_hdf5
from napari_volseg.runs import list_runs, read_config, read_prediction, read_run


def _train_em(*more: str) -> int:
    data = ["--image", "em.h5:raw", "--label", "em.h5:labels"]
    return main(["train", "quick", *data, *more])


def _failure(capsys, *arguments: str, code: int = 2) -> str:
    assert main(list(arguments)) == code
    text = capsys.readouterr().err
    assert text.startswith("volseg: error: ")
    assert text.count("\n") == 1
    return text


# Training


def test_train_makes_a_run_and_says_what_is_next(em, tmp_path, capsys):
    settings = ["system.training.batch_size=3", "data.patch_size=[8,16,16]"]
    assert _train_em(*settings, "--name", "first", "--device", "cpu") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "runs" / "first"
    assert "completed: Trained." in out
    assert f"volseg predict '{folder}'" in out
    assert "validation at step 2: f1_50 0.750" in err
    config, (pair,) = read_run(folder)
    assert config.system.training.batch_size == 3
    assert config.data.patch_size == (8, 16, 16)
    assert config.system.device == "cpu"
    assert config.data.train_image == (f"{em}:raw",)
    assert pair.source == f"{em}:raw"


def test_train_json_is_only_json_on_stdout(em, capsys):
    assert _train_em("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["reason"] == "completed"
    assert Path(answer["folder"]).is_dir()


def test_models_that_settings_name_are_found_from_any_folder(
    em, model, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = ["model.initial_weights=model.safetensors"]
    _train_em("--name", "x", *settings, "model.loss.perceptual_model=~/p.safetensors")
    config = read_config(tmp_path / "runs" / "x")
    assert config.model.initial_weights == str(model)
    assert config.model.loss.perceptual_model == str(tmp_path / "p.safetensors")
    _train_em("--name", "y", "model.initial_weights=~nobody-here/m.safetensors")
    there = str(em.parent / "~nobody-here" / "m.safetensors")
    assert read_config(tmp_path / "runs" / "y").model.initial_weights == there


def test_train_from_a_yaml_file_with_relative_sources(em, tmp_path):
    tree = {"data": {"train_image": "em.h5:raw", "train_label": "em.h5:labels"}}
    Path("my.yaml").write_text(yaml.safe_dump(tree))
    assert main(["train", "my.yaml", "--runs", str(tmp_path / "other")]) == 0
    (run,) = list_runs(tmp_path / "other")
    assert read_config(run.folder).data.train_label == (f"{em}:labels",)


def test_validation_data_and_masks(em, tmp_path):
    data = ["--mask", "em.h5:labels", "--val-image", "em.h5:raw"]
    assert _train_em(*data, "--val-label", "em.h5:labels") == 0
    _, pairs = read_run(list_runs(tmp_path / "runs")[0].folder)
    assert [p.role for p in pairs] == ["train", "val"]
    assert pairs[0].volume.annotated_ZYX is not None
    assert pairs[1].volume.annotated_ZYX is None


def test_a_run_folder_is_trained_anew_with_the_same_data(em, tmp_path):
    _train_em("optimization.max_epochs=3")
    first = list_runs(tmp_path / "runs")[0].folder
    em.rename(em.with_name("moved.h5"))
    shutil.copy(em.with_name("moved.h5"), first.parent / "em.h5")
    assert main(["train", str(first), "model.filters=[4,8]"]) == 0
    second = first.with_name(f"{first.name}-2")
    config, (pair,) = read_run(second)
    assert config.model.filters == (4, 8)
    assert config.optimization.max_epochs == 3
    assert pair.source == f"{first.parent / 'em.h5'}:raw"


def test_resume_continues_in_the_same_folder(em, tmp_path, capsys):
    _train_em("--name", "x")
    folder = tmp_path / "runs" / "x"
    assert main(["train", "x", "--resume", "optimization.max_minutes=5"]) == 0
    assert "from step 1" in capsys.readouterr().err
    assert len(list_runs(tmp_path / "runs")) == 1
    assert read_config(folder).optimization.max_minutes == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "quik"], "did you mean 'quick'"),
        (["train", "quick"], "--image SRC --label SRC"),
        (["train", "quick", "modle.filters=[4]"], "there is no setting"),
        (["train", "quick", "system.training.batch_size=0"], "batch_size"),
        (["train", "quick", "--image", "em.h5:raw"], "add --label SRC"),
        (["train", "quick", "--label", "em.h5:raw"], "need an image"),
        (["train", "quick", "--image", "no.h5", "--label", "em.h5:labels"], "no.h5"),
        (["train", "quick", "--resume"], "continues a run folder"),
        (["train", "quick", "--image", "x*.h5", "--label", "em.h5"], r"x*.h5"),
        (["train", "."], "is not a run folder"),
        (["predict", "nothing", "em.h5:raw"], "there is no model 'nothing'"),
        (["segment", "em.h5"], "has no dataset maps"),
        (["evaluate", "em.h5:labels", "em.h5:labels[0:5]"], "must cover the same"),
        (["evaluate", "em.h5:labels", "em.h5:labels", "--min-size=-1"], "--min-size"),
        (["config", "nope"], "there is no preset"),
        (["config"], "name a preset"),
    ],
)
def test_what_can_be_mended_is_one_sentence(em, tmp_path, capsys, arguments, message):
    assert message in _failure(capsys, *arguments)
    assert list_runs(tmp_path / "runs") == []


def test_resume_refuses_new_data_and_new_networks(em, capsys):
    _train_em("--name", "x")
    capsys.readouterr()
    assert "leave out" in _failure(capsys, "train", "x", "--resume", "--name", "y")
    text = _failure(capsys, "train", "x", "--resume", "model.filters=[4,8]")
    assert "cannot change" in text


@pytest.mark.parametrize(
    "setting",
    [
        "optimization.optimizer.name=SGD",
        "optimization.precision=16-mixed",
        "system.training.num_gpus=9",
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(em, capsys, setting):
    _train_em("--name", "x", "--device", "cpu")
    runs = em.parent.parent / "runs"
    (runs / "x" / "checkpoints").mkdir(exist_ok=True)
    (runs / "x" / "checkpoints" / "last.ckpt").touch()
    (before,) = list_runs(runs)
    files = {p: p.read_bytes() for p in before.folder.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert setting.split("=")[0] in _failure(capsys, "train", "x", "--resume", setting)
    assert {p: p.read_bytes() for p in before.folder.rglob("*") if p.is_file()} == files
    assert list_runs(runs) == [before]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["predict"],
        ["train", "quick", "--imag", "x"],
        ["evaluate", "a", "b", "c=1"],
        ["train", "quick", "strange"],
        ["train", "quick", "--device", "tpu"],
    ],
)
def test_usage_errors_have_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: volseg" in capsys.readouterr().err


def test_a_failed_run_has_code_2_when_mendable_and_1_otherwise(em, capsys, monkeypatch):
    for error, code in ((DataError("paint more"), 2), (ZeroDivisionError("x"), 1)):

        def fail(folder, resume, read_control, error=error):
            raise error

        monkeypatch.setattr(worker, "_train", fail)
        assert _train_em() == code
        assert f"volseg: error: {error}" in capsys.readouterr().err


@pytest.fixture
def interruptible():
    """Let SIGINT arrive: background jobs of a shell start with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_and_keeps(em, tmp_path, capsys, monkeypatch):
    train = worker._train

    def interrupted(folder, resume, read_control):
        for event in train(folder, resume, read_control):
            yield event
            if isinstance(event, Started):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(worker, "_train", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert _train_em() == 130
    assert "Ctrl-C again aborts" in capsys.readouterr().err
    assert list_runs(tmp_path / "runs")[0].state == "stopped"
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_aborts_and_the_run_can_be_resumed(em, tmp_path, monkeypatch):
    train = worker._train

    def interrupted(folder, resume, read_control):
        for event in train(folder, resume, lambda: type("C", (), {"stop": False})):
            yield event
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(worker, "_train", interrupted)
    assert _train_em("--name", "x") == 130
    assert list_runs(tmp_path / "runs")[0].state == "interrupted"
    monkeypatch.setattr(worker, "_train", train)
    assert main(["train", "x", "--resume"]) == 0


def test_a_fast_dev_run_keeps_nothing(em, tmp_path, capsys, monkeypatch):
    seen = []

    def train(folder, resume, read_control):
        seen.append(read_run(folder))
        yield Finished("completed", "Trained.", str(shutil.copy(model, folder)))

    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")

    def predict(folder, should_stop, resume=False, scheduler=None):
        seen.append(read_prediction(folder))
        yield Finished("completed", "Predicted.", str(folder))

    monkeypatch.setattr(worker, "_train", train)
    monkeypatch.setattr(worker, "_predict", predict)
    assert _train_em("--fast-dev-run", "data.patch_size=[4,8,8]") == 0
    assert "everything works" in capsys.readouterr().out
    (config, (pair,)), request = seen
    assert config.data.iter_num_per_epoch == 2 * config.system.training.batch_size
    assert config.optimization.max_epochs == 1
    assert pair.volume.image.shape_ZYX == (8, 16, 16)
    assert pair.volume.labels_ZYX.any()
    assert request.image.shape_ZYX == (4, 8, 8)
    assert not (tmp_path / "runs").exists()


def test_a_fast_dev_run_needs_no_data(tmp_path, capsys, monkeypatch):
    def train(folder, resume, read_control):
        raise DataError("so far so good")

    monkeypatch.setattr(worker, "_train", train)
    assert "so far so good" in _failure(capsys, "train", "quick", "--fast-dev-run")


# Prediction


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_predict_writes_maps_and_instances_with_voxel_size(
    em, model, capsys, cells, suffix
):
    output = f"out.{suffix}"
    arguments = ["predict", str(model), "em.h5:raw", "-o", output, "--json"]
    assert main([*arguments, "instances.min_size=6"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["n_instances"] == cells.labels_ZYX.max()
    assert answer["instances"]["min_size"] == 6
    assert answer["instances"]["mask"] == 0.4
    maps = open_volume(f"{output}:maps")
    assert maps.data.shape == (3, *cells.image.shape_ZYX)
    assert maps.voxel_size == cells.image.voxel_size
    instances = read_labels(f"{output}:instances")
    np.testing.assert_array_equal(instances > 0, maps.read()[0] > 0)
    assert sorted(p.name for p in Path().iterdir()) == [
        "em.h5", "model.safetensors", output,
    ]  # fmt: skip


def test_predict_names_the_output_after_the_image_and_never_overwrites(
    em, model, capsys
):
    assert main(["predict", str(model), "em.h5:raw"]) == 0
    before = Path("em_volseg.h5").read_bytes()
    capsys.readouterr()
    text = _failure(capsys, "predict", str(model), "em.h5:raw")
    assert "--overwrite" in text
    assert Path("em_volseg.h5").read_bytes() == before
    assert main(["predict", str(model), "em.h5:raw", "--overwrite"]) == 0


def test_predict_within_a_mask_and_from_a_run_folder(em, model, tmp_path, cells):
    _train_em("--name", "x")
    shutil.copy(model, tmp_path / "runs" / "x")
    mask = np.zeros(cells.image.shape_ZYX, np.uint8)
    mask[:, :20] = 1
    write_hdf5("mask.h5", {"mask": mask}, (1.0, 1.0, 1.0))
    assert main(["predict", "x", "em.h5:raw", "--mask", "mask.h5", "-o", "o.h5"]) == 0
    instances = read_labels("o.h5:instances")
    assert instances[:, :20].any()
    assert not instances[:, 20:].any()


def test_predict_hands_on_the_scheduler_and_refuses_what_is_none(em, model, capsys):
    arguments = ["predict", str(model), "em.h5:raw", "-o", "o.h5", "--scheduler"]

    assert "is no scheduler" in _failure(capsys, *arguments, "4")
    assert not Path("o.h5").exists()
    assert main([*arguments, "processes=3"]) == 0
    assert "spread by processes=3" in capsys.readouterr().err


def test_predict_all_that_match_a_glob(em, model, capsys):
    for i in (10, 2):
        shutil.copy(em, f"vol{i}.h5")
    arguments = ["predict", str(model), "vol*.h5:raw", "--json"]
    assert main(arguments) == 0
    answers = json.loads(capsys.readouterr().out)
    names = [Path(answer["path"]).name for answer in answers]
    assert names == ["vol2_volseg.h5", "vol10_volseg.h5"]
    assert "one file" in _failure(capsys, *arguments, "-o", "out.h5")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "out.tif"], ".h5 or .zarr"),
        (["-o", "nowhere/out.h5"], "is not there"),
        (["-o", "em.h5"], "write over an input"),
        (["model.filters=[4,8]"], "does not concern a prediction"),
        (["inference.overlap=2"], "inference.overlap"),
        (["--mask", "em.h5:labels[0:4]"], "must cover the same voxels"),
    ],
)
def test_predict_refuses_before_it_works(em, model, capsys, more, message):
    before = em.read_bytes()
    text = _failure(capsys, "predict", str(model), "em.h5:raw", *more)
    assert message in text
    assert em.read_bytes() == before
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors"]


def test_a_failed_prediction_leaves_nothing(em, model, monkeypatch):
    def fail(folder, should_stop, resume=False, scheduler=None):
        raise MemoryError

    monkeypatch.setattr(worker, "_predict", fail)
    assert main(["predict", str(model), "em.h5:raw"]) == 1
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors"]


@pytest.mark.parametrize("output", ["out.h5", "out.zarr"])
def test_segment_starts_from_the_stored_thresholds(em, model, capsys, output):
    main(["predict", str(model), "em.h5:raw", "-o", output])
    first = read_labels(f"{output}:instances")
    if output.endswith(".h5"):
        with h5py.File(output, "r+") as file:
            file["notes"] = np.arange(3)
    capsys.readouterr()
    assert main(["segment", output, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    np.testing.assert_array_equal(read_labels(f"{output}:instances"), first)
    assert again["instances"]["mask"] == 0.4
    assert main(["segment", output, "instances.min_size=100000"]) == 0
    assert not read_labels(f"{output}:instances").any()
    capsys.readouterr()
    assert main(["segment", output, "--json", "instances.min_size=5"]) == 0
    assert json.loads(capsys.readouterr().out)["n_instances"] == first.max()
    assert open_volume(f"{output}:instances").voxel_size == (40.0, 10.0, 10.0)
    if output.endswith(".h5"):
        with h5py.File(output) as file:
            assert list(file["notes"]) == [0, 1, 2]


def test_segment_refuses_other_settings_and_maps(em, model, capsys):
    main(["predict", str(model), "em.h5:raw", "-o", "out.h5"])
    capsys.readouterr()
    assert "begin with instances" in _failure(capsys, "segment", "out.h5", "data.x=1")
    write_hdf5("odd.h5", {"maps": np.zeros((2, 4, 4, 4), np.uint8)}, (1.0, 1.0, 1.0))
    assert "3 channels" in _failure(capsys, "segment", "odd.h5")


# Evaluation


def test_evaluate_a_perfect_prediction(em, cells, capsys):
    assert main(["evaluate", "em.h5:labels", "em.h5:labels", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["f1_50"] == 1
    assert metrics["ap"] == 1
    assert metrics["adapted_rand_error"] == pytest.approx(0)
    assert metrics["n_true"] == metrics["n_pred"] == cells.labels_ZYX.max()
    assert main(["evaluate", "em.h5:labels", "em.h5:labels"]) == 0
    assert "adapted_rand_error" in capsys.readouterr().out


# What there is


def test_presets(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert main(["presets", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == preset_names()


def test_config_prints_what_train_would_take(capsys):
    assert main(["config", "hydra-lv", "system.training.batch_size=8"]) == 0
    text = capsys.readouterr().out
    config = build_config(yaml.safe_load(text))
    assert config.system.training.batch_size == 8
    assert config.model.filters == (32, 64, 128, 256, 512)
    assert dump_config(config) == text


def test_every_setting_is_explained_once():
    settings = list(iter_settings())
    assert all(setting.help for setting in settings)
    text = settings_text()
    for setting in settings:
        assert text.count(f"  {setting.key}=") == 1


def test_our_own_commands_are_not_offered(capsys):
    with pytest.raises(SystemExit):
        main(["bogus"])
    offered = capsys.readouterr().err
    assert "predict" in offered
    assert not [name for name in hidden.COMMANDS if f"'{name}'" in offered]


def test_help_of_a_command_holds_its_settings_only(capsys):
    for command, inside, outside in (
        ("train", "model.filters=", None),
        ("predict", "inference.overlap=", "model.filters="),
        ("segment", "instances.mask=", "inference.overlap="),
        ("evaluate", "--min-size", "instances.mask="),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert inside in text
        assert outside is None or outside not in text


def test_hidden_commands_are_not_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "train" in text
    assert "worker" not in text


def test_runs_lists_runs(em, tmp_path, capsys):
    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    _train_em("--name", "the first")
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "the first" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["name"], run["state"], run["score"]) == ("the first", "completed", 0.75)


def test_doctor_is_content_here(capsys):
    assert main(["doctor"]) == 0
    assert "Everything that a job needs is here." in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["problems"] == []
    assert answer["devices"][0]["device"] == "cpu"
    assert answer["memory"]["total_bytes"] > 0


def test_doctor_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--runs", str(tmp_path / "file"), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert "cannot write runs" in answer["problems"][0]
    assert not answer["runs"]["writable"]


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("volseg ")


def test_without_a_preset_settings_are_chosen_from_the_data(em):
    data = ["--image", "em.h5:raw", "--label", "em.h5:labels"]
    for words in ([], ["optimization.max_minutes=3"], ["auto"]):
        assert main(["train", *words, *data]) == 0
        config = read_config(list_runs(Path(os.environ["VOLSEG_RUNS"]))[0].folder)
        assert config.automatic.enabled
        kept = "optimization.max_minutes" in config.automatic.kept
        assert kept == bool(words and "=" in words[0])
