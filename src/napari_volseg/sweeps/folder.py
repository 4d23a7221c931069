"""The folder of a sweep: what is searched, the trials' runs, and the table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_volseg.config import Config, apply_overrides, build_config, dump_config
from napari_volseg.errors import DataError
from napari_volseg.io import write_json, write_text
from napari_volseg.runs import new_folder
from napari_volseg.sweeps.space import Range, yaml_text

__all__ = [
    "BEST",
    "JOURNAL",
    "TABLE",
    "TRIALS",
    "Metric",
    "Sweep",
    "TrialRow",
    "create_sweep",
    "is_sweep",
    "read_sweep",
    "trial_config",
    "write_best",
    "write_table",
]

SWEEP = "sweep.json"
JOURNAL = "journal.log"
TRIALS = "trials"
TABLE = "trials.csv"
BEST = "best.yaml"

_FORMAT = 1

Metric = Literal["f1_50", "ap", "ap_50", "pq_50", "adapted_rand_error", "loss"]

MINIMISED = ("adapted_rand_error", "loss")
"""Metrics of which less is better."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is searched."""

    folder: Path
    config: Mapping[str, Any]
    """The configuration that every trial begins with, nested."""
    space: Mapping[str, Range]
    n_trials: int
    metric: Metric
    prune: bool

    @property
    def minimise(self) -> bool:
        """Whether less is better."""
        return self.metric in MINIMISED


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial in the table."""

    number: int
    state: str
    """completed, pruned, failed, interrupted or running."""
    score: float | None
    step: int
    message: str
    settings: Mapping[str, Any]
    folder: Path | None


def create_sweep(
    config: Config,
    space: Mapping[str, Range],
    runs_dir: Path,
    name: str,
    *,
    n_trials: int,
    metric: Metric = "f1_50",
    prune: bool = True,
) -> Sweep:
    """Make the folder of a new sweep, after trying every end of every range.

    Raises
    ------
    DataError
        If nothing varies, a value is not allowed, or the folder cannot be made.
    """
    if not space:
        raise DataError(
            "nothing varies: give a setting a range, for instance "
            "optimization.optimizer.lr=log:1e-4:1e-2"
        )
    tree = _free(config.model_dump(mode="json"), space)
    for key, values in space.items():
        for value in values.ends():
            _check(tree, key, value)
    sweep = Sweep(
        new_folder(runs_dir, name), tree, dict(space), n_trials, metric, prune
    )
    _write(sweep)
    return sweep


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path, n_trials: int | None = None) -> Sweep:
    """Return the sweep of a folder, with another number of trials when given.

    Raises
    ------
    DataError
        If the folder is no sweep, or its file is damaged or of a newer version.
    """
    path = Path(folder).absolute() / SWEEP
    try:
        fields = json.loads(path.read_text("utf-8"))
        if fields["format"] > _FORMAT:
            raise DataError(f"{path} was made by a newer version: update napari-volseg")
        sweep = Sweep(
            folder=path.parent,
            config=build_config(fields["config"], str(path)).model_dump(mode="json"),
            space={k: Range.from_json(v) for k, v in fields["space"].items()},
            n_trials=int(fields["n_trials"] if n_trials is None else n_trials),
            metric=fields["metric"],
            prune=bool(fields["prune"]),
        )
    except OSError as error:
        raise DataError(f"{folder} is no sweep: {error.strerror}: {SWEEP}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}): start a new sweep") from None
    if n_trials is not None:
        _write(sweep)
    return sweep


def trial_config(sweep: Sweep, values: Mapping[str, Any]) -> Config:
    """Return the configuration of a trial.

    Raises
    ------
    DataError
        If the values do not go together.
    """
    return _build(sweep.config, values)


def write_table(sweep: Sweep, rows: Sequence[TrialRow]) -> None:
    """Write all trials into ``trials.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(sweep.space)
    writer.writerow(["trial", "state", sweep.metric, "step", *keys, "run", "message"])
    for row in rows:
        score = "" if row.score is None else f"{row.score:.6g}"
        values = [yaml_text(row.settings.get(key)) for key in keys]
        run = "" if row.folder is None else row.folder.name
        writer.writerow([row.number, row.state, score, row.step, *values, run,
                         row.message])  # fmt: skip
    write_text(sweep.folder / TABLE, text.getvalue())


def write_best(sweep: Sweep, row: TrialRow) -> Path:
    """Write the configuration of the best trial, ready for ``volseg train``."""
    path = sweep.folder / BEST
    write_text(path, dump_config(trial_config(sweep, row.settings)))
    return path


def _write(sweep: Sweep) -> None:
    (sweep.folder / TRIALS).mkdir(mode=0o700, exist_ok=True)
    fields = {
        "format": _FORMAT,
        "config": sweep.config,
        "space": {key: values.to_json() for key, values in sweep.space.items()},
        "n_trials": sweep.n_trials,
        "metric": sweep.metric,
        "prune": sweep.prune,
    }
    write_json(sweep.folder / SWEEP, fields)


def _free(tree: dict[str, Any], space: Mapping[str, Range]) -> dict[str, Any]:
    """Let go of what would only repeat or undo a setting that varies."""
    if "data.patch_size" in space:
        for key in ("input_size", "output_size"):
            if f"model.{key}" not in space:
                tree["model"][key] = None
    automatic = tree.get("automatic")
    if isinstance(automatic, dict) and automatic.get("enabled"):
        automatic["kept"] = sorted({*automatic.get("kept", []), *space})
    return tree


def _check(tree: Mapping[str, Any], key: str, value: Any) -> None:
    try:
        _build(tree, {key: value})
    except DataError as error:
        raise DataError(f"{key} cannot be {yaml_text(value)}: {error}") from None


def _build(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Config:
    overrides = [f"{key}={yaml_text(value)}" for key, value in values.items()]
    return build_config(apply_overrides(tree, overrides), where="the sweep")
