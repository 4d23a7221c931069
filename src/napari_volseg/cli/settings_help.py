"""What each setting is for, with its default, as text for the command line."""

from __future__ import annotations

import json
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from napari_volseg.config import Config

__all__ = ["Setting", "iter_settings", "settings_text"]


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
