"""``volseg compare``: runs side by side, the first as the baseline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from napari_volseg.cli.comparison_report import write_curves, write_report
from napari_volseg.cli.models import find_run
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.cli.outputs import check_output
from napari_volseg.cli.words import count, duration, file_size
from napari_volseg.comparison import RunFacts, differing_settings, read_facts
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home

__all__ = ["add_commands"]

_Writer = Callable[[Path, Sequence[RunFacts], list[list[str]]], None]
_WRITERS: dict[str, _Writer] = {".html": write_report, ".png": write_curves}


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="compare runs: scores, losses, time, size, settings",
        description="Compare runs with the first one: scores, losses, steps, time, "
        "size of the model, and the settings that differ.",
        allow_abbrev=False,
    )
    parser.add_argument("runs_to_compare", nargs="+", metavar="RUN")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="also write curves as .png, or a report with tables and curves as .html",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    add_runs_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and write it where asked."""
    if len(args.runs_to_compare) < 2:
        raise DataError("give two runs or more to compare; 'volseg runs' lists yours")
    folders = [find_run(text, args.runs) for text in args.runs_to_compare]
    output = None if args.output is None else expand_home(args.output).absolute()
    if output is not None:
        check_output(output, tuple(_WRITERS), overwrite=args.overwrite)
    runs = [read_facts(folder) for folder in folders]
    if output is not None:
        _WRITERS[output.suffix.lower()](output, runs, _rows(runs))
    if args.json:
        answer = [asdict(run) for run in runs]
        print_json({"runs": answer, "differences": differing_settings(runs)})
        return 0
    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(_table(["", *(run.name for run in runs)], _rows(runs)))
    differences = differing_settings(runs)
    if differences:
        say()
        rows = [[k, *map(_short, values)] for k, values in differences.items()]
        console.print(_table(["setting", *(run.name for run in runs)], rows))
    else:
        say("all settings are the same")
    if output is not None:
        say(f"written: {output}")
    return 0


def _rows(runs: Sequence[RunFacts]) -> list[list[str]]:
    """Return one row for each thing that is compared; differences are to the first."""
    rows = [["state", *(run.state for run in runs)]]
    rows.append(["F1 on held-out voxels", *_with_change([r.score for r in runs])])
    tested = dict.fromkeys(key for run in runs for key in run.test)
    for key in tested:
        if not key.startswith("n_"):
            values = [run.test.get(key) for run in runs]
            rows.append([f"test: {key}", *_with_change(values)])
    rows.append(["held-out loss", *_with_change([r.val_loss for r in runs])])
    rows.append(["training loss", *_with_change([r.loss for r in runs])])
    rows.append(["steps", *(str(run.step) for run in runs)])
    rows.append(["time", *(_or_none(run.seconds, duration) for run in runs)])
    rows.append(["weights", *(_or_none(run.n_weights, count) for run in runs)])
    rows.append(["model file", *(_or_none(run.model_bytes, file_size) for run in runs)])
    rows.append(["device", *(run.device for run in runs)])
    return [row for row in rows if any(row[1:])]


def _with_change(values: Sequence[float | None]) -> list[str]:
    first = values[0]
    texts = []
    for i, value in enumerate(values):
        text = "" if value is None else f"{value:.4f}"
        if i and value is not None and first is not None:
            text += f" ({value - first:+.4f})"
        texts.append(text)
    return texts


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _or_none(value: Any, words: Callable[[Any], str]) -> str:
    return "" if value is None else words(value)


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
