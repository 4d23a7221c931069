"""Other instances for a finished prediction: its kept maps, segmented anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import forget_blocks, segment_stored
from napari_volseg.io import open_volume, write_json, writing
from napari_volseg.review import table_of_blocks, write_table
from napari_volseg.runs import is_prediction, lock
from napari_volseg.runs.prediction import REQUEST

__all__ = ["resegment"]

_INSTANCES, _MAPS, _TABLE = "instances.zarr", "maps.zarr", "instances.csv"
_RECORD = Path("blocks") / "instances.json"


def resegment(
    folder: Path,
    config: InstancesConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Replace the instances of a prediction by those of other thresholds.

    They are made in memory where `inference.memory_gb` of the prediction allows that,
    else block by block. The old ones stay until the new
    ones are whole; the thresholds are written into the request of the prediction.

    Parameters
    ----------
    folder
        The job folder of a prediction whose maps are whole.
    report
        Called with the number of steps done and of all.

    Returns
    -------
    int
        Number of instances.

    Raises
    ------
    DataError
        If the folder is no finished prediction, is in use or cannot be written.
    """
    folder = Path(folder).absolute()
    if not is_prediction(folder) or not (folder / _INSTANCES).is_dir():
        raise DataError(
            f"{folder} is no finished prediction: its maps must be whole before other "
            "instances can be made of them"
        )
    maps = open_volume(str(folder / _MAPS))
    with lock(folder):
        with writing(folder / _RECORD):
            (folder / _RECORD).unlink(missing_ok=True)  # what it says ends to be true
        result = segment_stored(
            maps.data,
            folder / _INSTANCES,
            config,
            maps.voxel_size,
            memory=_memory(folder),
            source=folder / _MAPS,
            report=lambda steps: report(*steps),
        )
        table = table_of_blocks(result, maps.shape_ZYX, maps.voxel_size)
        write_table(folder / _TABLE, table)
        _note(folder, config, result.n_instances)
        forget_blocks(folder / _INSTANCES)
    return result.n_instances


def _memory(folder: Path) -> int:
    """Return the bytes that the prediction was asked to stay within."""
    request = json.loads((folder / REQUEST).read_text("utf-8"))
    inference = InferenceConfig.model_validate(request["inference"] or {})
    return round(inference.memory_gb * 1e9)


def _note(folder: Path, config: InstancesConfig, n_instances: int) -> None:
    """Write down with which thresholds the instances were made."""
    thresholds = config.model_dump(mode="json")
    request = json.loads((folder / REQUEST).read_text("utf-8"))
    write_json(folder / REQUEST, {**request, "instances": thresholds})
    if (folder / _RECORD).parent.is_dir():
        found = {"instances": thresholds, "n_instances": n_instances}
        write_json(folder / _RECORD, found)
