import pytest

from napari_volseg.events import Finished, Progress
from napari_volseg.ranks.messages import (
    beat_line,
    event_line,
    failure_line,
    parse_line,
)


@pytest.mark.parametrize("event", [Progress(1, 2, 0.5), Finished("completed", "a\nb")])
def test_events_arrive_as_they_were(event):
    line = event_line(event)
    assert line.count(b"\n") == 1
    assert parse_line(line) == {"event": event}


def test_beats_and_failures_arrive_as_they_were():
    beat = {"phase": "stepping", "turn": 3, "longest_step": 0.5}
    assert parse_line(beat_line("stepping", 3, 0.5)) == beat
    failure = {"failed": "data", "message": "no\nlabels"}
    assert parse_line(failure_line("data", "no\nlabels")) == failure


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello\n",
        b'{"event": "Prog',
        b"[1, 2]\n",
        b"null\n",
        b'{"event": {"event": "Progress"}}\n',
        b'{"beat": "stepping", "turn": "many", "longest_step": 0}\n',
        b"\xff\xfe\x00\n",
        b"1" * 5000,
    ],
)
def test_what_no_rank_wrote_is_nothing(line):
    assert parse_line(line) is None
