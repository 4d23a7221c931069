"""Runs that several processes train, on one small volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from napari_volseg.config import apply_overrides, build_config
from napari_volseg.runs import TrainingPair, create_run


@pytest.fixture
def make_run(tmp_path: Path, tiny_config, make_cells) -> Callable[..., Path]:
    """Return a factory of run folders: group norm, settings on top."""

    def make(*overrides: str, name: str = "run") -> Path:
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"),
            [
                "model.rsunet_norm=group",
                "data.val_fraction=0",
                "data.iter_num_per_epoch=12",
                *overrides,
            ],
        )
        pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
        return create_run(build_config(tree), pairs, tmp_path / "runs", name)

    return make
