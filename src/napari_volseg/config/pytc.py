"""Read configurations written for PyTorch Connectomics, version 1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from napari_volseg.config.pytc_keys import AUGMENTATIONS, LEFT_OUT, RENAMED, VALUES
from napari_volseg.errors import DataError

__all__ = ["translate", "why_left_out"]

_SECTIONS = ("data", "model", "optimization", "system", "monitor", "inference")

_DECODING = {
    "binary_threshold": ("seed_mask", "mask"),
    "contour_threshold": ("seed_boundary", "boundary"),
    "distance_threshold": ("seed_distance", "distance"),
    "min_seed_size": ("min_seed_size",),
    "min_instance_size": ("min_size",),
}
_TARGETS = {"binary": None, "label": None, "instance_boundary": "boundary",
            "instance_edt": "distance", "skeleton_aware_edt": "distance"}  # fmt: skip


def translate(
    tree: Mapping[str, Any], known: Collection[str], where: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a configuration in our words, and what was left out of it.

    Keys of ours stay as they are, whatever else they may mean elsewhere; keys of
    nobody stay too, for the check that names the nearest known one.

    Parameters
    ----------
    tree
        Nested settings, as read from a file and changed by overrides.
    known
        Dotted keys of our configuration.
    where
        The file, for messages.

    Returns
    -------
    tuple
        The translated tree, and the dotted keys that have no counterpart.

    Raises
    ------
    DataError
        If the file asks for other outputs than mask, boundary and distance, or
        is of version 2.
    """
    if "default" in tree or "_base_" in tree:
        raise DataError(
            f"{where} is a configuration of PyTorch Connectomics 2, which has other "
            "sections: start from 'volseg config hydra-lv' instead"
        )
    leaves = dict(_leaves(tree, known))
    ours = {key: value for key, value in leaves.items() if key in known}
    foreign = {key: value for key, value in leaves.items() if key not in known}
    _check_outputs(foreign, where)
    found: dict[str, Any] = {}
    left_out = []
    for key, value in foreign.items():
        if key in RENAMED:
            found[RENAMED[key]] = value
        elif why_left_out(key):
            left_out.append(key)
        else:
            found[key] = value
    for take in (_instances, _flips, _target_modes, _augmentations):
        taken = take(foreign, known)
        found |= taken
    left_out = [key for key in left_out if not _is_taken(key, foreign, known)]
    merged = {key: _named(key, value) for key, value in (found | ours).items()}
    return _nested(merged), tuple(sorted(left_out))


def why_left_out(key: str) -> str:
    """Return why a key of theirs has no counterpart; empty for other keys."""
    parts = key.split(".")
    sections = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((LEFT_OUT[name] for name in sections if name in LEFT_OUT), "")


def _leaves(
    tree: Mapping[str, Any], known: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in known and _has_parts(key, value):
            yield from _leaves(value, known, f"{key}.")
        else:
            yield key, value


def _has_parts(key: str, value: Mapping[str, Any]) -> bool:
    """Return whether a section has keys; an empty one of theirs has none to read."""
    return bool(value) or any(f"{key}.".startswith(f"{name}.") for name in _SECTIONS)


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise DataError(f"{section} is both a setting and a section in {key}")
        place[name] = value
    return tree


def _is_taken(key: str, foreign: Mapping[str, Any], known: Collection[str]) -> bool:
    """Return whether a key has been understood by one of the translations."""
    if key == "inference.decoding":
        return bool(_instances(foreign, known))
    if key in {"inference.test_time_augmentation.enabled",
               "inference.test_time_augmentation.flip_axes"}:  # fmt: skip
        return True
    if key == "data.label_transform.targets":
        return bool(_target_modes(foreign, known))
    if key == "model.out_channels" or key.endswith(".enabled"):
        return True
    return bool(_places(key.removeprefix("data.augmentation."), known))


def _check_outputs(foreign: Mapping[str, Any], where: str) -> None:
    channels = foreign.get("model.out_channels", 3)
    if channels != 3:
        raise DataError(
            f"{where}: model.out_channels is {channels}, but volseg always predicts "
            "three maps (mask, boundary, distance): leave it out"
        )
    for target in _targets(foreign):
        if target.get("name") not in _TARGETS:
            raise DataError(
                f"{where}: data.label_transform asks for '{target.get('name')}', but "
                "volseg predicts mask, boundary and distance: leave it out"
            )


def _instances(foreign: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Thresholds of their decoder, which come in pairs: for seeds, for objects."""
    steps = foreign.get("inference.decoding")
    found: dict[str, Any] = {}
    for step in steps if isinstance(steps, list) else []:
        kwargs = step.get("kwargs") if isinstance(step, Mapping) else None
        for name, value in (kwargs or {}).items():
            keys = _DECODING.get(name, ())
            values = value if isinstance(value, list) else [value]
            for key, part in zip(keys, values, strict=False):
                # Their distance runs from -1, ours from 0 at an object's surface.
                found[f"instances.{key}"] = max(0, part) if _is_number(part) else part
    return found


def _flips(foreign: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    section = "inference.test_time_augmentation"
    if f"{section}.enabled" not in foreign and f"{section}.flip_axes" not in foreign:
        return {}
    axes = foreign.get(f"{section}.flip_axes", "all")
    if not foreign.get(f"{section}.enabled", True) or axes in (None, "none", []):
        return {"inference.flips": "none"}
    if isinstance(axes, list):
        flat = {
            a for part in axes for a in (part if isinstance(part, list) else [part])
        }
        return {"inference.flips": "yx" if 0 not in flat else "zyx"}
    return {"inference.flips": "zyx"}


def _targets(foreign: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    targets = foreign.get("data.label_transform.targets")
    if not isinstance(targets, list):
        return []
    return [target for target in targets if isinstance(target, Mapping)]


def _target_modes(foreign: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    found = {}
    for target in _targets(foreign):
        kind = _TARGETS.get(str(target.get("name")))
        mode = (target.get("kwargs") or {}).get("mode")
        if kind and mode in ("2d", "3d"):
            found[f"data.targets.{kind}"] = mode
    return found


def _augmentations(
    foreign: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    section = "data.augmentation"
    if not any(key.startswith(f"{section}.") for key in foreign):
        return {}
    found: dict[str, Any] = {}
    if "augmentation.preset" in known and foreign.get(f"{section}.preset") != "all":
        found["augmentation.preset"] = "none"
    for name in AUGMENTATIONS:
        for place in _places(name, known):
            enabled = foreign.get(f"{section}.{name.split('.')[0]}.enabled")
            usual = 0.5 if enabled and name.endswith(".prob") else None
            value = foreign.get(f"{section}.{name}", usual)
            if enabled is False or foreign.get(f"{section}.enabled") is False:
                value = 0.0
            if value is not None:
                key = f"augmentation.{place}"
                found[key] = max(found.get(key, 0.0), value)
    return found


def _places(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Return our name of one of their probabilities: none or one."""
    places = AUGMENTATIONS.get(name, ())
    return tuple(p for p in places if f"augmentation.{p}" in known)[:1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(key: str, value: Any) -> Any:
    values: Callable[[Any, Any], Any] = VALUES.get(key, {}).get
    return values(value, value) if isinstance(value, str) else value
