"""What the outside asks of a running job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from napari_volseg.geometry import Size
from napari_volseg.io import write_json

__all__ = ["CONTROL", "Control", "ControlReader", "PreviewBox", "write_control"]

CONTROL = "control.json"

PreviewBox = tuple[int, Size, Size]
"""Index of the training pair, then start and stop of the box in voxels."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the outside asks of a running job."""

    stop: bool = False
    """End after this step, and keep what was learnt."""
    pause: bool = False
    """Hold still until this is False again."""
    detached: bool = False
    """Live on when the process that launched the job ends."""
    preview_box: PreviewBox | None = None
    """Where to show previews; None leaves the choice to the training."""
    revision: int = 1
    """The newest labels to learn from; 1 are those that the run began with."""


def write_control(folder: Path, **changes: Any) -> Control:
    """Change what is asked of a job, atomically, and return the whole of it.

    Parameters
    ----------
    folder
        The job folder.
    **changes
        Fields of `Control`; those not named stay as they are.
    """
    control = replace(ControlReader(folder)(), **changes)
    write_json(folder / CONTROL, asdict(control))
    return control


class ControlReader:
    """Says what the outside asks now; cheap enough to ask at every step.

    A missing file asks for nothing; a malformed one changes nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CONTROL
        self._seen: tuple[int, int, int] | None = None
        self._control = Control()

    def __call__(self) -> Control:
        """Return what is asked now."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                self._control = _parse(self._path.read_text("utf-8"))
                self._seen = seen
        except FileNotFoundError:
            self._control, self._seen = Control(), None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return self._control
        return self._control


def _parse(text: str) -> Control:
    fields = json.loads(text)
    box = fields.get("preview_box")
    return Control(
        stop=bool(fields.get("stop")),
        pause=bool(fields.get("pause")),
        detached=bool(fields.get("detached")),
        preview_box=None
        if box is None
        else (int(box[0]), _size(box[1]), _size(box[2])),
        revision=int(fields.get("revision", 1)),
    )


def _size(values: Any) -> Size:
    z, y, x = (int(v) for v in values)
    return z, y, x
