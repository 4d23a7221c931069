"""The mean of several checkpoints of one run, as one model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from napari_volseg.checkpoint import Model, load_model, model_metadata, save_model
from napari_volseg.errors import DataError

__all__ = ["average_checkpoints"]


def average_checkpoints(folder: Path, target: Path) -> Path:
    """Write the mean of the numbered checkpoints in a folder as a model file.

    Weights of late steps scatter around a better point than each of them
    (Wortsman et al. 2022, arXiv:2203.05482). Running statistics of batch
    normalisation are averaged too, which is an approximation.

    Parameters
    ----------
    folder
        The ``checkpoints`` folder of a run, holding ``step-NNNNNN.ckpt``.
    target
        The model file to write; takes the place of one that is there.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    DataError
        If there are fewer than two checkpoints, or one cannot be read.
    """
    paths = sorted(folder.glob("step-*.ckpt"))
    if len(paths) < 2:
        raise DataError(
            f"{folder} has {len(paths)} numbered checkpoints, and a mean needs two: "
            "raise monitor.checkpoint.save_top_k, or test 'last'"
        )
    total: dict[str, Tensor] = {}
    for path in paths:
        model = load_model(path)
        for key, tensor in model.network.state_dict().items():
            if tensor.is_floating_point():
                # In double precision, so that the order does not matter.
                total[key] = total.get(key, torch.zeros((), dtype=torch.float64)) + (
                    tensor.double() / len(paths)
                )
            else:
                total[key] = tensor
    save_model(target, _as_stored(total, model), _metadata(model, paths))
    return target


def _as_stored(total: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    stored = model.network.state_dict()
    return {key: tensor.to(stored[key].dtype) for key, tensor in total.items()}


def _metadata(model: Model, paths: list[Path]) -> dict[str, object]:
    step = int(paths[-1].stem.removeprefix("step-"))
    metadata = model_metadata(
        model.config, model.pyramid, model.in_channels, model.voxel_size,
        model.patch_size, step, {}, model.intensities,
    )  # fmt: skip
    return {**metadata, "averaged": [path.name for path in paths]}
