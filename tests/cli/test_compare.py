"""``volseg compare``: runs side by side."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from napari_volseg.charts import line_chart
from napari_volseg.cli import main
from napari_volseg.cli.words import age, duration, file_size
from napari_volseg.comparison import differing_settings, read_facts
from napari_volseg.config import build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Progress, Started, Validated
from napari_volseg.results import VolumeScores, write_scores
from napari_volseg.runs import EventLog, TrainingPair, create_run, write_result


@pytest.fixture
def make_run(tmp_path, cells):
    """Return a factory of runs that have been through the events given."""

    def make(name: str, *events: Event, **settings: object) -> Path:
        tree: dict[str, dict[str, object]] = {"data": {"patch_size": [8, 16, 16]}}
        for key, value in settings.items():
            section, _, leaf = key.partition("__")
            tree.setdefault(section, {})[leaf] = value
        pairs = [TrainingPair(cells, None, "train")]
        folder = create_run(build_config(tree), pairs, tmp_path / "runs", name)
        log = EventLog(folder)
        for event in events:
            log.append(event)
        if events and isinstance(events[-1], Finished):
            write_result(folder, events[-1])
        return folder

    return make


def session(start: int, stop: int, loss: float, score: float) -> list[Event]:
    events: list[Event] = [Started("train", "cpu, float32", 10, step=start)]
    for step in range(start + 1, stop + 1):
        events.append(Progress(step, 10, elapsed=2.0 * step, loss=loss + 1 / step))
    events.append(Validated(stop, {"loss": loss, "f1_50": score}, best=True))
    return events


@pytest.fixture
def two(make_run):
    good = Finished("completed", "Trained.", None, {"f1_50": 0.8})
    base = make_run("base", *session(0, 4, 0.5, 0.6), model__loss_weights=[1, 0.5, 2])
    new = make_run("new", *session(0, 8, 0.2, 0.8), good, optimization__max_epochs=7)
    tensors = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    (new / "model.safetensors").write_bytes(save(tensors))
    volume = VolumeScores("em", ".", 3, {"adapted_rand_error": 0.25, "f1_50": 0.7})
    (new / "results").mkdir()
    write_scores(new / "results", new / "model.safetensors", [volume])
    return base, new


def test_the_facts_of_a_run_are_read_from_its_folder(two):
    facts = read_facts(two[1])
    assert (facts.name, facts.state, facts.step) == ("new", "completed", 8)
    assert (facts.score, facts.val_loss) == (0.8, 0.2)
    assert facts.loss == 0.2 + 1 / 8
    assert facts.seconds == 16
    assert facts.n_weights == 10
    assert facts.model_bytes == (two[1] / "model.safetensors").stat().st_size
    assert facts.test == {"adapted_rand_error": 0.25, "f1_50": 0.7}
    assert facts.curves.loss[0] == (1, 1.2)
    assert facts.curves.score == ((8, 0.8),)


def test_steps_that_a_crash_lost_are_in_no_curve(make_run):
    events = [*session(0, 6, 0.9, 0.1), *session(4, 8, 0.3, 0.5)]
    curve = read_facts(make_run("resumed", *events)).curves.loss
    assert [step for step, _ in curve] == list(range(1, 9))
    assert curve[4] == (5, 0.3 + 1 / 5)


def test_only_settings_that_differ_are_named(two):
    found = differing_settings([read_facts(folder) for folder in two])
    assert found["model.loss_weights"] == ([1.0, 0.5, 2.0], [1.0, 1.0, 3.0])
    assert found["optimization.max_epochs"][1] == 7
    assert set(found) == {"model.loss_weights", "optimization.max_epochs"}


def test_a_run_that_has_not_begun_can_be_compared(make_run):
    facts = read_facts(make_run("fresh"))
    assert (facts.state, facts.step, facts.loss, facts.score) == ("new", 0, None, None)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        read_facts(tmp_path)


@pytest.mark.usefixtures("two")
def test_the_table_shows_differences_to_the_first(capsys):
    assert main(["compare", "base", "new"]) == 0
    out = capsys.readouterr().out
    assert "0.8000 (+0.2000)" in out
    assert "model.loss_weights" in out
    assert "test: adapted_rand_error" in out
    assert "data.patch_size" not in out


@pytest.mark.usefixtures("two")
def test_json_holds_facts_curves_and_differences(capsys):
    assert main(["compare", "base", "new", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [run["score"] for run in answer["runs"]] == [0.6, 0.8]
    assert answer["runs"][0]["curves"]["val_loss"] == [[4, 0.5]]
    assert "model.loss_weights" in answer["differences"]


class Tags(HTMLParser):
    """Counts tags, and sees that each that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_page_with_tables_and_curves(two, workplace, make_run):
    make_run("R&D", *session(0, 3, 1.0, 0.3))
    names = [folder.name for folder in two[0].parent.iterdir()]
    assert main(["compare", *sorted(names), "-o", "r.html"]) == 0
    page = Path("r.html").read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.counts["table"] == 2
    assert tags.counts["polyline"] == 9
    assert "R&amp;D" in page
    assert "http" not in page


@pytest.mark.usefixtures("two")
def test_curves_are_a_picture(workplace):
    assert main(["compare", "base", "new", "-o", "curves.png"]) == 0
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("two")
def test_without_matplotlib_a_sentence_says_what_to_install(failure, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = failure("compare", "base", "new", "-o", "curves.png")
    assert "napari-volseg[plots]" in text
    assert not Path("curves.png").exists()


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base"], "two runs or more"),
        (["base", "nwe"], "did you mean 'new'"),
        (["base", "new", "-o", "x.pdf"], ".html or .png"),
        (["base", "new", "-o", "nowhere/x.html"], "make it first"),
        (["base", "new", "-o", "there.html"], "is there already"),
    ],
)
def test_what_can_be_mended_is_one_sentence(failure, workplace, arguments, message):
    Path("there.html").write_text("mine")
    assert message in failure("compare", *arguments)
    assert Path("there.html").read_text() == "mine"


@pytest.mark.usefixtures("two")
def test_runs_show_scores_and_age(capsys):
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "just now" in out
    assert "0.800" in out


def test_numbers_in_words():
    assert duration(59.6) == "1:00"
    assert duration(3661) == "1:01:01"
    assert [file_size(n) for n in (12, 4_200, 42_600_000, 3_100_000_000)] == [
        "12 bytes", "4 kB", "43 MB", "3.1 GB",
    ]  # fmt: skip
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    ages = {timedelta(seconds=-60): "just now", timedelta(minutes=3): "3 min",
            timedelta(hours=5): "5 h", timedelta(days=3, hours=20): "3 d"}  # fmt: skip
    for ago, text in ages.items():
        assert age((now - ago).isoformat(), now) == text
    assert (
        age("", now) == age("yesterday", now) == age("2026-05-04T12:00:00", now) == ""
    )


def test_each_line_of_a_chart_has_a_class_of_its_own():
    series = {str(i): [(0.0, 0.0), (1.0, float(i))] for i in range(8)}
    chart = line_chart("many", series, "step")
    assert all(f'polyline class="s{i}"' in chart for i in range(8))
