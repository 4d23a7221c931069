"""Start a script again on a virtual screen where there is none."""

from __future__ import annotations

import os
import shutil
import sys

__all__ = ["ensure_screen"]


def ensure_screen() -> None:
    """Replace this process by itself under xvfb-run when Linux has no screen."""
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_screen:
        xvfb = shutil.which("xvfb-run")
        if xvfb is None:
            raise SystemExit("no screen: install xvfb, or run this on a desktop")
        screen = ["-a", "-s", "-screen 0 1600x1000x24"]
        os.execv(xvfb, [xvfb, *screen, sys.executable, *sys.argv])
