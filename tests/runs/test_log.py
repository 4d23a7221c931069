import os

import pytest

from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress, Started
from napari_volseg.runs import EventLog, read_events, read_result, write_result
from napari_volseg.runs.log import EventTail

EVENTS = [
    Started("train", "cpu, float32", 10),
    Progress(1, 10, 0.5, remaining=4.5, loss=0.25, losses=(0.1, 0.2, 0.3)),
    Notice("Größe übernommen ✓", "warning"),
    Finished("completed", "done", "model.safetensors", {"ap": 0.5}),
]


def test_events_come_back_as_they_were(tmp_path):
    log = EventLog(tmp_path)
    for event in EVENTS:
        assert log.append(event)
    assert read_events(tmp_path) == EVENTS


def test_log_is_private(tmp_path):
    EventLog(tmp_path).append(EVENTS[0])
    if os.name == "posix":
        assert (tmp_path / "events.jsonl").stat().st_mode & 0o077 == 0


def test_a_torn_last_line_costs_only_itself(tmp_path):
    log = EventLog(tmp_path)
    log.append(EVENTS[0])
    log.append(EVENTS[1])
    path = tmp_path / "events.jsonl"
    os.truncate(path, path.stat().st_size - 20)
    assert read_events(tmp_path) == EVENTS[:1]
    EventLog(tmp_path).append(EVENTS[2])
    assert read_events(tmp_path) == [EVENTS[0], EVENTS[2]]


def test_garbage_in_the_log_is_left_out(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'\xff\xfe\n{"event": "Nonsense"}\n[]\n\n')
    EventLog(tmp_path).append(EVENTS[2])
    assert read_events(tmp_path) == [EVENTS[2]]


def test_tail_gives_each_event_once_and_waits_for_the_rest_of_a_line(tmp_path):
    log, tail = EventLog(tmp_path), EventTail(tmp_path)
    assert tail.read() == []
    log.append(EVENTS[0])
    assert tail.read() == [EVENTS[0]]
    log.append(EVENTS[1])
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert tail.read() == []
    path.write_bytes(whole)
    assert tail.read() == [EVENTS[1]]
    assert tail.read() == []


def test_tail_can_begin_at_the_end(tmp_path):
    log = EventLog(tmp_path)
    log.append(EVENTS[0])
    tail = EventTail(tmp_path, from_start=False)
    log.append(EVENTS[1])
    assert tail.read() == [EVENTS[1]]


def test_a_full_disk_costs_lines_and_not_the_job(tmp_path, monkeypatch):
    log = EventLog(tmp_path)
    log.append(EVENTS[0])
    real_write = os.write

    def full(descriptor, data):
        real_write(descriptor, data[:7])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.runs.log.os.write", full)
        assert not log.append(EVENTS[1])
    assert log.n_lost == 1
    assert log.error is not None
    assert log.append(EVENTS[2])
    assert log.error is None
    assert read_events(tmp_path) == [EVENTS[0], EVENTS[2]]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_planted_in_place_of_the_log_is_not_followed(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").symlink_to(victim)
    assert not EventLog(run).append(EVENTS[0])
    assert victim.read_text() == "mine"


def test_result_round_trip(tmp_path):
    assert read_result(tmp_path) is None
    write_result(tmp_path, EVENTS[3])
    assert read_result(tmp_path) == EVENTS[3]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"reason": "won", "message": ""}', '{"reason": []}', "\x00\x01"],
)
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        read_result(tmp_path)
