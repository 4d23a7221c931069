"""The Review dock: one instance after the other, accepted or corrected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_volseg.errors import DataError
from napari_volseg.review import History
from napari_volseg.widgets.corrections import train_on_corrections
from napari_volseg.widgets.drawing import DrawButton, box_around, ids_inside
from napari_volseg.widgets.keys import Keys
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.messages import explain
from napari_volseg.widgets.reviewbuttons import KEYS
from napari_volseg.widgets.reviewexport import export_surfaces, export_table
from napari_volseg.widgets.reviewing import Reviewing
from napari_volseg.widgets.reviewopening import Opened
from napari_volseg.widgets.reviewpage import ReviewPage
from napari_volseg.widgets.viewers import look_at

if TYPE_CHECKING:
    import napari

__all__ = ["ReviewWidget"]


_NEXT = {
    "empty": "What next? Predict a volume, then review its instances here.",
    "ready": "What next? Press Review; layers that are yours are copied first.",
    "first": "What next? Press N for the first doubtful instance, then A or R.",
    "on": "What next? Go on with N; what you accept and correct can be trained on.",
}


class ReviewWidget(ReviewPage):
    """Go through instances and correct them."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self._reviewing: Reviewing | None = None
        self._actions = self._make_actions()
        self._keys = Keys(
            self, {key: self._actions[name] for key, name in KEYS.items()}
        )
        strokes = {
            "Control-Z": partial(self._with, Reviewing.undo_stroke),
            "Control-Shift-Z": partial(self._with, Reviewing.redo_stroke),
        }
        self._stroke_keys = Keys(self, strokes)
        self._make_widgets()
        self._lay_out()
        self._connect()
        self._tidy()

    def _make_actions(self) -> dict[str, Callable[[], None]]:
        """Return what buttons and keys do."""
        return {
            "previous": partial(self._step, -1),
            "next": partial(self._step, 1),
            "accept": partial(self._say, "accepted"),
            "reject": partial(self._say, "rejected"),
            "merge": self._merge,
            "split": self._split,
            "delete": self._delete,
            "undo": partial(self._with, Reviewing.undo),
            "redo": partial(self._with, Reviewing.redo),
        }

    def _connect(self) -> None:
        self.begin.clicked.connect(self.start)
        self.labels.layer_changed.connect(self._change_layer)
        self.table.chosen_changed.connect(self._jump)
        self.filter.changed.connect(self._list)
        self.alone.toggled.connect(self._show_alone)
        self.buttons.pressed.connect(lambda name: self._actions[name]())
        for button in (self.lasso, self.reshape.box):
            button.clicked.connect(partial(self._draw, button))
            button.told.connect(self.message.show_text)
        self.lasso.drawn.connect(self._choose_inside)
        self.reshape.box.drawn.connect(self._segment_box)
        self.splitter.ready.connect(self._split_with)
        self.splitter.told.connect(self.message.show_text)
        self.splitter.changed.connect(self._tidy)
        self.reshape.asked.connect(self._reshape)
        self.reshape.segment_asked.connect(self._segment)
        self.train.clicked.connect(self._train)
        self.starter.opened.connect(self._take)
        self.starter.copied.connect(self.labels.set_layer)
        self.starter.told.connect(self.message.show_text)
        self.starter.failed.connect(self.message.show_error)
        self.starter.changed.connect(self._tidy)
        self.files.save_asked.connect(partial(self._with, Reviewing.save))
        self.files.table_asked.connect(self._write_table)
        self.files.surfaces_asked.connect(self._write_surfaces)
        self.destroyed.connect(self._helper.close)

    def start(self) -> None:
        """Begin, or take up, the review of the chosen layer."""
        layer = plain(self.labels.layer())
        if layer is not None and self._reviewing is None:
            self.message.clear()
            self.starter.start(layer)

    def _take(self, layer: Labels, opened: Opened) -> None:
        self._reviewing = reviewing = Reviewing(layer, opened, self._helper, self)
        if plain(self.labels.layer()) is not layer:
            self._leave()  # another one was chosen meanwhile
            layer.refresh()
            return
        reviewing.changed.connect(self._list)
        reviewing.busy_changed.connect(self._tidy)
        reviewing.failed.connect(self.message.show_error)
        reviewing.told.connect(self.message.show_text)
        reviewing.outdated.connect(self._leave_old_data)
        self.destroyed.connect(reviewing.close)
        self._keys.bind(plain(self._viewer))
        self._keys.bind(layer)
        self._stroke_keys.bind(layer)
        if self._pick not in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.append(self._pick)
        layer.refresh()
        self._viewer.layers.selection.active = layer
        self.message.show_text(opened.message)
        self.table.sort_by("doubt", descending=True)
        self._list()

    def _change_layer(self, *_: object) -> None:
        reviewing = self._reviewing
        if reviewing is not None and plain(self.labels.layer()) is not reviewing.layer:
            self._leave()
        self._tidy()

    def _leave(self) -> None:
        """Save and let go of the layer; its review can be taken up again."""
        reviewing, self._reviewing = self._reviewing, None
        if reviewing is None:
            return
        self.splitter.cancel()
        self.lasso.cancel()
        self.reshape.box.cancel()
        self._keys.unbind()
        self._stroke_keys.unbind()
        if self._pick in reviewing.layer.mouse_drag_callbacks:
            reviewing.layer.mouse_drag_callbacks.remove(self._pick)
        reviewing.close()
        reviewing.deleteLater()
        self._tidy()

    def _leave_old_data(self) -> None:
        """Say why the review is over: often because thresholds were moved."""
        self._leave()
        self.message.show_text(
            "The layer got other labels, so the review of the old ones is over; it "
            "goes on where they are shown again. Press Review to begin anew."
        )

    def _list(self, *_: object) -> None:
        """Show the rows that the filters let through."""
        reviewing = self._reviewing
        if reviewing is None:
            return
        table = {**reviewing.review.table, "status": reviewing.review.statuses()}
        self.table.set_table(table, self.filter.listed(table))
        status = table["status"]
        n_doubtful = int(np.count_nonzero(self.filter.doubtful(table)))
        n_done = int(np.count_nonzero(status != "todo"))
        n = len(status)
        self.summary.setText(
            f"{n:,} instances · {n_doubtful:,} doubtful · {n_done:,} done"
        )
        self.bar.setMaximum(max(n, 1))
        self.bar.setValue(n_done)
        self._tidy()

    def _jump(self) -> None:
        """Go to the instance that was chosen."""
        reviewing, ids = self._reviewing, self.table.chosen()
        if reviewing is not None and ids:
            row = reviewing.review.row_of(ids[-1])
            if row is not None and reviewing.layer in self._viewer.layers:
                table = reviewing.review.table
                z, y, x = (round(float(table[axis][row])) for axis in "zyx")
                look_at(self._viewer, reviewing.layer, (z, y, x))
                reviewing.layer.selected_label = ids[-1]
        self._tidy()

    def _pick(self, layer: Any, event: Any) -> Any:
        """Choose the instance that is clicked, one more with Shift."""
        if event.button != 1 or str(layer.mode) != "pan_zoom":
            return
        yield
        if event.type == "mouse_move":
            return  # the view was dragged
        # In 3D the first instance along the line of sight.
        found = layer.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=event.dims_displayed,
            world=True,
        )
        if self._reviewing is not None and found:
            more = self.table.chosen() if "Shift" in event.modifiers else []
            self.table.choose([*more, int(found)])
            layer.selected_label = int(found)
            self._tidy()

    def _step(self, direction: int) -> None:
        """Go to the next or previous doubtful instance, in the order of the table."""
        reviewing = self._reviewing
        if reviewing is None:
            return
        table = {**reviewing.review.table, "status": reviewing.review.statuses()}
        doubtful = set(table["index"][self.filter.doubtful(table)].tolist())
        listed = self.table.listed()
        chosen = self.table.chosen()
        start = listed.index(chosen[-1]) if chosen else -1 if direction > 0 else 0
        order = range(1, len(listed) + 1)
        for n in order:
            label = listed[(start + direction * n) % len(listed)]
            if label in doubtful:
                self.table.choose([label])
                self._jump()
                return
        self.message.show_text("No listed instance is doubtful any more.")

    def _say(self, status: str) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None and ids:
            self._reviewing.say(ids, status)

    def _merge(self) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None:
            self._reviewing.merge(ids)

    def _delete(self) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None and ids:
            self._reviewing.delete(ids)

    def _split(self) -> None:
        ids = self.table.chosen()
        if self._reviewing is None:
            return
        if self.splitter.is_active:
            self.splitter.finish()
        elif len(ids) == 1:
            self.splitter.begin(self._reviewing.layer, ids[0])
        else:
            self.message.show_error("choose one instance to split")

    def _split_with(self, label: int, marks: dict[str, Any]) -> None:
        if self._reviewing is not None:
            dims = self._viewer.dims
            hidden = [axis - (dims.ndim - 3) for axis in dims.not_displayed]
            self._reviewing.split(label, hidden, **marks)

    def _with(self, do: Callable[[Reviewing], None]) -> None:
        if self._reviewing is not None:
            do(self._reviewing)

    def _reshape(self, kind: str) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None and ids:
            threshold, reach = (
                self.reshape.threshold.value(),
                self.reshape.reach.value(),
            )
            self._reviewing.reshape(kind, ids, threshold, reach)

    def _segment(self) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None and ids:
            self._reviewing.segment(
                ids, self.reshape.margin.value(), self.reshape.thresholds.value()
            )

    def _segment_box(self, corners_N3: Any) -> None:
        reviewing = self._reviewing
        if reviewing is None:
            return
        depth, shape = self.reshape.margin.value(), reviewing.layer.data.shape
        try:
            box = box_around(corners_N3, depth, shape)
        except DataError as error:
            self.message.show_error(str(error))
            return
        reviewing.segment_box(box, self.reshape.thresholds.value())

    def _write_table(self, path: str) -> None:
        if self._reviewing is not None:
            say = self.message.show_text, self.message.show_error
            export_table(self._reviewing, Path(path), *say)

    def _write_surfaces(self, path: str) -> None:
        ids = self.table.chosen()
        if self._reviewing is not None and ids:
            say = self.message.show_text, self.message.show_error
            export_surfaces(self._reviewing, self._helper, ids, Path(path), *say)

    def _train(self) -> None:
        """Hand what was accepted and corrected to the Train dock."""
        if self._reviewing is not None:
            say = self.message.show_text, self.message.show_error
            train_on_corrections(self._viewer, self._reviewing, self._helper, *say)

    def _draw(self, button: DrawButton, is_down: bool) -> None:
        if is_down and self._reviewing is not None:
            button.begin(self._reviewing.layer)
        else:
            button.cancel()

    def _choose_inside(self, corners_N3: Any) -> None:
        if self._reviewing is not None:
            self.table.choose(ids_inside(self._reviewing.layer.data, corners_N3))
            self._tidy()

    def _show_alone(self, is_alone: bool) -> None:
        if self._reviewing is not None:
            self._reviewing.layer.show_selected_label = is_alone

    def _tidy(self, *_: object) -> None:
        """Enable what can be pressed, and say why the rest cannot."""
        reviewing, layer = self._reviewing, self.labels.layer()
        explain(
            self.begin,
            "Measure every instance and list them, the doubtful ones first",
            "There are no labels: predict a volume first" * (layer is None)
            or "Reading…" * self.starter.is_busy,
        )
        self.begin.setVisible(reviewing is None)
        self.body.setVisible(reviewing is not None)
        n = len(self.table.chosen())
        wait = "Press Review first" * (reviewing is None)
        if reviewing is not None and reviewing.busy:
            wait = f"Wait: {reviewing.busy} is at work"
        history = History() if reviewing is None else reviewing.review.history
        self.buttons.tidy(n, wait, history, is_splitting=self.splitter.is_active)
        has_maps = reviewing is not None and reviewing.maps is not None
        self.reshape.tidy(wait, n, has_maps=has_maps)
        self.files.tidy(
            n,
            wait,
            is_saved=reviewing is None or reviewing.is_saved,
            unsaved="" if reviewing is None else reviewing.unsaved_because,
        )
        has_lesson = reviewing is not None and bool(reviewing.review.accepted())
        explain(
            self.train,
            "Open the Train dock with what you accepted and corrected as one more pair",
            wait or "Accept or correct some instances first" * (not has_lesson),
        )
        explain(self.lasso, "Choose several instances by drawing around them", wait)
        if reviewing is None:
            self.next.setText(_NEXT["empty" if layer is None else "ready"])
        else:
            self.next.setText(self._next_words(reviewing))

    def _next_words(self, reviewing: Reviewing) -> str:
        if reviewing.busy:
            return f"{reviewing.busy[:1].upper()}{reviewing.busy[1:]}…"
        return _NEXT["on" if self.bar.value() else "first"]
