"""Open napari on a prediction, on a screen or on a virtual one.

napari is always started as a process of its own: this package is the studio's
neighbour, not part of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["open_napari", "take_screenshot"]

_BINDINGS = ("PyQt6", "PySide6", "PyQt5")
_TIMEOUT = 120.0
_MODULE = "napari_volseg.widgets.showcase"


def take_screenshot(volume: Path, prediction: Path, png: Path) -> str | None:
    """Write a picture of napari with the result; return why not, or None.

    Parameters
    ----------
    volume
        HDF5 file with ``raw`` and ``labels``.
    prediction
        HDF5 file with ``maps`` and ``instances``.
    """
    problem = _missing()
    screen = _virtual_screen()
    if problem or (not screen and (problem := _no_screen())):
        return problem
    command = [*screen, sys.executable, "-m", _MODULE, str(volume), str(prediction)]
    try:
        done = subprocess.run(
            [*command, "--screenshot", str(png)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"napari did not answer within {_TIMEOUT:.0f} s"
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return f"napari ended with the code {done.returncode} ({last})"
    return None


def open_napari(volume: Path, prediction: Path) -> str | None:
    """Open napari on the result and wait until it is closed; return why not."""
    if problem := _missing() or _no_screen():
        return problem
    command = [sys.executable, "-m", _MODULE, str(volume), str(prediction)]
    code = subprocess.run(command, check=False).returncode
    return f"it ended with the code {code}" if code else None


def _missing() -> str | None:
    if find_spec("napari") is None:
        return "napari is not installed (pip install 'napari-volseg[all]')"
    if not any(find_spec(name) for name in _BINDINGS):
        return "no Qt binding is installed (pip install 'napari-volseg[all]')"
    return None


def _no_screen() -> str | None:
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no screen"
    return None


def _virtual_screen() -> list[str]:
    """Return the words that run a command on a screen nobody sees, if there are any."""
    if sys.platform != "linux" or shutil.which("xvfb-run") is None:
        return []
    return ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24"]
