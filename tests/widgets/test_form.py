"""The form shows every configuration and gives it back exactly."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest
from qtpy.QtWidgets import QDoubleSpinBox, QLabel

from napari_volseg.config import Config, build_config, load_config, preset_names
from napari_volseg.errors import DataError
from napari_volseg.widgets.form import TRAIN_SIMPLE, ConfigForm, get, iter_fields, put

SECTIONS = ("data", "augmentation", "model", "optimization", "system", "monitor")


@pytest.fixture
def form(qtbot: Any) -> ConfigForm:
    widget = ConfigForm(TRAIN_SIMPLE, (*SECTIONS, "inference", "instances"))
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_the_form(
    form: ConfigForm, name: str, is_open: bool
) -> None:
    config = load_config(name)
    if is_open:
        form.open_advanced()
    form.set_value(config)
    assert form.config() == config
    assert build_config(form.value()) == config


@pytest.mark.parametrize("key", [key for key, _ in iter_fields(Config)])
def test_every_setting_can_be_edited(form: ConfigForm, key: str) -> None:
    info = dict(iter_fields(Config))[key]
    try:
        field = form.field(key)
    except KeyError:
        assert key.startswith(("automatic.", "data.", "experiment_name", "description"))
        return
    value = _another(key, info.annotation, get(Config().model_dump(mode="json"), key))
    field.set_value(value)
    tree = Config().model_dump(mode="json")
    put(tree, key, value)
    assert form.config() == build_config(tree)


OTHERS: dict[str, Any] = {
    "system.training.gpus": [0, 2],
    "data.pad_size": [1, 2, 3],
    "model.down_factors": [[1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "model.kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "model.input_size": [32, 128, 128],
    "model.output_size": [32, 128, 128],
    "model.initial_weights": "/models/model.safetensors",
    "model.loss.ssim_window": 9,
    "model.loss.perceptual_model": "/models/model.safetensors",
    "optimization.max_minutes": 2.5,
    "optimization.optimizer.weight_decay_end": 1e-5,
    "optimization.scaler.growth_factor": 4.0,
    "optimization.scheduler.stages": [[3, 0.001], [2, 0.0005]],
    "inference.window_size": [8, 16, 16],
}


def _another(key: str, kind: Any, default: Any) -> Any:
    """Return a valid value that is not the default, where there is another."""
    if key in OTHERS:
        return OTHERS[key]
    if kind is bool:
        return not default
    if default is None:
        return 0.125
    if isinstance(default, str):
        return get_args(kind)[-1] if get_origin(kind) else f"{default}!"
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 if default else 0.125
    if isinstance(default, dict):
        return {"mse": 0.5, "ssim": 1.0}
    return [*default[:-1], default[-1] / 2 if default[-1] < 1 else default[-1] + 1]


def test_defaults_are_no_settings(form: ConfigForm) -> None:
    form.set_value(Config())
    form.open_advanced()
    assert form.value() == {}


def test_an_edit_is_announced_and_kept(form: ConfigForm, qtbot: Any) -> None:
    field = form.field("system.training.batch_size")
    with qtbot.waitSignal(form.changed, timeout=60_000):
        field.native.setText("7")
    assert form.value() == {"system": {"training": {"batch_size": 7}}}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("data.patch_size", "32, x, 128"),
        ("data.patch_size", "[32"),
        ("optimization.optimizer.lr", "2"),
        ("optimization.max_minutes", "-1"),
    ],
)
def test_a_bad_setting_is_named(form: ConfigForm, key: str, text: str) -> None:
    form.field(key).native.setText(text)
    with pytest.raises(DataError, match=key.replace(".", r"\.")):
        form.config()


@pytest.mark.parametrize("text", ["1:30", "2026-01-02", "run #2"])
def test_text_stays_text_as_on_the_command_line(form: ConfigForm, text: str) -> None:
    form.open_advanced()
    form.field("optimization.max_minutes").native.setText(text)
    with pytest.raises(DataError, match=f"max_minutes.*{text}"):
        form.config()


def test_nothing_typed_means_not_set(form: ConfigForm) -> None:
    form.set_value({"optimization": {"max_minutes": 5}})
    form.field("optimization.max_minutes").native.clear()
    assert form.config().optimization.max_minutes is None


def test_bounds_and_help_come_from_the_models(form: ConfigForm) -> None:
    form.open_advanced()
    foreground = form.field("data.foreground").native
    assert isinstance(foreground, QDoubleSpinBox)
    assert (foreground.minimum(), foreground.maximum()) == (0, 1)
    workers = form.field("system.training.num_workers").native
    assert (workers.minimum(), workers.maximum()) == (0, 64)
    for key, info in iter_fields(Config):
        if key in form._fields:
            assert form.field(key).native.toolTip() == info.description


def test_the_simple_view_has_at_most_eight_settings(form: ConfigForm) -> None:
    labels = {label.text() for label in form.findChildren(QLabel)}
    assert labels == set(TRAIN_SIMPLE.values())
    assert len(labels) <= 8


def test_what_is_edited_is_kept_from_an_automatic_configuration(
    form: ConfigForm,
) -> None:
    form.set_value(load_config("auto"))
    assert "data.patch_size" not in form.config().automatic.kept
    form.field("data.patch_size").set_value([8, 64, 64])
    form.field("optimization.max_minutes").set_value(7.0)
    config = form.config()
    assert config.automatic.enabled
    assert {"data.patch_size", "optimization.max_minutes"} <= set(config.automatic.kept)
    assert "system.training.batch_size" not in config.automatic.kept
