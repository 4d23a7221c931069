"""Fit weights from a file to a network, or say why they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_volseg.errors import DataError

__all__ = ["check_described", "fit_weights"]

_SHOWN = 5


def check_described(
    build: Callable[[], nn.Module], weights: object, path: Path
) -> None:
    """Compare a file's weights with the network that it describes, without memory.

    A few bytes can describe a network that no machine could hold, so its arrays
    are compared before any is allocated. Networks that compute while they are
    built cannot be checked this way and are left to `fit_weights`.

    Raises
    ------
    DataError
        As `fit_weights`, for missing, extra and misshapen arrays.
    """
    given = _tensors(weights, path)
    try:
        with torch.device("meta"):
            network = build()
    except (RuntimeError, NotImplementedError):
        return
    _check_shapes(network.state_dict(), given, path)


def fit_weights(
    wanted: Mapping[str, Tensor], weights: object, path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights in the types of a network, and notes for the user.

    Parameters
    ----------
    wanted
        The state of the network.
    weights
        What the file holds, of any type.
    path
        The file, for messages.

    Raises
    ------
    DataError
        If arrays are missing, extra, misshapen, no numbers of the right kind, NaN
        or infinite.
    """
    given = _tensors(weights, path)
    _check_shapes(wanted, given, path)
    fitted = {key: tensor.to(wanted[key].dtype) for key, tensor in given.items()}
    # After the change of type, in which a large number can become infinite.
    broken = [k for k, tensor in fitted.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise DataError(
            f"{path} holds weights that are NaN or infinite ({_some(broken)}): train "
            "again, or take an earlier checkpoint"
        )
    return fitted, _notes(wanted, given, path)


def _tensors(weights: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, Mapping) or not weights:
        raise DataError(f"{path} holds no weights: choose another model or checkpoint")
    wrong = [
        str(key)
        for key, value in weights.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
        or value.layout != torch.strided
    ]
    if wrong:
        raise DataError(f"{path} is damaged: not arrays are {_some(wrong)}")
    return dict(weights)


def _check_shapes(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> None:
    faults = [f"{key} is missing" for key in wanted if key not in given]
    faults += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults += [
        f"{key} is {given[key].dtype}, not {tensor.dtype}".replace("torch.", "")
        for key, tensor in wanted.items()
        if key in given and given[key].is_floating_point() != tensor.is_floating_point()
    ]
    faults += [f"{key} is unknown" for key in given if key not in wanted]
    if faults:
        raise DataError(
            f"the weights in {path} do not fit its network; the first of "
            f"{len(faults)} differences: {_some(faults)}"
        )


def _notes(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> tuple[str, ...]:
    changed = {
        (str(tensor.dtype), str(wanted[key].dtype))
        for key, tensor in given.items()
        if tensor.dtype != wanted[key].dtype
    }
    return tuple(
        f"The weights in {path.name} are stored as {old} and used as {new}.".replace(
            "torch.", ""
        )
        for old, new in sorted(changed)
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN])
