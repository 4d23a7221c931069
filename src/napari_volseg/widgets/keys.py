"""Keys of a dock, on its viewer and on the layer it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtWidgets import QWidget

__all__ = ["Keys"]


class Keys:
    """Keys that call functions until they are unbound or their widget dies.

    A layer's own keys come before those of the viewer, so the keys are bound on
    the layers that the dock works on as well. What was bound there before comes
    back afterwards.
    """

    def __init__(self, widget: QWidget, calls: Mapping[str, Callable[[], Any]]) -> None:
        self._calls = dict(calls)
        self._bound: list[tuple[Any, dict[Any, Any], dict[Any, Any]]] = []
        widget.destroyed.connect(lambda *_: self.unbind())

    def bind(self, provider: Any) -> None:
        """Bind the keys on a viewer or a layer."""
        before = dict(provider.keymap)
        for key, call in self._calls.items():
            provider.bind_key(key, _of_provider(call), overwrite=True)
        ours = {k: v for k, v in provider.keymap.items() if before.get(k) is not v}
        self._bound.append((provider, ours, before))

    def unbind(self, only: Any = None) -> None:
        """Take the keys away, from one layer or from all; harmless when repeated."""
        bound = self._bound
        self._bound = [b for b in bound if only is not None and b[0] is not only]
        for provider, ours, before in bound:
            if only is not None and provider is not only:
                continue
            for key, call in ours.items():
                if provider.keymap.get(key) is not call:
                    continue  # somebody bound it anew
                if key in before:
                    provider.keymap[key] = before[key]
                else:
                    del provider.keymap[key]


def _of_provider(call: Callable[[], Any]) -> Callable[[Any], None]:
    def pressed(provider: Any) -> None:
        call()

    return pressed
