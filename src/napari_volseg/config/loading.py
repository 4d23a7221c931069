"""From presets, files and overrides to a checked configuration, and back."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from napari_volseg.config.pytc import translate
from napari_volseg.config.tree import Config
from napari_volseg.config.yaml_text import parse_tree, parse_value, read_text
from napari_volseg.errors import DataError

__all__ = [
    "apply_overrides",
    "build_config",
    "dump_config",
    "load_config",
    "preset_names",
    "preset_summary",
    "read_settings",
]

_WORDS = {
    "tuple_type": "give a list in brackets, its values between commas",
    "missing": "the list is too short, give this value too",
    "too_long": "the list is too long, leave values out",
}
"""What is wrong with a list, where pydantic speaks of tuples and fields."""


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("napari_volseg") / "presets"
    return sorted(
        Path(entry.name).stem
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_summary(name: str) -> str:
    """Return the sentence that says what a preset is for."""
    return str(_read_tree(name).get("description", ""))


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a preset or YAML file.

    Parameters
    ----------
    name
        Name of a preset, or path of a YAML file.
    overrides
        Dotted settings such as ``system.training.batch_size=8``; values are YAML.

    Raises
    ------
    DataError
        For an unknown preset, file, key or value; an unknown key names the
        nearest known one.
    """
    return build_config(read_settings(name, overrides)[0], where=str(name))


def read_settings(
    name: str | Path, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings of a preset or YAML file, not yet checked.

    Returns
    -------
    tuple
        Nested settings, and the keys of a PyTorch Connectomics file that have no
        counterpart and were left out.
    """
    known = set(_dotted_keys(Config))
    tree, left_out = translate(_read_tree(name), known, str(name))
    given = apply_overrides(_added_to(tree, overrides, known), overrides)
    changes, dropped = translate(given, known, "the command line")
    if dropped:
        raise DataError(
            f"'{dropped[0]}' of PyTorch Connectomics has no counterpart: leave it out; "
            "'volseg config --settings' lists what there is"
        )
    merged = _merged(tree, changes, known)
    _keep_what_is_given(merged)
    return merged, left_out


def _keep_what_is_given(tree: dict[str, Any]) -> None:
    """Note which settings an automatic configuration must not derive."""
    automatic = tree.get("automatic")
    if isinstance(automatic, dict) and automatic.get("enabled"):
        automatic["kept"] = sorted(
            key for key in _leaves(tree) if not key.startswith("automatic.")
        )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def build_config(tree: Mapping[str, Any], where: str = "configuration") -> Config:
    """Validate a nested mapping; errors name the key and `where` it stands.

    Raises
    ------
    DataError
        If a key is unknown or a value out of bounds.
    """
    _check_keys(tree, Config, "", where)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(
            part for part in map(str, problem["loc"]) if not part.startswith("function")
        )
        message = _WORDS.get(problem["type"], problem["msg"])
        message = message.removeprefix("Value error, ")
        value = f" (it is {problem['input']!r})" if key else ""
        raise DataError(
            f"{where}: {key + ': ' if key else ''}{message}{value}"
        ) from None


def apply_overrides(
    tree: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the tree with dotted ``key=value`` settings applied; values are YAML."""
    result = _copy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise DataError(
                f"'{override}' is not a setting: write it as section.key=value, "
                "for instance system.training.batch_size=8"
            )
        _put(result, key.split("."), parse_value(text), override)
    return result


def dump_config(config: Config) -> str:
    """Return the whole resolved configuration as YAML."""
    tree = config.model_dump(mode="json")
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _read_tree(name: str | Path) -> dict[str, Any]:
    path = Path(os.path.expanduser(name))
    if str(name) in preset_names():
        text = (
            resources.files("napari_volseg") / "presets" / f"{name}.yaml"
        ).read_text("utf-8")
    elif path.suffix.lower() in {".yaml", ".yml"}:
        if path.stem in preset_names() and not path.exists():
            raise DataError(
                f"there is no file {path}, but a preset '{path.stem}': use that name"
            )
        text = read_text(path)
    else:
        near = difflib.get_close_matches(str(name), preset_names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise DataError(
            f"there is no preset '{name}': {hint}presets are "
            f"{', '.join(preset_names())}; a YAML file works too"
        )
    return parse_tree(text, str(name))


def _check_keys(
    tree: Mapping[str, Any], section: type[BaseModel], prefix: str, where: str
) -> None:
    for key, value in tree.items():
        field = section.model_fields.get(str(key))
        if field is None:
            raise DataError(_unknown_key(_first_leaf(f"{prefix}{key}", value), where))
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise DataError(
                    f"{where}: {prefix}{key} is a section, give its keys as "
                    f"{prefix}{key}.{next(iter(kind.model_fields))}=…"
                )
            _check_keys(value, kind, f"{prefix}{key}.", where)


def _first_leaf(key: str, value: object) -> str:
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key


def _unknown_key(key: str, where: str) -> str:
    known = _dotted_keys(Config)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        leaf = key.rsplit(".", 1)[-1]
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        near = [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=1)]
    hint = f"did you mean '{near[0]}'?" if near else "see 'volseg config quick'"
    return f"{where}: there is no setting '{key}'; {hint}"


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _dotted_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _put(tree: dict[str, Any], path: Sequence[str], value: object, text: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise DataError(f"'{text}': {part} is not a section")
    tree[path[-1]] = value


def _added_to(
    tree: Mapping[str, Any], overrides: Sequence[str], known: Collection[str]
) -> dict[str, Any]:
    """Return the values that overrides add a part to, such as a term to a loss.

    A run folder has them in its configuration; a file may leave them at their default.
    """
    whole = _merged(Config().model_dump(mode="json"), tree, known)
    held: dict[str, Any] = {}
    for override in overrides:
        *path, _ = override.partition("=")[0].split(".")
        if ".".join(path) in known:
            value: Any = whole
            for part in path:
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, Mapping):
                _put(held, path, _copy(value), override)
    return held


def _merged(
    tree: Mapping[str, Any],
    changes: Mapping[str, Any],
    known: Collection[str],
    prefix: str = "",
) -> dict[str, Any]:
    """Return the tree with those of the other on top; a known setting is one value."""
    result = dict(tree)
    for key, value in changes.items():
        old = result.get(key)
        is_setting = f"{prefix}{key}" in known
        if not is_setting and isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value, known, f"{prefix}{key}.")
        result[key] = value
    return result


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }
