"""Options and answers that several commands share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "SettingsParser",
    "add_json_option",
    "add_runs_option",
    "print_json",
    "say",
]

Commands = Any  # argparse does not name the type that add_subparsers returns


class SettingsParser(argparse.ArgumentParser):
    """A parser whose help ends with the settings that the command takes."""

    sections: tuple[str, ...] | None = None
    """Sections of the configuration; empty for all, None for a command without."""

    def format_help(self) -> str:
        """Return the help text with the settings."""
        if self.sections is None:
            return super().format_help()
        from napari_volseg.cli.settings_help import settings_text

        heading = "settings (section.key=value, with the default of each):"
        return f"{super().format_help()}\n{heading}\n{settings_text(*self.sections)}\n"


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Offer an answer for machines."""
    parser.add_argument(
        "--json", action="store_true", help="print the answer as JSON on stdout"
    )


def add_runs_option(parser: argparse.ArgumentParser) -> None:
    """Offer another folder of runs."""
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="folder of runs (default: $VOLSEG_RUNS, else ~/volseg-runs)",
    )


def say(text: str = "") -> None:
    """Print one line of an answer."""
    sys.stdout.write(text + "\n")


def print_json(answer: object) -> None:
    """Print an answer as JSON; what is not a finite number becomes null."""
    say(json.dumps(_jsonable(answer), indent=2, ensure_ascii=False, allow_nan=False))


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
