import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from napari_volseg.devices import Compute
from napari_volseg.networks import build_network
from napari_volseg.planning import plan_training
from napari_volseg.probing import run_probe, trusted_compute
from napari_volseg.runs import TrainingPair


@pytest.fixture
def plan(tiny_config, cells, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tree = tiny_config.model_copy(
        update={
            "optimization": tiny_config.optimization.model_copy(
                update={"precision": "bf16-mixed"}
            )
        }
    )
    return plan_training(tree, [TrainingPair(cells, None)])


@pytest.fixture
def probes(monkeypatch):
    """Stand in for the throw-away process: crash for what `crashes` says."""
    asked = []

    def start(crashes):
        def run(command, *, input, **kwargs):  # noqa: A002
            compute = Compute(**json.loads(input)["compute"])
            asked.append(compute)
            return SimpleNamespace(returncode=-11 if crashes(compute) else 0)

        monkeypatch.setattr(subprocess, "run", run)
        return asked

    return start


def test_a_format_that_survives_is_used_as_it_is(plan, probes):
    probes(lambda compute: False)
    assert trusted_compute(plan) == (plan.compute, None)


def test_a_crash_costs_the_memory_format_first(plan, probes):
    probes(lambda compute: compute.channels_last)
    compute, notice = trusted_compute(plan)
    assert (compute.precision, compute.channels_last) == ("bf16", False)
    assert "cannot train this network" in notice


def test_float32_is_the_last_resort(plan, probes):
    probes(lambda compute: True)
    compute, notice = trusted_compute(plan)
    assert compute.precision == "32"
    assert "float32" in notice


def test_the_answer_is_remembered(plan, probes):
    asked = probes(lambda compute: False)
    trusted_compute(plan)
    trusted_compute(plan)
    assert len(asked) == 1


def test_float32_needs_no_probe(plan, probes, tiny_config, cells):
    asked = probes(lambda compute: True)
    safe = plan_training(tiny_config, [TrainingPair(cells, None)])
    assert trusted_compute(safe) == (safe.compute, None)
    assert asked == []


@pytest.fixture
def spec(plan, monkeypatch):
    """Return what the throw-away process is given."""
    texts = []

    def run(command, *, input, **kwargs):  # noqa: A002
        texts.append(input.decode())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    trusted_compute(plan)
    return texts[0]


def _code(spec):
    with pytest.raises(SystemExit) as ended:
        run_probe(spec)
    return ended.value.code


def test_the_probe_does_a_step_of_the_network_it_is_given(spec):
    assert _code(spec) == 0


def test_a_format_with_wrong_gradients_does_not_pass(spec, monkeypatch):
    class Wrong(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            outputs = self.network(x)
            if torch.is_autocast_enabled("cpu"):
                for logits in outputs:
                    logits.register_hook(torch.neg)
            return outputs

    monkeypatch.setattr(
        "napari_volseg.probing.build_network",
        lambda *args: Wrong(build_network(*args)),
    )
    assert _code(spec) == 1
