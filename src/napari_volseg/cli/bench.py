"""``volseg bench``: what this machine can do in a minute, and what limits it."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from napari_volseg.cli.data import add_data_options
from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.cli.train import find_run, find_target, read_training
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home, writing

if TYPE_CHECKING:
    from napari_volseg.bench import Bench

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="measure what this machine trains, predicts and segments in a minute",
        description="Train some steps, predict and segment generated volumes, keep "
        "nothing, and say how much of it this machine does in a minute and what limits "
        "it. With the preset quick that takes less than a minute on two processors; a "
        "network whose steps take many seconds takes longer.",
        usage="volseg bench [PRESET|CONFIG.yaml|RUN_FOLDER] [section.key=value ...] "
        "[options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="PRESET|CONFIG.yaml|RUN_FOLDER",
        help="whose network and patches to measure, by default quick",
    )
    parser.add_argument(
        "--config", metavar="CONFIG.yaml", help="the same, as PyTorch Connectomics asks"
    )
    add_data_options(parser)
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="how long to measure, about (40)"
    )
    parser.add_argument(
        "--disk",
        type=Path,
        metavar="DIR",
        help="a folder on the disk to measure, by default that of temporary files",
    )
    add_json_option(parser)
    parser.sections = ()
    parser.set_defaults(run=run, takes_settings=True, fast_dev_run=True)


def run(args: argparse.Namespace) -> int:
    """Measure and tell."""
    if not 0 < args.seconds <= 3600:
        raise DataError(f"--seconds {args.seconds:g} must be above 0 and at most 3600")
    target = find_target(args)
    args.target = "quick" if target == "auto" and not args.target else target
    config, pairs = read_training(args, find_run(args.target), args.settings)
    from napari_volseg.bench import bench
    from napari_volseg.planning import plan_training

    place = Path(tempfile.gettempdir()) if args.disk is None else expand_home(args.disk)
    with writing(place):
        folder = tempfile.TemporaryDirectory(prefix=".volseg-bench-", dir=place)
    with folder as name:
        plan = plan_training(config, pairs, Path(name))
        found = bench(plan, pairs, Path(name), seconds=args.seconds)
    if args.json:
        print_json(asdict(found))
    else:
        _show(found, place)
    return 0


def _show(found: Bench, place: Path) -> None:
    patch = "×".join(map(str, found.patch_size))
    train, predict, segment = found.train, found.predict, found.segment
    say(
        f"{found.device}; {found.processors} processors, {found.memory_gb:.1f} GB "
        f"free; {found.disk_mb_per_second:.0f} MB/s to {place}"
    )
    say(
        f"{found.architecture}, {found.patches_per_step} patches of {patch} voxels a "
        "step"
    )
    say()
    say(f"{'in a minute':<14} {'does':>10} {'network alone':>14} {'Mvoxel':>10}  limit")
    _row(
        "train, steps",
        train.steps_per_minute,
        train.ready_steps_per_minute,
        train.mvox_per_minute,
        train.limit,
    )
    _row(
        "predict, windows",
        predict.windows_per_minute,
        predict.network_windows_per_minute,
        predict.mvox_per_minute,
        predict.limit,
    )
    _row("segment", None, None, segment.mvox_per_minute, segment.limit)
    say()
    say(train.advice)
    say(f"{predict.note}.")
    say(
        f"A voxel of a large volume passes through the network {predict.visits:.1f} "
        f"times.{_memory(found)}"
    )
    say(
        f"Volumes above {segment.fits_mvox:.0f} Mvoxel are segmented block by block, "
        f"{segment.blockwise_mvox_per_minute:.0f} Mvoxel a minute."
    )
    say(
        f"Measured in {found.seconds:.0f} s with at most {found.peak_memory_gb:.1f} GB "
        "of memory; a machine that is busy otherwise does less."
    )


def _row(
    name: str, does: float | None, alone: float | None, mvox: float, limit: str
) -> None:
    first, second = ("" if n is None else f"{n:.0f}" for n in (does, alone))
    say(f"{name:<16} {first:>8} {second:>14} {mvox:>10.1f}  {limit}")


def _memory(found: Bench) -> str:
    """Say what more memory would gain, if it would."""
    costs = found.predict.memory_costs
    if costs < 1.05:
        return ""
    return (
        f" With inference.memory_gb={found.predict.memory_gb_for_all:.1f} it would be "
        f"{costs:.2f} times as fast."
    )
