"""``volseg test``: predictions, segmentation and scores of a run."""

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from napari_volseg.cli import main
from napari_volseg.io import hdf5_writing, read_labels, write_hdf5


@pytest.fixture
def run(train_em, model, tmp_path, capsys) -> Path:
    """Return a run folder with a model."""
    assert train_em("--name", "first", "experiment_name=vesicles") == 0
    folder = tmp_path / "runs" / "first"
    shutil.copy(model, folder)
    capsys.readouterr()
    return folder


TEST = ["--image", "em.h5:raw", "--label", "em.h5:labels"]


def test_a_run_is_tested_and_its_score_is_found_by_grep(em, run, cells, capsys):
    assert main(["test", "first", *TEST]) == 0
    assert "f1_50 1.0000" in capsys.readouterr().out
    log = run / "test_results.log"
    found = subprocess.run(
        ["grep", "adapted_rand", str(log)], capture_output=True, text=True, check=True
    )
    name, key, value = found.stdout.split()
    assert (name, key) == ("em.h5:raw", "adapted_rand_error")
    assert float(value) == pytest.approx(0, abs=1e-6)


def test_the_results_are_files_for_other_programs(em, run, cells):
    assert main(["test", str(run), *TEST]) == 0
    results = run / "results"
    with h5py.File(results / "predictions.h5") as file:
        assert list(file) == ["main"]
        assert file["main"].shape == (3, *cells.image.shape_ZYX)
        assert file["main"].dtype == np.uint8
        assert file["main"].attrs["voxel_size_zyx_nm"] == pytest.approx([40, 10, 10])
    with h5py.File(results / "segmentation.h5") as file:
        assert list(file) == ["main"]
        labels = file["main"][()]
    np.testing.assert_array_equal(labels > 0, cells.image.read()[0] > 120)
    assert not list(results.glob(".*"))


def test_results_are_never_replaced_unasked(em, run, failure, tmp_path):
    assert main(["test", "first", *TEST]) == 0
    before = (run / "results" / "segmentation.h5").read_bytes()
    assert "--overwrite" in failure("test", "first", *TEST)
    assert (run / "results" / "segmentation.h5").read_bytes() == before
    assert main(["test", "first", *TEST, "-o", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "test_results.log").is_file()
    more = ["--overwrite", "instances.min_size=100000"]
    assert main(["test", "first", *TEST, *more]) == 0
    assert not read_labels(f"{run / 'results' / 'segmentation.h5'}:main").any()
    assert (run / "test_results.log").read_text().count("adapted_rand_error") == 2


@pytest.mark.parametrize("n_written", [0, 1])
def test_what_a_killed_test_left_is_removed_by_the_next(
    em, run, monkeypatch, tmp_path, n_written
):
    class Killed(BaseException):
        """Takes the place of SIGKILL."""

    write, written = hdf5_writing.add_dataset, []

    def die(*arguments):
        if len(written) == n_written:
            shutil.copytree(tmp_path / "results", tmp_path / "then")
            raise Killed
        written.append(arguments)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(hdf5_writing, "add_dataset", die)
        with pytest.raises(Killed):
            main(["test", "first", *TEST, "-o", str(tmp_path / "results")])
    results = tmp_path / "then"
    assert list(results.glob(".*"))

    assert main(["test", "first", *TEST, "-o", str(results), "--overwrite"]) == 0

    assert not list(results.glob(".*"))


def test_results_never_take_the_place_of_what_is_tested(em, run, failure):
    raw, truth = Path("predictions.h5"), Path("segmentation.h5")
    before = em.read_bytes()
    for image, label in ((raw, em), (em, truth)):
        for path in (image, label):
            path.write_bytes(before)
        sources = ["--image", f"{image}:raw", "--label", f"{label}:labels"]
        text = failure("test", "first", *sources, "-o", ".", "--overwrite")
        assert "would write over an input" in text
        assert image.read_bytes() == label.read_bytes() == before


def test_the_command_of_pytorch_connectomics_works_as_it_stands(em, run, workplace):
    tree = {
        "experiment_name": "vesicles",
        "inference": {
            "data": {"test_image": "em.h5:raw", "test_label": "em.h5:labels"}
        },
    }
    Path("tutorials").mkdir()
    Path("tutorials/hydra-lv.yaml").write_text(yaml.safe_dump(tree))
    command = ["train", "--config", "tutorials/hydra-lv.yaml", "--mode", "test"]
    assert main([*command, "--checkpoint", str(run / "model.safetensors")]) == 0
    assert (run / "results" / "predictions.h5").is_file()
    # Without a checkpoint, the newest run of that name.
    assert main([*command, "--overwrite", "instances.min_size=20"]) == 0
    assert main(["test", "tutorials/hydra-lv.yaml", "--overwrite"]) == 0


def test_checkpoints_are_chosen_by_name_or_path(em, run, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "napari_volseg.cli.testing.run_in_terminal",
        lambda job: (_ for _ in ()).throw(KeyboardInterrupt(seen.append(job))),
    )
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")
    kept = run / "checkpoints"
    for wanted, path in (
        ("best", run / "model.safetensors"),
        ("last", kept / "last.ckpt"),
        (str(kept / "best.ckpt"), kept / "best.ckpt"),
    ):
        models = []
        monkeypatch.setattr(
            "napari_volseg.cli.testing.create_prediction",
            lambda model, *args, models=models, **kwargs: models.append(model),
        )
        main(["test", "first", *TEST, "--checkpoint", wanted])
        assert models == [path]
        shutil.rmtree(run / "results")


def test_a_mask_says_where_to_predict_and_to_score(em, run, cells, capsys):
    mask = np.zeros(cells.image.shape_ZYX, np.uint8)
    mask[:, :20] = 1
    write_hdf5("mask.h5", {"mask": mask}, (40.0, 10.0, 10.0))
    assert main(["test", "first", *TEST, "--mask", "mask.h5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    labels = read_labels(f"{run / 'results' / 'segmentation.h5'}:main")
    assert labels[:, :20].any()
    assert not labels[:, 20:].any()
    n_true = len(np.unique(cells.labels_ZYX[:, :20])) - 1
    assert answer["mean"]["n_true"] == n_true


def test_several_volumes_have_folders_and_a_mean(em, run, capsys):
    for i in (1, 2):
        shutil.copy(em, f"vol{i}.h5")
    data = ["--image", "vol*.h5:raw", "--label", "vol*.h5:labels"]
    assert main(["test", "first", *data, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    folders = [run / "results" / volume["folder"] for volume in answer["volumes"]]
    assert len(set(folders)) == 2
    assert all((folder / "segmentation.h5").is_file() for folder in folders)
    assert "mean adapted_rand_error" in (run / "test_results.log").read_text()


def test_without_truth_there_are_results_but_no_scores(em, run, capsys):
    assert main(["test", "first", "--image", "em.h5:raw", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mean"] == {}
    assert answer["volumes"][0]["n_instances"] > 0


def test_without_test_volumes_the_validation_volumes_are_predicted(
    em, model, train_em, tmp_path
):
    train_em("--name", "x", "--val-image", "em.h5:raw", "--val-label", "em.h5:labels")
    shutil.copy(model, tmp_path / "runs" / "x")
    assert main(["test", "x"]) == 0
    assert (tmp_path / "runs" / "x" / "results" / "segmentation.h5").is_file()


def test_a_model_outside_a_run_has_its_results_beside_it(em, model, workplace):
    assert main(["test", str(model), *TEST]) == 0
    assert (workplace / "results" / "predictions.h5").is_file()
    assert (workplace / "test_results.log").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "first"], "nothing to test on"),
        (["test", "nothing", *TEST], "there is no model 'nothing'"),
        (["test", "quick", *TEST], "experiment_name 'quick'"),
        (["test", "first", "--label", "em.h5:labels"], "need an --image"),
        (["test", "first", *TEST, "--checkpoint", "average"], "a mean needs two"),
        (["test", "first", *TEST, "--checkpoint", "x.ckpt"], "no model 'x.ckpt'"),
        (["test", "first", *TEST, "--mask", "em.h5:labels[0:3]"], "mask"),
        (["test", "first", "data.test_label=em.h5:labels"], "need data.test_image"),
        (["train", "first", "--checkpoint", "best"], "--mode test"),
        (["train", "first", "--mode", "test", "--name", "x"], "leave out"),
        (["train", "quick", "--config", "quick"], "both say what to train"),
    ],
)
def test_what_can_be_mended_is_one_sentence(em, run, failure, arguments, message):
    assert message in failure(*arguments)
    assert not (run / "results").exists()


def test_keys_that_are_left_out_are_told(em, run, capsys):
    tree = {"experiment_name": "vesicles", "model": {"strides": [2, 2], "norm": "x"}}
    Path("their.yaml").write_text(yaml.safe_dump(tree))
    assert main(["test", "their.yaml", *TEST]) == 0
    err = capsys.readouterr().err
    assert "2 keys of PyTorch Connectomics" in err
    assert "model.norm, model.strides" in err
    assert main(["config", "their.yaml", "--left-out"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [
        "model.norm", "model.strides",
    ]  # fmt: skip
