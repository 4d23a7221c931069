"""From YAML text to a plain tree, also when the text is hostile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from napari_volseg.errors import DataError

__all__ = ["parse_tree", "parse_value", "read_text"]

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_ZEROS = re.compile(r"[-+]?0\d+")
_MAX_BYTES = 2**20
_MAX_VALUES = 50_000
_MAX_DEPTH = 50


class _Loader(yaml.SafeLoader):
    """YAML without dates, 1:30 for 90 and 010 for 8; a key stands once in it."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the node of a mapping, whose keys differ."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} stands twice, put its parts together",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return node

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        """Return a number; a date, or what YAML 1.1 counts in sixties, is text."""
        if ":" in node.value or node.tag.endswith(":timestamp"):
            return str(node.value)
        if _ZEROS.fullmatch(node.value):
            return int(node.value, 10)
        return yaml.SafeLoader.yaml_constructors[node.tag](self, node)


for _kind in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_plain)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises
    ------
    DataError
        If it is no file, larger than a megabyte, or no text.
    """
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "not there"
            raise DataError(f"the configuration {path} is {what}: choose a YAML file")
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is too large for a configuration: choose another")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the configuration file {path}: {error}") from None


def parse_tree(text: str, where: str) -> dict[str, Any]:
    """Return the mapping that YAML text stands for; ``1e-3`` is a number.

    Tags that would make objects are refused, and so are aliases that stand for
    more values than a configuration can have.

    Raises
    ------
    DataError
        If the text is no YAML, no mapping, or a trap; it names `where`.
    """
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{where} is not valid YAML: {problem}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise DataError(
            f"{where} must be a mapping of sections such as data: and model:"
        )
    _count(tree, {}, 0, where)
    # A section may be empty, or all of it a comment.
    given = {key: value for key, value in tree.items() if value is not None}
    numbers: dict[str, Any] = _numbers(given)
    return numbers


def parse_value(text: str) -> Any:
    """Return what the right side of ``key=value`` means; what is no YAML is text.

    A command line has no comments, but paths such as ``run #2/em.h5``.
    """
    text = text.strip()
    try:
        value = yaml.load(text, _Loader) if text else None
    except yaml.YAMLError:
        value = text
    is_quoted = text.startswith(("'", '"'))
    if isinstance(value, str) and not is_quoted and text.startswith(value):
        value = text
    return _as_number(value)


def _as_number(value: Any) -> Any:
    """Return ``1e-3``, which YAML 1.1 reads as text, as the number that is meant."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def _count(value: object, seen: dict[int, int], depth: int, where: str) -> int:
    """Return how many values this is when every alias is written out."""
    if not isinstance(value, dict | list):
        return 1
    # 0 marks a value that is being counted, which only one inside itself meets.
    if depth > _MAX_DEPTH or seen.get(id(value)) == 0:
        raise DataError(f"{where} nests its values too deeply for a configuration")
    if id(value) not in seen:
        seen[id(value)] = 0
        parts = value.values() if isinstance(value, dict) else value
        total = 1 + sum(_count(part, seen, depth + 1, where) for part in parts)
        if total > _MAX_VALUES:
            raise DataError(f"{where} stands for too many values for a configuration")
        seen[id(value)] = total
    return seen[id(value)]


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _as_number(value)
