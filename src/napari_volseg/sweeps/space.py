"""What a sweep varies: settings, and the values that each may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from napari_volseg.config import parse_tree, parse_value, read_text
from napari_volseg.errors import DataError

__all__ = ["Range", "is_range", "parse_range", "parse_space", "read_space"]

Kind = Literal["log", "float", "int", "choice"]

_HOW = (
    "write log:1e-4:1e-2, float:0:0.5, int:2:8, int:16:64:16 or a|b|c, in quotes "
    "where the shell needs them"
)


@dataclass(frozen=True, slots=True)
class Range:
    """The values that one setting may take."""

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    step: int = 1
    """Distance of two integers."""
    choices: tuple[str, ...] = ()
    """Values as YAML, because they may be lists."""

    def ends(self) -> list[Any]:
        """Return the values to try before a sweep begins: the ends, or all choices."""
        if self.kind == "choice":
            return [parse_value(text) for text in self.choices]
        low, high = self.low, self.high
        return [int(low), int(high)] if self.kind == "int" else [low, high]

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Range:
        """Return the range that `to_json` described."""
        return Range(
            kind=fields["kind"],
            low=float(fields["low"]),
            high=float(fields["high"]),
            step=int(fields["step"]),
            choices=tuple(map(str, fields["choices"])),
        )


def is_range(text: str) -> bool:
    """Return whether a value of the command line is a range, not a value."""
    return text.partition(":")[0] in ("log", "float", "int") or len(_split(text)) > 1


def parse_range(key: str, text: str) -> Range:
    """Return the range that a text describes.

    Parameters
    ----------
    key
        The setting, for messages.
    text
        ``log:LOW:HIGH``, ``float:LOW:HIGH``, ``int:LOW:HIGH``,
        ``int:LOW:HIGH:STEP`` or ``A|B|C``, whose values are YAML.

    Raises
    ------
    DataError
        If it is none of these, or describes a single value.
    """
    kind, _, rest = text.partition(":")
    if kind not in ("log", "float", "int"):
        return _choice(key, [yaml_text(parse_value(part)) for part in _split(text)])
    parts = [parse_value(part) for part in rest.split(":")]
    numbers = [p for p in parts if isinstance(p, int | float)]
    if len(numbers) < len(parts) or len(parts) not in (
        (2, 3) if kind == "int" else (2,)
    ):
        raise DataError(f"{key}={text} is no range: {_HOW}")
    low, high, *step = numbers
    if not low < high or (kind == "log" and low <= 0):
        positive = ", and both must be above 0" if kind == "log" else ""
        raise DataError(f"{key}={text}: the first number must be the lower{positive}")
    if kind == "int":
        if any(number != int(number) for number in numbers) or (step and step[0] < 1):
            raise DataError(
                f"{key}={text}: the numbers must be whole, the step above 0"
            )
        return Range("int", float(low), float(high), int(step[0]) if step else 1)
    return Range("log" if kind == "log" else "float", float(low), float(high))


def parse_space(settings: Sequence[str]) -> tuple[dict[str, Range], list[str]]:
    """Divide settings of a command line into ranges and fixed values.

    Returns
    -------
    tuple
        Ranges by dotted key, and the settings that are none.

    Raises
    ------
    DataError
        As `parse_range`.
    """
    space: dict[str, Range] = {}
    fixed = []
    for setting in settings:
        key, _, text = setting.partition("=")
        if is_range(text):
            space[key] = parse_range(key, text)
        else:
            fixed.append(setting)
    return space, fixed


def read_space(path: Path) -> dict[str, Range]:
    """Return the ranges in a YAML file.

    Keys are dotted or nested; a value is a range as on the command line, or a
    list of values.

    Raises
    ------
    DataError
        If the file cannot be read, or a value is no range.
    """
    tree = parse_tree(read_text(path), str(path))
    space = {}
    for key, value in _leaves(tree):
        if isinstance(value, list):
            space[key] = _choice(key, [yaml_text(item) for item in value])
        elif isinstance(value, str):
            space[key] = parse_range(key, value)
        else:
            raise DataError(f"{path}: {key} is one value, not a range: {_HOW}")
    return space


def yaml_text(value: Any) -> str:
    """Return a value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _choice(key: str, choices: Sequence[str]) -> Range:
    if len(set(choices)) < max(2, len(choices)):
        raise DataError(f"{key} needs two different values or more: {_HOW}")
    return Range("choice", choices=tuple(choices))


def _split(text: str) -> list[str]:
    """Split at bars outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
