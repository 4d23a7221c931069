"""What trials on this machine have shown, kept for the next time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.io import write_json

__all__ = ["read_known", "write_known"]


def read_known() -> dict[str, Any]:
    """Return what trials on this machine have shown, by what was tried."""
    try:
        known = json.loads(_known_path().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_known(known: dict[str, Any]) -> None:
    """Keep what trials have shown for the next time."""
    path = _known_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    except (OSError, DataError):
        # Without the cache, the next run tries again.
        return


def _known_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "napari-volseg" / "probes.json"
