"""Trials of the forms of a network, in this process."""

import torch
from torch import nn

from napari_volseg import formtrials
from napari_volseg.devices import Compute
from napari_volseg.forms import Form
from napari_volseg.formtrials import try_forms

EXACT = Form(Compute("cpu", "32", False))
HALF = Form(Compute("cpu", "bf16", False))


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv3d(1, 3, 1)

    def forward(self, x):
        return (self.mix(x),)


def test_forms_are_timed_by_the_clock_and_compared_with_float32():
    times = iter([0.0, 5.0, 5.0, 7.0, 7.0, 8.0, 8.0, 9.0, 9.0, 9.5, 9.5, 10.25])
    batches = list(torch.rand(2, 1, 1, 4, 8, 8))
    trials = list(try_forms(_Net(), [EXACT, HALF], batches, lambda: next(times)))
    assert [t.form for t in trials] == [EXACT, HALF]
    assert [t.seconds for t in trials] == [1.0, 0.5]  # the first pass warms up
    assert trials[0].mean == trials[0].high == 0
    assert 0 < trials[1].mean < 1 < trials[1].high + 1
    assert trials[1].agrees


def test_a_form_that_fails_says_why_and_others_are_tried(monkeypatch):
    build = formtrials.build_pass

    def fail(network, form):
        if form == HALF:
            raise RuntimeError("no kernel\nfor that")
        return build(network, form)

    monkeypatch.setattr(formtrials, "build_pass", fail)
    channels_last = Form(Compute("cpu", "32", True))
    forms = [EXACT, HALF, channels_last]
    trials = list(try_forms(_Net(), forms, list(torch.rand(2, 1, 1, 4, 8, 8))))
    assert [t.failure for t in trials] == ["", "no kernel for that", ""]
    assert trials[2].agrees
