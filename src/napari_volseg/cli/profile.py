"""``volseg profile``: whether patches are ready when the network wants them."""

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

if TYPE_CHECKING:
    from napari_volseg.profiling import LoadingProfile

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "profile",
        help="measure how long the network waits for data",
        description="Train for some steps, keep nothing, say what data cost: "
        "how long the network waits for patches in each step, with several numbers of "
        "threads, and what preparing a patch consists of. Without volumes, generated "
        "ones are used.",
        usage="volseg profile [PRESET|CONFIG.yaml|RUN_FOLDER] [section.key=value ...] "
        "[options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="PRESET|CONFIG.yaml|RUN_FOLDER",
        help="the training to measure, by default auto",
    )
    parser.add_argument(
        "--config", metavar="CONFIG.yaml", help="the same, as PyTorch Connectomics asks"
    )
    add_data_options(parser)
    parser.add_argument(
        "--steps", type=int, default=20, help="steps for each number of threads (20)"
    )
    parser.add_argument(
        "--threads",
        metavar="N,N,…",
        help="numbers of threads to try beside system.training.num_workers "
        "(0,1,2,4 as far as there are processors)",
    )
    add_json_option(parser)
    parser.sections = ()
    parser.set_defaults(run=run, takes_settings=True, fast_dev_run=True)


def run(args: argparse.Namespace) -> int:
    """Measure, and give the verdict."""
    threads = _read_threads(args.threads)
    if args.steps < 1:
        raise DataError(f"--steps {args.steps} must be at least 1")
    args.target = find_target(args)
    config, pairs = read_training(args, find_run(args.target), args.settings)
    from napari_volseg.planning import plan_training
    from napari_volseg.profiling import profile_loading

    with tempfile.TemporaryDirectory(prefix="volseg-profile-") as place:
        folder = Path(place)
        plan = plan_training(config, pairs, folder)
        profile = profile_loading(
            plan, pairs, folder, steps=args.steps, threads=threads
        )
    if args.json:
        print_json(asdict(profile))
    else:
        _show(profile)
    return 0


def _read_threads(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        threads = tuple(int(part) for part in text.split(","))
    except ValueError:
        threads = (-1,)
    if not all(0 <= n <= 64 for n in threads):
        raise DataError(
            f"--threads {text} must be numbers from 0 to 64 with commas, such as 0,1,2"
        )
    return threads


def _show(profile: LoadingProfile) -> None:
    patch = "×".join(map(str, profile.patch_size))
    say(f"{profile.device}; {profile.batch_size} patches of {patch} voxels a step")
    say(
        f"volumes kept in {'memory' if profile.cache == 'ram' else profile.cache}, "
        f"prepared in {profile.prepare_seconds:.1f} s; {profile.annotated:.0%} of a "
        "patch is learnt from"
    )
    stages = ", ".join(f"{n} {ms:.1f}" for n, ms in profile.stages_ms.items())
    say(f"ms to prepare a patch on one thread: {stages}")
    say(f"ms of a step on data that lie ready: {profile.ready_step_ms:.1f}")
    say()
    say("threads  waits ms  step ms  lost")
    for trial in profile.trials:
        mark = "  (configured)" if trial.threads == profile.threads else ""
        say(
            f"{trial.threads:7d}  {trial.wait_ms:8.1f}  {trial.step_ms:7.1f}  "
            f"{trial.lost:4.0%}{mark}"
        )
    say()
    say(profile.advice)
