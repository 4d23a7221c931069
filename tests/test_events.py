import json

import pytest

from napari_volseg.events import (
    CheckpointSaved,
    Finished,
    Notice,
    PreviewReady,
    Progress,
    Started,
    Validated,
    from_json,
    to_json,
)

EVENTS = [
    Started("train", "cpu, bfloat16", 100, 20, 10**9),
    Progress(5, 100, 1.5, 20.0, 1, 0.7, (0.3, 0.2, 0.2), 1e-3, "running"),
    Progress(5, 100, 1.5),
    Validated(50, {"f1_50": 0.8, "loss": 0.2}, True),
    PreviewReady(50, "previews/preview-000050.npz", 0, (0, 1, 2), (8, 9, 10)),
    CheckpointSaved(50, "checkpoints/step-000050.ckpt", True),
    Notice("café 🧫", "warning"),
    Finished("stopped", "Stopped.", "model.safetensors", {"ap": 0.5}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_survives_its_json_line(event):
    line = to_json(event)
    assert "\n" not in line
    assert from_json(line) == event


@pytest.mark.parametrize(
    "line",
    ["", "{", '{"event": "Progress", "st', "[1]", "3", '{"event": "Nobody"}', "{}"],
)
def test_torn_and_foreign_lines_are_no_events(line):
    assert from_json(line) is None


def test_fields_of_a_newer_version_are_left_out():
    fields = json.loads(to_json(EVENTS[-2]))
    assert from_json(json.dumps({**fields, "colour": "red"})) == EVENTS[-2]
