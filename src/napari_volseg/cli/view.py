"""``volseg view``: look at a result, in napari or in a browser."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event

from napari_volseg.cli.neuroglancing import serving
from napari_volseg.cli.options import Commands, add_runs_option, say
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.runs import default_runs_dir, is_run
from napari_volseg.views import Shown, find_shown

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "view",
        help="look at a result in napari, or in a browser",
        description="Open the image, the maps and the instances of a result in napari, "
        "in a process of its own, or with --neuroglancer in a browser on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "result",
        nargs="?",
        metavar="RESULT",
        help="a run, a results folder, the folder of a prediction, or the output of "
        "'volseg predict'",
    )
    parser.add_argument("--image", metavar="SRC", help="an image to show as well")
    parser.add_argument("--label", metavar="SRC", help="instances to show as well")
    parser.add_argument(
        "--neuroglancer", action="store_true", help="show it in a browser"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port for the browser (default: a free one)"
    )
    add_runs_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Open the viewer."""
    if not 0 <= args.port < 2**16:
        raise DataError("--port must be between 0 and 65535; 0 takes a free one")
    result = None if args.result is None else _find(args.result, args.runs)
    shown = find_shown(result, args.image, args.label)
    if args.neuroglancer:
        with serving(shown, args.port) as address:
            say(f"open {address}")
            say("Ctrl-C ends it")
            sys.stdout.flush()
            wait()
        return 0
    open_napari(shown)
    say(f"napari opens {', '.join(each.name for each in shown)}")
    return 0


def wait() -> None:
    """Wait for Ctrl-C."""
    try:
        Event().wait()
    except KeyboardInterrupt:
        return


def open_napari(shown: Sequence[Shown]) -> None:
    """Start napari on files, in a process that outlives this one.

    Raises
    ------
    DataError
        If napari is not installed, there is no screen, or it cannot be started.
    """
    if importlib.util.find_spec("napari") is None:
        raise DataError(
            "napari is not installed: run \"pip install 'napari-volseg[all]'\", or use "
            "--neuroglancer"
        )
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, screens)):
        raise DataError("there is no screen for napari: --neuroglancer needs none")
    volumes = json.dumps([asdict(each) for each in shown])
    try:
        subprocess.Popen(
            [sys.executable, "-m", "napari_volseg.widgets.looking", volumes],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise DataError(f"napari cannot be started: {error.strerror}") from None


def _find(text: str, runs_dir: Path | None) -> Path:
    path = expand_home(text)
    run = expand_home(runs_dir or default_runs_dir()) / text
    return (run if not path.exists() and is_run(run) else path).absolute()
