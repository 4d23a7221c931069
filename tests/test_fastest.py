"""The form of the forward pass: which is taken, and what happens where one fails."""

import json

import numpy as np
import pytest
import torch

from napari_volseg import fastest, formtrials
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InferenceConfig
from napari_volseg.converted import has_openvino
from napari_volseg.devices import Compute
from napari_volseg.events import Notice
from napari_volseg.fastest import choose_form, choose_trial
from napari_volseg.forms import Form, form_from_dict, list_forms
from napari_volseg.formtrials import Trial
from napari_volseg.mapjob import prepare_maps
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.volume import Volume

EXACT = Form(Compute("cpu", "32", False))
USUAL = Form(Compute("cpu", "32", True))
HALF = Form(Compute("cpu", "bf16", False))
OPENVINO = Form(Compute("cpu", "32", False), "openvino")
PATCH = (8, 16, 16)
NM = (40.0, 10.0, 10.0)


def _trial(form, seconds, mean=0.0, high=0.0, failure=""):
    return Trial(form, seconds, mean, high, failure)


def test_the_fastest_form_whose_maps_agree_is_taken():
    slow, fast = _trial(EXACT, 2.0), _trial(OPENVINO, 1.0)
    assert choose_trial([slow, fast], EXACT) == fast
    wrong = _trial(HALF, 0.1, mean=1.5, high=3.0)
    far = _trial(HALF, 0.1, mean=0.5, high=9.0)
    failed = _trial(HALF, 0.0, failure="no memory")
    for bad in (wrong, far, failed):
        assert choose_trial([slow, bad, fast], EXACT) == fast
        assert choose_trial([bad], EXACT) is None


def test_the_default_stays_where_another_is_hardly_faster():
    usual, other = _trial(EXACT, 1.0), _trial(OPENVINO, 0.97)
    assert choose_trial([usual, other], EXACT) == usual
    assert choose_trial([usual, other], OPENVINO) == other


def test_a_form_survives_the_way_through_a_file():
    for form in (EXACT, HALF, OPENVINO):
        assert form_from_dict(json.loads(json.dumps(form.to_dict()))) == form
    assert str(OPENVINO) == "cpu, float32, OpenVINO"
    assert OPENVINO.label == "OpenVINO float32"


def test_what_may_compute_a_network_is_what_was_asked_for(monkeypatch):
    monkeypatch.setattr("napari_volseg.forms.has_openvino", lambda: True)
    monkeypatch.setattr("napari_volseg.forms.has_fast_bf16", lambda: True)
    assert {f.engine for f in list_forms(EXACT, "torch", exact=False)} == {"eager"}
    assert {f.engine for f in list_forms(EXACT, "openvino", exact=False)} == {
        "openvino"
    }
    both = list_forms(EXACT, "auto", exact=False)
    assert both[0] == EXACT
    assert {HALF, OPENVINO} <= set(both)
    exact = list_forms(EXACT, "auto", exact=True)
    assert {f.compute.precision for f in exact} == {"32"}


@pytest.fixture
def make_job(tiny_config, tmp_path, rng, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    pyramid = plan_pyramid(tiny_config.model, NM, PATCH)
    network = build_network(tiny_config.model, 1, pyramid)
    path = tmp_path / "model.safetensors"
    metadata = model_metadata(tiny_config, pyramid, 1, NM, PATCH, 1, {})
    save_model(path, network.state_dict(), metadata)
    image = Volume(rng.integers(0, 255, (20, 70, 85), np.uint8), NM, "em")
    folder = tmp_path / "job"
    folder.mkdir()

    def make(backend="auto"):
        return prepare_maps(
            path,
            load_model(path),
            image,
            folder,
            inference=InferenceConfig(backend=backend),
            device="cpu",
            block=(8, 32, 32),
            resume=True,
        )

    return make


def _choose(job, n_windows=1000):
    """Return the job in its form, and the notices."""
    notices = []
    path = job.folder.parent / "model.safetensors"
    steps = choose_form(job, path, range(job.grid.n_blocks), n_windows)
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value, notices
        assert isinstance(event, Notice)
        notices.append(event.message)


@pytest.fixture
def trials(monkeypatch):
    """Stand in for the trials; OpenVINO is there and fast."""
    asked = []
    monkeypatch.setattr("napari_volseg.forms.has_openvino", lambda: True)
    monkeypatch.setattr(fastest, "_WORTH_SECONDS", 0.0)
    monkeypatch.setattr(formtrials, "version", lambda name: "1")

    def run(model_path, forms, windows, should_stop):
        asked.append(forms)
        return [_trial(f, 1.0 if f == OPENVINO else 2.5) for f in forms]

    monkeypatch.setattr(formtrials, "_try_in_process", run)
    return asked


def test_the_choice_is_said_and_kept_for_whoever_goes_on(make_job, trials):
    job, notices = _choose(make_job())
    assert job.forward.form == OPENVINO
    assert "OpenVINO float32, 2.5 times as fast here as PyTorch" in notices[-1]
    again = make_job()  # as a worker of a cluster would, or who resumes
    assert again.forward.form == OPENVINO
    assert _choose(again)[0].forward.form == OPENVINO
    assert len(trials) == 1  # what trials have shown is known
    assert make_job("torch").forward.form == USUAL


@pytest.mark.parametrize(("n_windows", "worth"), [(59, 0.0), (1000, 1e9)])
def test_what_takes_little_is_not_tried(
    make_job, trials, monkeypatch, n_windows, worth
):
    monkeypatch.setattr(fastest, "_WORTH_SECONDS", worth)
    job, notices = _choose(make_job(), n_windows)
    assert (job.forward.form, notices, trials) == (USUAL, [], [])


def test_openvino_that_is_not_there_is_said(make_job, monkeypatch):
    monkeypatch.setattr("napari_volseg.forms.has_openvino", lambda: False)
    job, notices = _choose(make_job("openvino"))
    assert job.forward.form == USUAL
    assert "pip install 'napari-volseg[openvino]'" in notices[0]


def test_a_form_that_crashes_the_process_costs_only_itself(make_job, monkeypatch):
    monkeypatch.setattr("napari_volseg.forms.has_openvino", lambda: True)
    monkeypatch.setattr(formtrials, "version", lambda name: "1")
    asked = []

    def run(folder, is_over):
        spec = json.loads((folder / "spec.json").read_text())
        forms = [form_from_dict(values) for values in spec["forms"]]
        asked.append(len(forms))
        lines = [json.dumps(formtrials._to_dict(_trial(f, 1.0))) for f in forms]
        done = forms.index(OPENVINO) if OPENVINO in forms else len(forms)
        (folder / "results.jsonl").write_text("\n".join(lines[:done]))
        return -11 if done < len(forms) else 0

    monkeypatch.setattr(formtrials, "_run_process", run)
    job, notices = _choose(make_job("openvino"))
    assert job.forward.form == USUAL
    assert "OpenVINO float32: it crashes (-11)" in notices[-1]
    assert asked[0] >= 1


@pytest.mark.skipif(not has_openvino(), reason="the extra [openvino] is not installed")
def test_openvino_predicts_what_pytorch_predicts(make_job):
    job, notices = _choose(make_job("openvino"))
    assert job.forward.form.engine == "openvino"
    assert "OpenVINO" in notices[-1]
    windows = np.random.default_rng(0).random((2, 1, *PATCH), np.float32)
    expected = make_job("torch").forward(windows)
    torch.testing.assert_close(job.forward(windows), expected, rtol=0, atol=0.2 / 255)
