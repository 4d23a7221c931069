"""Write docs/configuration.md from the settings in `napari_volseg.config`.

Usage: python docs/make_configuration.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from napari_volseg.config import Config, preset_names, preset_summary

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

Every setting, with its default. `volseg config PRESET` prints a whole configuration;
any YAML file may give only the keys that differ. On the command line a setting is
written with dots:

```bash
volseg train quick optimization.max_minutes=10 system.training.batch_size=2
```

A value in braces takes the place of the one before, one of its parts is added to it:
`model.loss.mask={focal: 1.0}` makes the loss of that term alone,
`model.loss.mask.focal=1.0` of that term and those that are there already, in the file
or by default. A weight of 0 takes a term out. Both mean the same for a preset, a file
and a run folder.

An unknown key is an error that names the nearest known one. In napari the same
settings stand under *Advanced*, with the same words as tooltips.

This page is written by `make docs` from `src/napari_volseg/config`.
"""


def render() -> str:
    """Return the page."""
    lines = [INTRODUCTION, "## Presets\n", "| preset | for |", "|---|---|"]
    lines += [f"| `{name}` | {preset_summary(name)} |" for name in preset_names()]
    lines += ["", "## General\n", *_table(Config, "")]
    for prefix, section in _sections(Config):
        lines += ["", f"## {prefix}\n", f"{section.__doc__}\n"]
        lines += _table(section, f"{prefix}.")
    return "\n".join(lines) + "\n"


def _sections(
    parent: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in parent.model_fields.items():
        if _is_section(field):
            yield f"{prefix}{name}", field.annotation
            yield from _sections(field.annotation, f"{prefix}{name}.")


def _table(section: type[BaseModel], prefix: str) -> list[str]:
    rows = [
        f"| `{prefix}{name}` | `{_default(field)}` | {_allowed(field)} "
        f"| {field.description} |"
        for name, field in section.model_fields.items()
        if not _is_section(field)
    ]
    if not rows:
        return ["See the parts below."]
    return ["| setting | default | allowed | meaning |", "|---|---|---|---|", *rows]


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(
        field.annotation, BaseModel
    )


def _default(field: FieldInfo) -> str:
    """Return the default as YAML would have it."""
    value = field.get_default(call_default_factory=True)
    return json.dumps(value, ensure_ascii=False)


def _allowed(field: FieldInfo) -> str:
    return _describe(field.annotation, field.metadata).replace("|", "\\|")


def _describe(kind: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """Return in words what values a type admits."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *more = get_args(kind)
        return _describe(inner, more)
    if origin in (Union, UnionType):
        parts = [part for part in get_args(kind) if part is not NoneType]
        words = " or ".join(_describe(part, metadata) for part in parts)
        return f"{words}, or null"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if origin is tuple:
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        if len(parts) == len(get_args(kind)):
            words = [_describe(part) for part in parts]
            if len(set(words)) > 1:
                return f"[{'; '.join(words)}]"
            return f"{len(parts)} × {words[0]}"
        return f"list of {_describe(parts[0])}"
    if origin is dict:
        key, value = get_args(kind)
        return f"mapping of {_describe(key)} to {_describe(value)}"
    word = {bool: "true, false", int: "whole number", float: "number", str: "text"}
    bounds = _bounds(metadata)
    return f"{word[kind]} {bounds}".strip()


def _bounds(metadata: tuple[Any, ...] | list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name):.10g}"
        for entry in metadata
        for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(found)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
