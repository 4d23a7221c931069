"""``volseg sweep``: search for good settings, one run after the other."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from napari_volseg.cli.data import add_data_options, given_data, with_sources
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.cli.progress import Reporter, interruptible
from napari_volseg.cli.settings import load_settings
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.runs import default_runs_dir
from napari_volseg.sweeps import (
    SearchResult,
    Sweep,
    TrialRow,
    create_sweep,
    is_sweep,
    parse_space,
    read_space,
    read_sweep,
    search,
)
from napari_volseg.sweeps.folder import Metric
from napari_volseg.sweeps.space import yaml_text

__all__ = ["add_commands"]

_DEFAULT_TRIALS = 20


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep",
        help="search for good settings",
        description="Train one run after the other with settings that Optuna chooses "
        "from the results so far; runs that fall behind are stopped early. Ranges: "
        "log:1e-4:1e-2, float:0:0.5, int:2:8, int:16:64:16, and a|b|c (in quotes). "
        "Ctrl-C stops and keeps; the same command with the sweep's folder goes on.",
        usage="volseg sweep PRESET|CONFIG.yaml|SWEEP_FOLDER section.key=RANGE ... "
        "[section.key=value ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        metavar="PRESET|CONFIG.yaml|SWEEP_FOLDER",
        help="where every run begins; a sweep's folder is gone on with",
    )
    parser.add_argument(
        "--space", type=Path, metavar="FILE.yaml", help="ranges from a file"
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help=f"runs altogether (default: {_DEFAULT_TRIALS})",
    )
    parser.add_argument(
        "--metric",
        choices=get_args(Metric),
        default="f1_50",
        help="score on held-out voxels to improve (default: f1_50)",
    )
    parser.add_argument(
        "--no-pruning", action="store_true", help="train every run to its end"
    )
    add_data_options(parser)
    add_runs_option(parser)
    parser.add_argument("--name", help="name of the sweep's folder")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (system.device)",
    )
    add_json_option(parser)
    parser.sections = ()
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Search, and say which settings were best."""
    if args.trials is not None and args.trials < 1:
        raise DataError("--trials must be 1 or above")
    folder = _sweep_folder(args)
    sweep = _create(args) if folder is None else _continue(args, folder)
    sys.stderr.write(f"volseg: sweep in {sweep.folder}\n")
    with interruptible() as interrupt, Reporter() as report:
        result = search(
            sweep,
            should_stop=interrupt,
            show=report,
            tell=lambda row: _tell(sweep, row),
        )
    if args.json:
        print_json(_answer(sweep, result))
    else:
        _print(sweep, result)
    return 130 if interrupt.asked and not result.complete else 0


def _sweep_folder(args: argparse.Namespace) -> Path | None:
    runs_dir = expand_home(args.runs or default_runs_dir())
    for path in (expand_home(args.target), runs_dir / args.target):
        if is_sweep(path):
            return path.absolute()
    return None


def _create(args: argparse.Namespace) -> Sweep:
    settings = list(args.settings)
    if args.device:
        settings.append(f"system.device={args.device}")
    space, fixed = parse_space(settings)
    if args.space is not None:
        space = read_space(expand_home(args.space)) | space
    config = with_sources(load_settings(args.target, fixed), given_data(args))
    if not config.data.train_image:
        raise DataError(
            "there is nothing to train on: give --image SRC --label SRC, or "
            "data.train_image and data.train_label in the configuration"
        )
    return create_sweep(
        config,
        space,
        expand_home(args.runs or default_runs_dir()).absolute(),
        args.name or f"{config.experiment_name}-sweep",
        n_trials=args.trials or _DEFAULT_TRIALS,
        metric=args.metric,
        prune=not args.no_pruning,
    )


def _continue(args: argparse.Namespace, folder: Path) -> Sweep:
    if args.settings or args.space or args.name or args.device or given_data(args):
        raise DataError(
            f"the sweep {folder} goes on with the settings and data it has: leave "
            "everything out but --trials, or start a new sweep"
        )
    return read_sweep(folder, args.trials)


def _tell(sweep: Sweep, row: TrialRow) -> None:
    settings = "  ".join(f"{k}={yaml_text(v)}" for k, v in row.settings.items())
    if row.state == "running":
        sys.stderr.write(f"trial {row.number}: {settings}\n")
        return
    score = "" if row.score is None else f" {sweep.metric} {row.score:.4f}"
    why = f": {row.message}" if row.state == "failed" else ""
    sys.stderr.write(f"trial {row.number} {row.state}{score}{why}\n")


def _print(sweep: Sweep, result: SearchResult) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", sweep.metric, "step", *sweep.space):
        table.add_column(heading, overflow="fold")
    for row in result.rows:
        score = "" if row.score is None else f"{row.score:.4f}"
        values = [yaml_text(row.settings.get(key)) for key in sweep.space]
        table.add_row(str(row.number), row.state, score, str(row.step), *values)
    Console(file=sys.stdout, highlight=False, markup=False).print(table)
    if result.best is not None:
        say(f"best: trial {result.best.number}, run {result.best.folder}")
        say(f"next: volseg train '{result.best_config}'")
    if not result.complete:
        say(f"not all trials are done: volseg sweep '{sweep.folder}' goes on")


def _answer(sweep: Sweep, result: SearchResult) -> dict[str, object]:
    return {
        "folder": sweep.folder,
        "metric": sweep.metric,
        "complete": result.complete,
        "best": None if result.best is None else asdict(result.best),
        "best_config": result.best_config,
        "trials": [asdict(row) for row in result.rows],
    }
