"""``volseg presets``, ``config`` and ``runs``: what there is."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from rich.console import Console
from rich.table import Table

from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.cli.settings import load_settings
from napari_volseg.cli.settings_help import settings_text
from napari_volseg.cli.words import age
from napari_volseg.config import (
    dump_config,
    preset_names,
    preset_summary,
    read_settings,
    why_left_out,
)
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.runs import default_runs_dir, list_runs

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    presets = commands.add_parser("presets", help="list the ready configurations")
    add_json_option(presets)
    presets.set_defaults(run=_presets)

    config = commands.add_parser(
        "config",
        help="print a whole configuration, or explain all settings",
        usage="volseg config PRESET|CONFIG.yaml [section.key=value ...] | "
        "volseg config --settings",
        allow_abbrev=False,
    )
    config.add_argument("name", nargs="?", metavar="PRESET|CONFIG.yaml")
    config.add_argument(
        "--settings",
        dest="explain",
        action="store_true",
        help="list every setting with its default and what it does",
    )
    config.add_argument(
        "--left-out",
        action="store_true",
        help="list the keys of a PyTorch Connectomics file that have no counterpart, "
        "and why",
    )
    config.set_defaults(run=_config, takes_settings=True)

    runs = commands.add_parser("runs", help="list your runs")
    add_runs_option(runs)
    add_json_option(runs)
    runs.set_defaults(run=_runs)


def _presets(args: argparse.Namespace) -> int:
    summaries = {name: preset_summary(name) for name in preset_names()}
    if args.json:
        print_json(summaries)
        return 0
    for name, summary in summaries.items():
        say(f"{name:<14} {summary}")
    return 0


def _config(args: argparse.Namespace) -> int:
    if args.explain:
        say(settings_text())
        return 0
    if args.name is None:
        raise DataError(
            f"name a preset ({', '.join(preset_names())}) or a YAML file, or give "
            "--settings"
        )
    if args.left_out:
        for key in read_settings(args.name, args.settings)[1]:
            say(f"{key:<50} {why_left_out(key)}")
        return 0
    sys.stdout.write(dump_config(load_settings(args.name, args.settings)))
    return 0


def _runs(args: argparse.Namespace) -> int:
    runs_dir = expand_home(args.runs or default_runs_dir()).absolute()
    runs = list_runs(runs_dir)
    if args.json:
        print_json([dataclasses.asdict(run) for run in runs])
        return 0
    if not runs:
        say(f"no runs in {runs_dir}: 'volseg train quick --image SRC --label SRC'")
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "step", "F1", "model", "age"):
        table.add_column(
            heading, justify="right" if heading in ("step", "F1") else "left"
        )
    for run in runs:
        table.add_row(
            run.name,
            run.state,
            str(run.step),
            "" if run.score is None else f"{run.score:.3f}",
            "yes" if run.has_model else "",
            age(run.created),
        )
    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(table)
    say(f"in {runs_dir}")
    return 0
