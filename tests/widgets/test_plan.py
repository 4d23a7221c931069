"""The plan that the Train dock shows before Start."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from napari_volseg.errors import DataError
from napari_volseg.widgets import helper, planner
from napari_volseg.widgets.helper import Cancelled, ask
from napari_volseg.widgets.planview import PlanView, choice_words, plan_words
from napari_volseg.widgets.train import TrainWidget

PLAN = {
    "compute": {"device": "cpu", "precision": "bf16"},
    "memory_bytes": 800_000_000,
    "free_bytes": 12_300_000_000,
    "patch_size": [32, 96, 96],
    "steps_per_epoch": 40,
    "notices": ["Nothing is held out for validation."],
    "config": {
        "system": {"training": {"batch_size": 2}},
        "model": {"architecture": "rsunet"},
    },
    "choices": [
        {"setting": "data.patch_size", "value": [32, 96, 96], "reason": "It <fits>."}
    ],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace the helper process by a script."""

    def replace(code: str) -> None:
        command = (sys.executable, "-c", f"# napari_volseg\n{code}")
        monkeypatch.setattr(helper, "_COMMAND", command)

    return replace


@pytest.fixture
def viewer(make_napari_viewer_proxy: Callable[..., Any]) -> Any:
    """A viewer that is on the screen: what is not seen is not planned."""
    return make_napari_viewer_proxy(show=True)


@pytest.fixture
def dock(viewer: Any, add_pair: Any, monkeypatch: Any) -> TrainWidget:
    """A Train dock over a pair of layers, in front, planning at once."""
    monkeypatch.setattr(planner, "DELAY_MS", 50)
    add_pair(viewer)
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train (VolSeg)")
    return widget


def test_the_plan_is_shown_before_start(
    dock: TrainWidget, script: Any, qtbot: Any
) -> None:
    script(f"print({json.dumps(json.dumps(PLAN))})")
    dock.show()
    qtbot.waitUntil(lambda: "GB" in dock.plan.headline.text(), timeout=60_000)
    text = dock.plan.headline.text()
    assert "cpu (bf16) · 0.8 of 12.3 GB free memory" in text
    assert "patch 32 × 96 × 96 · batch 2 · rsunet" in text
    assert "Nothing is held out" in dock.plan.notices.text()
    assert "(1)" in dock.plan.fold.text()
    dock.plan.fold.expand(animate=False)
    assert "It &lt;fits&gt;." in dock.plan.reasons.text()


def test_the_real_command_plans_what_the_dock_holds(
    dock: TrainWidget, qtbot: Any, monkeypatch: Any
) -> None:
    asked: list[Any] = []
    modules = set(sys.modules)
    monkeypatch.setattr(
        planner, "ask", lambda words, stop: asked.append(ask(words, stop)) or asked[0]
    )
    dock.preset.setCurrentText("quick")
    dock._choose_preset()
    dock.show()
    qtbot.waitUntil(lambda: "GB" in dock.plan.headline.text(), timeout=60_000)
    assert asked[0]["n_instances"] > 1
    assert asked[0]["voxel_size"] == [30.0, 8.0, 8.0]
    assert "torch" not in set(sys.modules) - modules


def test_what_would_be_refused_is_said(
    dock: TrainWidget, script: Any, qtbot: Any
) -> None:
    script(
        "import sys; sys.stderr.write('volseg: error: fp16 needs a GPU: choose bf16')"
        "; sys.exit(2)"
    )
    dock.show()
    qtbot.waitUntil(
        lambda: dock.plan.headline.text() == "Fp16 needs a GPU: choose bf16.",
        timeout=60_000,
    )


def test_changing_a_setting_asks_again_and_going_back_does_not(
    dock: TrainWidget, qtbot: Any, monkeypatch: Any
) -> None:
    asked: list[int] = []

    def answer(words: Any, is_cancelled: Any) -> dict[str, Any]:
        asked.append(1)
        return PLAN | {"steps_per_epoch": len(asked)}

    monkeypatch.setattr(planner, "ask", answer)
    dock.show()
    epochs = dock.form.field("optimization.max_epochs")
    shown = lambda n: f" {n} steps" in dock.plan.headline.text()  # noqa: E731
    qtbot.waitUntil(lambda: shown(1), timeout=60_000)
    before = epochs.value()
    epochs.set_value(before + 1)
    qtbot.waitUntil(lambda: shown(2), timeout=60_000)
    epochs.set_value(before)
    qtbot.waitUntil(lambda: shown(1), timeout=60_000)
    assert len(asked) == 2


def test_closing_the_dock_ends_the_process(
    dock: TrainWidget, script: Any, qtbot: Any, viewer: Any, workers: Any
) -> None:
    script("import time; time.sleep(600)")
    dock.show()
    qtbot.waitUntil(lambda: bool(workers()), timeout=60_000)
    folder = dock._planner._desk.folder
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()
    del dock
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)
    qtbot.waitUntil(lambda: not folder.exists(), timeout=60_000)


def test_asking_can_be_cancelled(script: Any) -> None:
    script("import time; time.sleep(600)")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        ask([], stop.is_set)
    assert time.monotonic() - began < 60


def test_an_end_without_words_is_said(script: Any) -> None:
    script("raise SystemExit(3)")
    with pytest.raises(DataError, match="code 3"):
        ask([])


def test_a_newer_plan_replaces_the_older_one(qtbot: Any) -> None:
    view = PlanView()
    qtbot.addWidget(view)
    view.show_asked()
    assert "Working out" in view.headline.text()
    view.show_plan(PLAN)
    view.show_asked()
    assert view.headline.text() == plan_words(PLAN) + " …"
    view.show_plan({**PLAN, "choices": [], "notices": []})
    assert view.fold.isHidden()
    assert view.notices.isHidden()


def test_choices_are_told_in_words() -> None:
    words = choice_words(
        {"setting": "model.rsunet_norm", "value": "group", "reason": "R"}
    )
    assert words == "<b>Model · rsunet norm</b>: group<br>R"
