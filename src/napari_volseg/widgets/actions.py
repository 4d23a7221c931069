"""Commands that are not docks: predict with one click, open a dock."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from app_model import Application
from app_model.types import Action, MenuRule
from napari.layers import Image
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QDockWidget

from napari_volseg.widgets.layers import plain

if TYPE_CHECKING:
    import napari

__all__ = [
    "PREDICT_COMMAND",
    "PREDICT_KEY",
    "bind_key",
    "open_dock",
    "predict_newest",
    "register_context_menu",
]

_DOCKS = {
    "Train": ("train", "TrainWidget"),
    "Predict": ("predict", "PredictWidget"),
    "Inspect": ("inspect", "InspectWidget"),
    "Review": ("review", "ReviewWidget"),
    "Evaluate": ("evaluate", "EvaluateWidget"),
    "Check": ("check", "CheckWidget"),
    "Runs": ("runs", "RunsWidget"),
}
PREDICT_COMMAND = "napari-volseg.predict_newest"
PREDICT_KEY = "Alt-P"
"""Predicts the selected image layer, once a dock of this plugin was opened."""


def predict_newest(viewer: napari.viewer.Viewer) -> None:
    """Predict the selected image layer in the Predict dock, as before or newly.

    An image that was predicted before is predicted with the same model and settings,
    another one with the newest model.
    """
    dock = open_dock(viewer, "Predict")
    dock.predict_selected()


def open_dock(viewer: Any, name: str) -> Any:
    """Open a dock of this plugin, or show it when it is open; return its widget.

    The dock has the name that napari gives it when it is opened from the menu,
    so that the two are the same.
    """
    title = f"{name} (VolSeg)"
    widget = viewer.window.dock_widgets.get(title)
    if widget is None:
        module, kind = _DOCKS[name]
        widget = getattr(import_module(f"napari_volseg.widgets.{module}"), kind)(viewer)
        viewer.window.add_dock_widget(widget, name=title, area="right", tabify=True)
    dock = widget.parentWidget()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    if dock is not None:
        dock.show()
        dock.raise_()
    return widget


def bind_key(viewer: Any) -> None:
    """Let a key predict the selected image layer; a key the user bound stays theirs."""
    viewer = plain(viewer)
    if not any(str(key) == PREDICT_KEY.replace("-", "+") for key in viewer.keymap):
        viewer.bind_key(PREDICT_KEY, _press)


def _press(viewer: Any) -> None:
    if isinstance(plain(viewer.layers.selection.active), Image):
        predict_newest(viewer)
    else:
        show_info("Select an image layer first: this key predicts it")


def register_context_menu(application: Application | None = None) -> None:
    """Offer one-click prediction in the context menu of the layer list.

    napari 0.9 ignores that menu in manifests, so it is added when the plugin
    is first used. Calling it again changes nothing.
    """
    app = application or Application.get_app("napari")
    command = f"{PREDICT_COMMAND}.context"
    if app is None or command in app.commands:
        return
    app.register_action(
        Action(
            id=command,
            title="Predict with the newest VolSeg model",
            callback=predict_newest,
            enablement="num_selected_image_layers == 1",
            menus=[MenuRule(id="napari/layers/context", group="5_split_merge")],
            palette=False,
        )
    )
