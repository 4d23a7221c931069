"""Generate volumes, run the commands on them and write the report."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from napari_volseg.demo.report import DemoResult, write_report
from napari_volseg.demo.screens import open_napari, take_screenshot
from napari_volseg.errors import DataError
from napari_volseg.events import Started
from napari_volseg.io import open_volume, read_labels, write_hdf5
from napari_volseg.runs import list_runs, read_events
from napari_volseg.sample_data import make_sample

__all__ = ["main"]

_TRAIN_SEEDS = (0, 1)
_TEST_SEED = 7
_GOOD_F1 = 0.8
_SHOWN = ("f1_50", "precision_50", "recall_50", "ap", "adapted_rand_error")


def main(argv: Sequence[str]) -> int:
    """Run ``volseg demo`` and return its exit code: 1 when the result is poor."""
    args = _parse(argv)
    folder: Path = args.output
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()
    volumes = _write_volumes(folder / "volumes")
    commands = _Commands(console)

    commands.run(
        "training", *_train_command(folder, volumes, args.minutes, args.settings)
    )
    run = list_runs(folder / "runs")[0].folder
    prediction = folder / "prediction.h5"
    test = volumes[-1]
    commands.run(
        "prediction",
        *(
            "predict",
            str(_relative(run)),
            f"{test}:raw",
            "-o",
            str(prediction),
            "--overwrite",
        ),
    )
    answer = commands.read(
        "evaluation",
        *("evaluate", f"{prediction}:instances", f"{test}:labels", "--json"),
    )
    scores = {k: v for k, v in json.loads(answer).items() if isinstance(v, int | float)}

    screenshot = folder / "napari.png"
    problem = take_screenshot(test, prediction, screenshot)
    report = folder / "report.html"
    events = read_events(run)
    result = DemoResult(
        image_ZYX=open_volume(f"{test}:raw").read()[0],
        truth_ZYX=read_labels(f"{test}:labels"),
        maps_CZYX=np.asarray(open_volume(f"{prediction}:maps").read(), np.uint8),
        instances_ZYX=read_labels(f"{prediction}:instances"),
        scores=scores,
        events=events,
        seconds=commands.seconds,
        device=next((e.device for e in events if isinstance(e, Started)), "unknown"),
        commands=commands.lines,
        folder=_relative(run),
    )
    write_report(report, result, None if problem else screenshot)
    _print_scores(console, scores)
    _print_files(console, run, report, prediction, None if problem else screenshot)
    if problem:
        console.print(f"There is no screenshot of napari: {problem}.")
    console.print(f"The demo took {time.perf_counter() - started:.0f} s.")
    if args.view and (failed := open_napari(test, prediction)):
        console.print(f"napari does not open: {failed}.")
    if scores["f1_50"] < _GOOD_F1:
        console.print(
            f"F1 {scores['f1_50']:.2f} is below the {_GOOD_F1} that this demo should "
            "reach: train longer with --minutes, or look at the report.",
            style="yellow",
        )
        return 1
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="volseg demo",
        description="Train on generated volumes, predict another one, and report.",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for volumes, run, prediction and report (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        metavar="N",
        help="minutes of training (default: %(default)s)",
    )
    parser.add_argument(
        "--view", action="store_true", help="open napari on the result at the end"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="settings of the training"
    )
    return parser.parse_args(argv)


def _write_volumes(folder: Path) -> list[Path]:
    """Write the training volumes and, last, the one to predict; return the files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write the demo's folder {folder}: {error.strerror}; choose "
            "another with --output"
        ) from None
    files = []
    for name, seed in [
        *((f"train-{s}", s) for s in _TRAIN_SEEDS),
        ("test", _TEST_SEED),
    ]:
        sample = make_sample(seed=seed)
        path = folder / f"{name}.h5"
        arrays = {"raw": sample.image.data, "labels": sample.labels_ZYX}
        write_hdf5(path, arrays, sample.image.voxel_size)
        files.append(path)
    return files


def _train_command(
    folder: Path, volumes: Sequence[Path], minutes: float, settings: Sequence[str]
) -> list[str]:
    words = ["train", "quick", f"optimization.max_minutes={minutes:g}", *settings]
    for path in volumes[:-1]:
        words += ["--image", f"{path}:raw", "--label", f"{path}:labels"]
    return [*words, "--runs", str(folder / "runs"), "--name", "demo"]


class _Commands:
    """Runs ``volseg`` commands and remembers them and their time."""

    def __init__(self, console: Console) -> None:
        self.lines: list[str] = []
        self.seconds: dict[str, float] = {}
        self._console = console

    def run(self, part: str, *words: str) -> None:
        """Run a command that talks to the terminal itself."""
        self._call(part, words, capture=False)

    def read(self, part: str, *words: str) -> str:
        """Run a command and return what it prints."""
        return self._call(part, words, capture=True)

    def _call(self, part: str, words: Sequence[str], capture: bool) -> str:
        line = shlex.join(["volseg", *words])
        self.lines.append(line)
        self._console.print(f"\n$ {line}", style="bold", markup=False)
        started = time.perf_counter()
        command = [sys.executable, "-m", "napari_volseg", *words]
        # Ctrl-C is for the command, which stops and keeps its work.
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE if capture else None, check=False
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self.seconds[part] = time.perf_counter() - started
        if done.returncode == 130:
            raise KeyboardInterrupt
        if done.returncode:
            raise DataError(f"the demo ends here, because the {part} failed: see above")
        return done.stdout.decode() if capture else ""


def _print_scores(console: Console, scores: dict[str, float]) -> None:
    table = Table("score", "value", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in _SHOWN:
        table.add_row(name, f"{scores[name]:.3f}")
    table.add_row("n_pred / n_true", f"{scores['n_pred']:.0f} / {scores['n_true']:.0f}")
    console.print()
    console.print(table)


def _print_files(
    console: Console, run: Path, report: Path, prediction: Path, shot: Path | None
) -> None:
    files = {"run folder": run, "prediction": prediction, "report": report}
    if shot is not None:
        files["screenshot"] = shot
    console.print()
    for name, path in files.items():
        console.print(f"{name:<12}{_relative(path)}", markup=False)


def _relative(path: Path) -> Path:
    """Return the path as it is shortest from here."""
    short = os.path.relpath(path)
    return path if short.startswith("..") else Path(short)
