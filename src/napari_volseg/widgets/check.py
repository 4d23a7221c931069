"""The Check dock: what is wrong with an annotation, and where."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QWidget

from napari_volseg.errors import DataError
from napari_volseg.widgets.actions import register_context_menu
from napari_volseg.widgets.checking import Checked, check, mend
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.findingstable import TO_MEND, FindingsTable
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.helper import Cancelled
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.messages import (
    MessageLine,
    explain,
    primary_button,
    scrolled,
    sentence,
    wrapped_label,
)
from napari_volseg.widgets.outputs import add_layer
from napari_volseg.widgets.pairs import AnnotatedChooser
from napari_volseg.widgets.snapshots import (
    capture_pair,
    lock_layers,
    own_rule,
    own_words,
)
from napari_volseg.widgets.threads import make_worker
from napari_volseg.widgets.viewers import look_at

if TYPE_CHECKING:
    import napari

__all__ = ["CheckWidget"]


class _Task:
    """Shared with a thread: whether anybody still waits for it."""

    def __init__(self) -> None:
        self.is_cancelled = False


class CheckWidget(QWidget):
    """Check the labels of an image and mend them on a copy."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._task: _Task | None = None
        self._checked: Checked | None = None
        self._pair: tuple[Image, Labels] | None = None
        self._is_stale = False
        self._watched = Connections(self)
        self._open: dict[str, Any] = {"task": None, "checked": None}
        self._make_widgets()
        self._lay_out()
        self._connect()
        register_context_menu()
        self._tidy()

    def _make_widgets(self) -> None:
        self.image = LayerCombo(self._viewer, (Image,))
        self.image.setToolTip("The image layer that was annotated")
        self.labels = LayerCombo(self._viewer, (Labels,))
        self.labels.setToolTip("The labels layer to check")
        self.annotated = AnnotatedChooser(self._viewer)
        self.check = primary_button("Check")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("End the check")
        self.summary = wrapped_label("")
        self.kind = fit_narrow(QComboBox())
        self.kind.setToolTip("Which findings are listed")
        self.table = FindingsTable()
        self.table.setToolTip("Click a line to go to what was found")
        self.detail = wrapped_label("")
        self.mend_chosen = QPushButton("Mend selected")
        self.mend_listed = QPushButton("Mend all listed")
        self.message = MessageLine()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        rows = narrow_form()
        add_row(rows, "Image", self.image)
        add_row(rows, "Labels", self.labels)
        page.addLayout(rows)
        for part in (self.annotated, self.check, self.cancel, self.summary):
            page.addWidget(part)
        filters = narrow_form()
        add_row(filters, "Show", self.kind)
        page.addLayout(filters)
        page.addWidget(self.table, 1)
        page.addWidget(self.detail)
        buttons = QHBoxLayout()
        buttons.addWidget(self.mend_chosen)
        buttons.addWidget(self.mend_listed)
        page.addLayout(buttons)
        page.addWidget(self.message)
        page.addWidget(self.next)

    def _connect(self) -> None:
        self.check.clicked.connect(self.start)
        self.cancel.clicked.connect(self._cancel)
        self.kind.currentIndexChanged.connect(self._filter)
        self.mend_chosen.clicked.connect(self._mend_chosen)
        self.mend_listed.clicked.connect(self._mend_listed)
        selection = self.table.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(self._jump)
        self.image.layer_changed.connect(self._tidy)
        self.labels.layer_changed.connect(self._tidy)
        self.annotated.changed.connect(self._tidy)
        self.destroyed.connect(partial(_let_go, self._open))

    def start(self) -> None:
        """Check the chosen layers; does nothing while a check runs."""
        if self._task is not None:
            return
        try:
            image, labels = self._layers()
            annotated = own_rule(labels) or self.annotated.value()
            snapshot = capture_pair(image, labels, annotated)
        except DataError as error:
            self.message.show_error(str(error))
            return
        self._forget()
        self._pair = plain(image), plain(labels)
        self._watch(plain(labels))
        unlock = lock_layers([snapshot])
        self._run(lambda stop: check(snapshot, stop), self._show, unlock)
        self.summary.setText("Checking… You can go on painting.")

    def set_pair(self, image: Any, labels: Any) -> None:
        """Choose what to check."""
        self.image.set_layer(image)
        self.labels.set_layer(labels)

    def _layers(self) -> tuple[Image, Labels]:
        image, labels = self.image.layer(), self.labels.layer()
        if image is None:
            raise DataError("there is no image: open a volume")
        if labels is None:
            raise DataError("there are no labels: add a labels layer and paint")
        return image, labels

    def _run(
        self,
        work: Callable[[Callable[[], bool]], Any],
        take: Callable[[Any], None],
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        """Do work in a thread and take its result here, unless it is cancelled."""
        task = self._task = self._open["task"] = _Task()
        self.message.clear()

        def end(result: Any = None, error: str = "") -> None:
            finish()
            if task.is_cancelled:
                if isinstance(result, Checked):
                    result.remove()
                return
            self._task = self._open["task"] = None
            if error:
                self.message.show_error(error)
            elif result is not None:
                take(result)
            self._tidy()

        worker = make_worker(_guarded, partial(work, lambda: task.is_cancelled))
        worker.returned.connect(lambda answer: end(*answer))
        worker.errored.connect(lambda error: end(None, str(error)))
        worker.start()
        self._tidy()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.is_cancelled = True
            self._task = self._open["task"] = None
            self.summary.setText("The check was cancelled.")
            self._tidy()

    def _show(self, checked: Checked) -> None:
        self._checked = self._open["checked"] = checked
        self.table.set_findings(checked.findings)
        self.summary.setText(f"{sentence(checked.summary)}.")
        self._list_kinds()

    def _list_kinds(self) -> None:
        counts = self.table.counts()
        self.kind.blockSignals(True)
        self.kind.clear()
        self.kind.addItem(f"to mend ({counts.pop(TO_MEND)})", TO_MEND)
        self.kind.addItem(f"everything ({counts.total()})", "")
        for kind, count in counts.items():
            self.kind.addItem(f"{kind} ({count})", kind)
        self.kind.blockSignals(False)
        self._filter()

    def _filter(self, *_: object) -> None:
        self.table.show_kind(self.kind.currentData() or "")
        self._tidy()

    def _jump(self, *_: object) -> None:
        """Go to the finding that was chosen and select its label."""
        row = self.table.current()
        if row is None or self._checked is None or self._pair is None:
            self._tidy()
            return
        finding = self._checked.findings[row]
        fix = f" To mend it: {finding['fix']}." if finding["fix"] else ""
        self.detail.setText(f"{sentence(finding['message'])}.{fix}")
        image, labels = self._pair
        layer = labels if labels in self._viewer.layers else image
        if layer in self._viewer.layers:
            look_at(self._viewer, layer, finding["position"])
        if labels in self._viewer.layers:
            self._viewer.layers.selection.active = labels
            if finding["label"]:
                labels.selected_label = finding["label"]
        self._tidy()

    def _mend_chosen(self) -> None:
        self._mend(self.table.chosen())

    def _mend_listed(self) -> None:
        self._mend(self.table.listed())

    def _mend(self, rows: list[int]) -> None:
        checked, pair = self._checked, self._pair
        if checked is None or pair is None or self._task is not None:
            return
        rows = [row for row in rows if checked.findings[row]["fix"]]
        place, name = placement(pair[1]), str(pair[1].name)
        said, data = own_words(pair[1]), pair[1].data

        def work(stop: Callable[[], bool]) -> tuple[Labels, int]:
            mended_ZYX, n_fixed = mend(checked, data, rows, stop)
            options = place.layer_options() | {"metadata": said}
            layer = Labels(mended_ZYX, name=f"{name} (checked)", **options)
            return layer, n_fixed

        self._run(work, self._add_mended)

    def _add_mended(self, result: tuple[Labels, int]) -> None:
        layer, n_fixed = result
        add_layer(self._viewer, layer)
        assert self._pair is not None
        image, labels = self._pair
        if labels in self._viewer.layers:
            labels.visible = False
        # The list is of labels from before: another mending would lose this one.
        self._pair, self._is_stale = (image, layer), True
        self.labels.set_layer(layer)
        self.message.show_text(
            f"{n_fixed} mended in the new layer '{layer.name}'; yours is as it was."
        )

    def _watch(self, labels: Labels) -> None:
        self._is_stale = False
        self._watched.close()
        for name in ("paint", "data"):
            self._watched.add(getattr(labels.events, name), self._outdate)

    def _outdate(self, event: object = None) -> None:
        if not self._is_stale:
            self._is_stale = True
            self._tidy()

    def _forget(self) -> None:
        """Drop what an earlier check found."""
        if self._checked is not None:
            self._checked.remove()
        self._checked = self._open["checked"] = None
        self.table.set_findings(())
        self.detail.clear()
        self._list_kinds()

    def _tidy(self, *_: object) -> None:
        is_running = self._task is not None
        has_pair = self.image.layer() is not None and self.labels.layer() is not None
        explain(
            self.check,
            "Look for mistakes; nothing is changed",
            "There is no image with labels: open a volume and paint" * (not has_pair)
            or "A check is running" * is_running,
        )
        self.cancel.setVisible(is_running)
        findings = [] if self._checked is None else self._checked.findings
        for button, what, rows in (
            (self.mend_chosen, "the selected findings", self.table.chosen()),
            (self.mend_listed, "everything in the list", self.table.listed()),
        ):
            can_mend = any(findings[row]["fix"] for row in rows)
            explain(
                button,
                f"Mend {what} in a new labels layer; yours stays as it is",
                "Press Check first" * (self._checked is None)
                or "A check or mending is running" * is_running
                or "The labels changed: press Check again" * self._is_stale
                or f"Nothing of {what} can be mended by itself" * (not can_mend),
            )
        for part in (self.kind, self.table):
            part.setEnabled(bool(findings))
        self.next.setText(_next_words(has_pair, self._checked, self._is_stale))


def _next_words(has_pair: bool, checked: Checked | None, is_stale: bool) -> str:
    if not has_pair:
        return "What next? Open a volume and paint some objects in a labels layer."
    if checked is None:
        return "What next? Press Check; nothing of yours is changed."
    if is_stale:
        return "What next? The labels changed since the check: press Check again."
    if all(finding["severity"] == "info" for finding in checked.findings):
        return "What next? Train, in VolSeg › Train."
    return (
        "What next? Click a line to go there; paint, or mend it in a copy and train on "
        "that."
    )


def _guarded(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return a result, or what the user can mend."""
    try:
        return work(), ""
    except DataError as error:
        return None, str(error)
    except Cancelled:
        return None, ""


def _let_go(opened: dict[str, Any], *_: object) -> None:
    """End what runs and remove files when the dock is gone."""
    if opened["task"] is not None:
        opened["task"].is_cancelled = True
    if opened["checked"] is not None:
        opened["checked"].remove()
