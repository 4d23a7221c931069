"""What the user set under Preferences › VolSeg, where napari offers that (0.9+)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast

from napari import settings

from napari_volseg.config import Config
from napari_volseg.io import expand_home
from napari_volseg.runs import default_runs_dir

__all__ = ["autosave_minutes", "default_device", "runs_dir", "with_default_device"]

Device = Literal["auto", "cpu", "cuda", "mps"]

_PLUGIN, _PAGE = "napari-volseg", "volseg"
_AUTOSAVE_MINUTES = 1


def runs_dir() -> Path:
    """Return the folder of runs: VOLSEG_RUNS, else the preference, else at home.

    The environment comes first, as on the command line, so that one session can
    use another folder.
    """
    chosen = str(_preference("runs_dir", "")).strip()
    if os.environ.get("VOLSEG_RUNS") or not chosen:
        return default_runs_dir().absolute()
    return expand_home(chosen).absolute()


def default_device() -> Device:
    """Return the device that docks choose when a preset or model says *auto*."""
    return cast("Device", _preference("device", "auto"))


def with_default_device(config: Config) -> Config:
    """Return a configuration whose device *auto* is the preferred device."""
    if config.system.device != "auto":
        return config
    system = config.system.model_copy(update={"device": default_device()})
    return config.model_copy(update={"system": system})


def autosave_minutes() -> int:
    """Return the minutes between two autosaves of a review; 0 for never."""
    return int(_preference("autosave_minutes", _AUTOSAVE_MINUTES))


def _preference(name: str, default: Any) -> Any:
    """Return a preference, its default in an older napari or without our manifest."""
    read = getattr(settings, "get_plugin_settings", None)
    if read is None:
        return default
    try:
        return getattr(getattr(read(_PLUGIN), _PAGE), name)
    except (KeyError, AttributeError):
        return default
