"""What a training would do, shown before it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_volseg.widgets.messages import sentence, wrapped_label

__all__ = ["PlanView", "choice_words", "plan_words"]


class PlanView(QWidget):
    """Device, memory, patch and batch; every derived setting with its reason."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.headline = wrapped_label("")
        self.notices = wrapped_label("")
        self.reasons = wrapped_label("")
        self.fold = QCollapsible("Why these settings")
        self.fold.setDuration(0)
        self.fold.setToolTip("Settings chosen from the data, each with its reason")
        self.fold.addWidget(self.reasons)
        self.fold.toggled.connect(self._tell_reasons)
        self._reasons = ""
        for outer in (self.fold, self.fold.content()):
            margins = outer.layout()
            if margins is not None:
                margins.setContentsMargins(0, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.headline, self.notices, self.fold):
            layout.addWidget(widget)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self.hide()

    def show_asked(self) -> None:
        """Say that a plan is being made, unless an older one can stay meanwhile."""
        if self.isHidden():
            self._show("Working out memory and settings…", (), ())
        else:
            self.headline.setText(f"{self.headline.text().removesuffix(' …')} …")

    def show_plan(self, plan: Mapping[str, Any]) -> None:
        """Show a plan, as `planner.Planner` tells it."""
        choices = plan.get("choices") or ()
        self._show(plan_words(plan), plan.get("notices") or (), choices)

    def show_refusal(self, message: str) -> None:
        """Show why training would be refused."""
        self._show(f"{sentence(message)}.", (), ())

    def _show(
        self,
        headline: str,
        notices: Sequence[str],
        choices: Sequence[Mapping[str, Any]],
    ) -> None:
        self.headline.setText(headline)
        self.notices.setText("\n".join(notices))
        self.notices.setVisible(bool(notices))
        lines = [choice_words(choice) for choice in choices]
        self._reasons = "".join(f"<p>{line}</p>" for line in lines)
        self._tell_reasons(self.fold.isExpanded())
        self.fold.setText(f"Why these settings ({len(lines)})")
        self.fold.setVisible(bool(lines))
        self.show()

    def _tell_reasons(self, is_open: bool) -> None:
        """Show the reasons where they are seen: laying out long text takes long."""
        self.reasons.setText(self._reasons if is_open else "")


def plan_words(plan: Mapping[str, Any]) -> str:
    """Return device, memory, patch, batch and network in two lines."""
    config: Mapping[str, Any] = plan.get("config") or {}
    need, free = (
        f"{plan[key] / 1e9:.1f}" if key in plan else "?"
        for key in ("memory_bytes", "free_bytes")
    )
    patch = " × ".join(str(edge) for edge in plan["patch_size"])
    device = "{device} ({precision})".format(**plan["compute"])
    first = f"{device} · {need} of {free} GB free memory"
    second = [f"patch {patch}"]
    if config:
        second.append(f"batch {config['system']['training']['batch_size']}")
        second.append(str(config["model"]["architecture"]))
    second.append(f"{plan['steps_per_epoch']} steps an epoch")
    return f"{first}\n{' · '.join(second)}"


def choice_words(choice: Mapping[str, Any]) -> str:
    """Return a derived setting, its value and the reason, as rich text."""
    value = choice["value"]
    shown = value if isinstance(value, str) else json.dumps(value)
    name = str(choice["setting"]).replace("_", " ").replace(".", " · ")
    return (
        f"<b>{escape(name[:1].upper() + name[1:])}</b>: {escape(str(shown))}<br>"
        f"{escape(str(choice['reason']))}"
    )
