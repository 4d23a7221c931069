"""``volseg train``: from labelled volumes to a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from napari_volseg.cli import testing
from napari_volseg.cli.data import add_data_options, given_data, with_sources
from napari_volseg.cli.job import run_in_terminal
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.cli.settings import load_settings
from napari_volseg.config import Config, preset_names
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.ranks import assist_in_cluster, place_in_cluster
from napari_volseg.runs import (
    TrainingPair,
    amend_run,
    begin_session,
    collect_pairs,
    create_run,
    default_runs_dir,
    is_run,
    newest_pairs,
    read_config,
    read_run,
)

__all__ = ["add_commands", "find_run", "find_target", "read_training"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a network on labelled volumes",
        description="Train a network on labelled volumes. Ctrl-C stops and keeps what "
        "was learnt, a second Ctrl-C aborts.",
        usage="volseg train [PRESET|CONFIG.yaml|RUN_FOLDER] [section.key=value ...] "
        "[options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="PRESET|CONFIG.yaml|RUN_FOLDER",
        help="what to train, by default auto, which chooses settings from the data; a "
        "run folder is trained anew with the same settings and data, or continued "
        "with --resume",
    )
    parser.add_argument(
        "--config", metavar="CONFIG.yaml", help="the same, as PyTorch Connectomics asks"
    )
    parser.add_argument(
        "--mode",
        choices=("train", "test"),
        default="train",
        help="test: predict and score as 'volseg test' does",
    )
    testing.add_checkpoint_option(parser)
    testing.add_test_options(parser)
    add_data_options(parser)
    add_runs_option(parser)
    parser.add_argument("--name", help="name of the run folder")
    parser.add_argument(
        "--resume", action="store_true", help="continue a run from its last checkpoint"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (system.device)",
    )
    parser.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="try everything with two tiny steps and keep nothing",
    )
    add_json_option(parser)
    parser.sections = ()
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    place = place_in_cluster()
    if place is not None and place.rank > 0:
        return 0 if args.mode == "test" else assist_in_cluster(place)
    args.target = find_target(args)
    if args.mode == "test":
        return _test(args)
    if args.checkpoint or args.output or args.overwrite:
        raise DataError(
            "--checkpoint, --output and --overwrite go with --mode test; --resume "
            "continues a run from its last checkpoint"
        )
    settings = list(args.settings)
    if args.device:
        settings.append(f"system.device={args.device}")
    folder = find_run(args.target, args.runs)
    if args.resume:
        if folder is None:
            raise DataError(
                f"--resume continues a run folder, and '{args.target}' is none: "
                "'volseg runs' lists yours"
            )
        _refuse_new_data(args)
        _refuse_other_machine(read_config(folder, settings), place is not None)
        amend_run(folder, settings)
        begin_session(folder, resume=True)
        return _train(folder, args, resume=True)
    config, pairs = read_training(args, folder, settings)
    if args.fast_dev_run:
        from napari_volseg.cli.dev_run import run_fast

        return run_fast(config, pairs)
    runs_dir = args.runs or (folder.parent if folder else default_runs_dir())
    name = args.name or (folder.name if folder else None)
    new = create_run(config, pairs, expand_home(runs_dir), name)
    return _train(new, args, resume=False)


def find_target(args: argparse.Namespace) -> str:
    """Return what to train, and give a setting in its place back to the settings."""
    if args.target and "=" in args.target and not Path(args.target).exists():
        args.settings = [args.target, *args.settings]
        args.target = None
    if args.target and args.config:
        raise DataError(
            f"'{args.target}' and --config {args.config} both say what to train: leave "
            "one out"
        )
    return str(args.target or args.config or "auto")


def _test(args: argparse.Namespace) -> int:
    if args.val_image or args.val_label or args.val_mask or args.name or args.resume:
        raise DataError(
            "--mode test takes its volumes from --image, --label and --mask, or from "
            "data.test_image: leave out --val-image, --name and --resume"
        )
    return testing.run(args)


def read_training(
    args: argparse.Namespace, folder: Path | None, settings: Sequence[str]
) -> tuple[Config, list[TrainingPair]]:
    """Return the configuration and the volumes that a command line means.

    Without any volume, generated ones take their place where ``args.fast_dev_run``.
    """
    given = given_data(args)
    pairs: list[TrainingPair] | None
    if folder is None:
        config = load_settings(args.target, settings)
        pairs = None
    else:
        config = read_config(folder, settings)
        pairs = None if given else newest_pairs(folder, read_run(folder)[1])
    config = with_sources(config, given)
    if pairs is None and args.fast_dev_run and not config.data.train_image:
        from napari_volseg.cli.dev_run import sample_pairs

        pairs = sample_pairs()
    return config, pairs if pairs is not None else collect_pairs(config)


def _refuse_new_data(args: argparse.Namespace) -> None:
    if given_data(args) or args.name or args.fast_dev_run:
        raise DataError(
            "--resume continues a run with the data it has: leave out --image, "
            "--label, --mask, --name and --fast-dev-run, or start a new run"
        )


def _refuse_other_machine(config: Config, in_cluster: bool) -> None:
    """Refuse a device that is not here before the run is changed."""
    from napari_volseg.devices import choose_compute, choose_gpus

    compute = choose_compute(config)
    if not in_cluster:
        choose_gpus(config, compute.device)


def find_run(target: str, runs_dir: Path | None = None) -> Path | None:
    """Return the run folder that is meant: a path, or a name in the folder of runs."""
    runs_dir = expand_home(runs_dir or default_runs_dir())
    if target in preset_names():
        return None
    for path in (expand_home(target), runs_dir / target):
        if is_run(path):
            return path.absolute()
        if path.is_dir():
            raise DataError(f"{path} is not a run folder: it has no config.yaml")
    return None


def _train(folder: Path, args: argparse.Namespace, *, resume: bool) -> int:
    finished, code = run_in_terminal(folder, resume=resume)
    if finished.reason == "failed":
        return code
    if args.json:
        print_json(
            {
                "folder": folder,
                "reason": finished.reason,
                "message": finished.message,
                "model": finished.path,
                "metrics": finished.metrics,
            }
        )
        return code
    say(f"{finished.reason}: {finished.message}")
    say(f"run: {folder}")
    if finished.path:
        say(f"next: volseg predict '{folder}' IMAGE")
    return code
