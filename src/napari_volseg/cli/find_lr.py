"""``volseg find-lr``: the learning rate that suits a network and its data."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from napari_volseg.cli.data import add_data_options
from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.cli.outputs import check_output
from napari_volseg.cli.train import find_run, read_training
from napari_volseg.errors import DataError
from napari_volseg.io import atomic_path, expand_home, write_text

if TYPE_CHECKING:
    from napari_volseg.lr_finding import RateCurve

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "find-lr",
        help="find a learning rate",
        description="Train a new network, or one with the weights of "
        "model.initial_weights, for some steps at a rising learning rate and "
        "suggest the one at which the loss falls fastest (Smith 2017). Nothing is "
        "kept, and a run folder is only read.",
        usage="volseg find-lr PRESET|CONFIG.yaml|RUN_FOLDER [section.key=value ...] "
        "[options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target", metavar="PRESET|CONFIG.yaml|RUN_FOLDER", help="what is to be trained"
    )
    add_data_options(parser)
    parser.add_argument(
        "--steps", type=int, default=100, metavar="N", help="steps to take (100)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the curve as .png or its numbers as .json",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    add_json_option(parser)
    parser.sections = ()
    parser.set_defaults(run=run, takes_settings=True, fast_dev_run=False)


def run(args: argparse.Namespace) -> int:
    """Explore, then print the suggestion."""
    if args.steps < 20:
        raise DataError(f"--steps is {args.steps}: at least 20 are needed for a curve")
    output = None if args.output is None else expand_home(args.output).absolute()
    if output is not None:
        check_output(output, (".png", ".json"), overwrite=args.overwrite)
        if output.suffix.lower() == ".png":
            _figure()
    config, pairs = read_training(args, find_run(args.target), args.settings)
    from napari_volseg.lr_finding import explore_rates, read_curve
    from napari_volseg.planning import plan_training
    from napari_volseg.settling import settle

    with tempfile.TemporaryDirectory(prefix="volseg-find-lr-") as place:
        plan = settle(plan_training(config, pairs, Path(place)))
        steps = list(
            track(
                explore_rates(plan, pairs, Path(place), n_steps=args.steps),
                "learning rates",
                total=args.steps,
                console=Console(file=sys.stderr),
                transient=True,
            )
        )
    curve = read_curve([rate for rate, _ in steps], [loss for _, loss in steps])
    if output is not None:
        _write(output, curve)
    if args.json:
        print_json(asdict(curve))
        return 0
    configured = plan.config.optimization.optimizer.lr
    say(f"suggested: optimization.optimizer.lr={curve.suggestion:g}")
    say(f"configured: {configured:g}; the loss was lowest at {curve.lowest:g}")
    if output is not None:
        say(f"written: {output}")
    return 0


def _write(path: Path, curve: RateCurve) -> None:
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(asdict(curve), indent=2) + "\n")
        return
    figure = _figure()
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="#93c5fd", label="each step")
    axes.plot(curve.rates, curve.smoothed, color="#2563eb", label="smoothed")
    axes.axvline(
        curve.suggestion,
        color="#dc2626",
        linestyle="--",
        label=f"suggested: {curve.suggestion:g}",
    )
    top = 1.1 * max(curve.smoothed[: curve.rates.index(_nearest(curve)) + 1])
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.set_ylim(0, top)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _nearest(curve: RateCurve) -> float:
    return min(curve.rates, key=lambda rate: abs(rate - curve.lowest))


def _figure() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError(
            'a curve as PNG needs Matplotlib: run "pip install '
            "'napari-volseg[plots]'\", or write a .json"
        ) from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
