"""What the Train dock asks of run folders; most of it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_volseg.config import Config
from napari_volseg.runs import RunSummary, amend_run, create_run, list_runs
from napari_volseg.runs.pairs import Role
from napari_volseg.widgets.preferences import runs_dir
from napari_volseg.widgets.snapshots import PairSnapshot

__all__ = ["amend_folder", "find_unfinished", "make_run", "without_files"]

_FILES = (
    "train_image",
    "train_label",
    "train_mask",
    "val_image",
    "val_label",
    "val_mask",
)


def without_files(config: Config) -> Config:
    """Return a preset without what the layers decide here."""
    data = config.data.model_copy(
        update=dict.fromkeys(_FILES, ()) | {"voxel_size": None}
    )
    model = config.model.model_copy(update={"input_size": None, "output_size": None})
    return config.model_copy(update={"data": data, "model": model})


def make_run(
    config: Config, snapshots: Sequence[tuple[PairSnapshot, Role]], name: str
) -> Path:
    """Make a run folder from what was captured; it reads every voxel."""
    pairs = [snapshot.build(role) for snapshot, role in snapshots]
    return create_run(config, pairs, runs_dir(), name)


def amend_folder(folder: Path, overrides: Sequence[str]) -> Path:
    """Return the folder of a run, once its settings are changed."""
    if overrides:
        amend_run(folder, overrides)
    return folder


def find_unfinished() -> RunSummary | None:
    """Return the newest run that can be followed or resumed."""
    for run in list_runs(runs_dir()):
        can_go_on = run.state in ("stopped", "interrupted", "failed")
        if run.state == "running" or (can_go_on and run.has_checkpoint):
            return run
    return None
