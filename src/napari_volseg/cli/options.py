"""Options and answers that several commands share."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from napari_volseg.config import Config

__all__ = [
    "Setting",
    "SettingsParser",
    "add_json_option",
    "add_runs_option",
    "iter_settings",
    "print_json",
    "say",
    "settings_text",
]

Commands = Any  # argparse does not name the type that add_subparsers returns


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as the configuration declares it."""

    key: str
    default: object
    choices: tuple[str, ...]
    help: str


def iter_settings(
    section: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[Setting]:
    """Yield every setting with its dotted key, in the order of declaration."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from iter_settings(kind, f"{prefix}{name}.")
        else:
            yield Setting(
                f"{prefix}{name}",
                field.get_default(call_default_factory=True),
                _choices(kind),
                field.description or "",
            )


def settings_text(*sections: str) -> str:
    """Return the help of all settings, or of those in the sections named."""
    lines = []
    for setting in iter_settings():
        if sections and setting.key.split(".")[0] not in sections:
            continue
        default = _plain(setting.default)
        choices = f" ({' | '.join(setting.choices)})" if setting.choices else ""
        lines.append(f"  {setting.key}={default}{choices}")
        lines += textwrap.wrap(
            setting.help, 79, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


class SettingsParser(argparse.ArgumentParser):
    """A parser whose help ends with the settings that the command takes."""

    sections: tuple[str, ...] | None = None
    """Sections of the configuration; empty for all, None for a command without."""

    def format_help(self) -> str:
        """Return the help text with the settings."""
        if self.sections is None:
            return super().format_help()
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


def _plain(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps(value).replace(" ", "")
    return str(value)


def _choices(kind: Any) -> tuple[str, ...]:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return tuple(map(str, typing.get_args(kind)))
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return tuple(c for part in typing.get_args(kind) for c in _choices(part))
    return ()
