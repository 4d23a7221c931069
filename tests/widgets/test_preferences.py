"""What is set under Preferences › VolSeg is what the docks use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari import settings
from npe2 import PluginManifest

from napari_volseg.config import load_config
from napari_volseg.runs import list_runs
from napari_volseg.widgets import preferences
from napari_volseg.widgets.preferences import (
    autosave_minutes,
    default_device,
    runs_dir,
    with_default_device,
)
from napari_volseg.widgets.train import TrainWidget

pytestmark = pytest.mark.skipif(
    not hasattr(settings, "get_plugin_settings"),
    reason="this napari has no preferences of plugins",
)


@pytest.fixture
def chosen(plugin_settings: None, npe2pm: Any) -> Any:
    """The preferences of this plugin, in a folder of the test's own."""
    npe2pm.register(PluginManifest.from_distribution("napari-volseg"))
    return settings.get_plugin_settings("napari-volseg").volseg


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No folder of runs is given by the environment."""
    monkeypatch.delenv("VOLSEG_RUNS")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_untouched_preferences_are_the_defaults(chosen: Any, home: Path) -> None:
    assert runs_dir() == home / "volseg-runs"
    assert default_device() == "auto"
    assert autosave_minutes() == 1


def test_an_older_napari_gives_the_same_defaults(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(preferences.settings, "get_plugin_settings")
    assert (runs_dir(), default_device(), autosave_minutes()) == (
        home / "volseg-runs",
        "auto",
        1,
    )


def test_a_plugin_that_is_not_registered_gives_the_defaults(
    plugin_settings: None,
) -> None:
    assert autosave_minutes() == 1


def test_what_is_chosen_is_kept_and_read(chosen: Any, home: Path) -> None:
    chosen.runs_dir = "~/elsewhere"
    chosen.autosave_minutes = 0
    assert runs_dir() == Path("~/elsewhere").expanduser()
    assert autosave_minutes() == 0
    stored = settings.get_plugin_settings("napari-volseg").config_path
    assert "elsewhere" in stored.read_text()


def test_the_environment_comes_before_the_preference(
    chosen: Any, runs_dir: Path
) -> None:
    chosen.runs_dir = "/nowhere"
    assert preferences.runs_dir() == runs_dir


def test_a_device_that_a_preset_names_stays(chosen: Any) -> None:
    chosen.device = "cuda"
    config = load_config("quick")
    system = config.system.model_copy(update={"device": "cpu"})
    named = config.model_copy(update={"system": system})
    assert with_default_device(named).system.device == "cpu"
    assert with_default_device(config).system.device == "cuda"


def test_a_run_goes_to_the_preferred_folder_and_device(
    chosen: Any,
    home: Path,
    viewer: Any,
    add_pair: Callable[..., Any],
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    chosen.runs_dir = str(home / "mine")
    chosen.device = "cpu"
    play("end('completed', 'done')")
    add_pair(viewer)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    assert str(home / "mine") in dock.name.toolTip()
    dock.start()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    (run,) = list_runs(home / "mine")
    assert load_config(str(run.folder / "config.yaml")).system.device == "cpu"


def test_every_preference_is_explained(chosen: Any) -> None:
    for info in type(chosen).model_fields.values():
        assert info.title
        assert info.description
        assert info.description.endswith(".")
