"""No setting of data and augmentation is offered and then ignored."""

import re
from pathlib import Path

import pytest

import napari_volseg
from napari_volseg.config import AugmentationConfig, DataConfig, TargetsConfig

SOURCE = Path(napari_volseg.__file__).parent


@pytest.fixture(scope="module")
def code():
    """Everything that could read a setting; not where settings are declared."""
    files = [
        path
        for path in SOURCE.rglob("*.py")
        if not {"config", "widgets"} & set(path.relative_to(SOURCE).parts)
    ]
    return "\n".join(path.read_text("utf-8") for path in files)


@pytest.mark.parametrize("key", [*DataConfig.model_fields, *TargetsConfig.model_fields])
def test_every_setting_of_the_data_is_read(code, key):
    # Sources of volumes are read by role too: train_image as data.{role}_image.
    names = {key, key.replace("train_", "{role}_").replace("val_", "{role}_")}
    assert any(re.search(rf"[.\"]({re.escape(name)})\b", code) for name in names)


@pytest.mark.parametrize("key", AugmentationConfig.model_fields)
def test_every_change_of_a_patch_is_made(code, key):
    assert key == "preset" or f'chances["{key}"]' in code
