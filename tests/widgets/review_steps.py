"""What tests of a review do again and again."""

from __future__ import annotations

from typing import Any

from napari.utils.key_bindings import KeymapHandler

from napari_volseg.widgets.review import ReviewWidget


def settle(dock: ReviewWidget, qtbot: Any) -> None:
    """Wait until nothing is computed and the table is true."""

    def is_settled() -> bool:
        reviewing = dock._reviewing
        return reviewing is not None and not (
            reviewing.busy or reviewing.review.pending or reviewing._is_measuring
        )

    qtbot.waitUntil(is_settled, timeout=60_000)


def type_key(viewer: Any, key: str) -> None:
    """Press a key on the canvas."""
    handler = KeymapHandler()
    active = viewer.layers.selection.active
    providers = [active, viewer] if active is not None else [viewer]
    handler.keymap_providers = [getattr(p, "__wrapped__", p) for p in providers]
    assert handler.press_key(key)
