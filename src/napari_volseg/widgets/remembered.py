"""What was last predicted of a layer with which model and settings."""

from __future__ import annotations

import json
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.io import write_json
from napari_volseg.widgets.layers import layer_source, plain
from napari_volseg.widgets.preferences import runs_dir

__all__ = ["Choice", "recall", "remember"]

FILE = "predicted.json"
_MAX = 200

_choices: weakref.WeakKeyDictionary[Any, Choice] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Choice:
    """A model and settings."""

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    """As of `form.ConfigForm.value`."""
    where: str = "whole layer"
    depth: int = 16


def remember(layer: Any, choice: Choice) -> str | None:
    """Note what a layer was predicted with; the layer itself is not touched.

    Returns
    -------
    str or None
        Where the layer's file is; with it `keep` notes the choice for other sessions.
    """
    _choices[plain(layer)] = choice
    return _file_of(layer)


def keep(source: str | None, choice: Choice) -> None:
    """Write a choice down in the folder of runs; call it in a thread.

    Where that cannot be written, the choice is remembered for this session only.
    """
    if source is None:
        return
    path = runs_dir() / FILE
    known = _read(path)
    known.pop(source, None)
    known[source] = asdict(choice)
    while len(known) > _MAX:
        known.pop(next(iter(known)))
    with suppress(DataError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)


def recall(layer: Any) -> Choice | None:
    """Return what a layer, or another one of the same file, was predicted with."""
    choice = _choices.get(plain(layer))
    source = _file_of(layer)
    if choice is None and source is not None:
        try:
            return Choice(**_read(runs_dir() / FILE)[source])
        except (KeyError, TypeError):
            return None
    return choice


def _file_of(layer: Any) -> str | None:
    source = layer_source(layer)
    if source is None and layer.source.path is not None:
        source = f"{layer.source.path}:{layer.name}"
    return source


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
