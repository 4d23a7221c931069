"""A table of instances that stays quick with a hundred thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    Qt,
    Signal,
)
from qtpy.QtWidgets import QAbstractItemView, QTableView, QWidget

__all__ = ["Column", "InstanceTable"]

Table = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """A column of the table that is shown."""

    key: str
    """In the columns of the table."""
    title: str
    tip: str
    words: Callable[[Any], str] = str
    width: int = 62


class _Model(QAbstractTableModel):
    """Some rows of the columns, in some order; sorting is numpy's."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        super().__init__()
        self.columns = columns
        self.table: Table = {column.key: np.zeros(0) for column in columns}
        self.rows = np.zeros(0, np.int64)
        """Rows of the table that are listed, in the order of the view."""
        self.listed: NDArray[np.bool_] | None = None
        self.sorted_by: tuple[int, bool] = (-1, False)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return len(self.columns)

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        if orientation == Qt.Orientation.Horizontal:
            if role == Qt.ItemDataRole.DisplayRole:
                return self.columns[section].title
            if role == Qt.ItemDataRole.ToolTipRole:
                return self.columns[section].tip
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        column = self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.words(self.table[column.key][self.rows[index.row()]])
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.tip
        if role == Qt.ItemDataRole.TextAlignmentRole:
            values = self.table[column.key]
            if values.dtype.kind in "iuf":
                return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def sort(
        self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder
    ) -> None:
        """Sort by a column; equal rows keep the order of their ids."""
        self.sorted_by = column, order == Qt.SortOrder.DescendingOrder
        self.layoutAboutToBeChanged.emit()
        self._arrange()
        self.layoutChanged.emit()

    def set_table(self, table: Table, listed: NDArray[np.bool_] | None) -> None:
        """Show other columns and rows."""
        self.beginResetModel()
        self.table, self.listed = table, listed
        self._arrange()
        self.endResetModel()

    def _arrange(self) -> None:
        keys = self.table[self.columns[0].key]
        rows = np.arange(len(keys))
        if self.listed is not None:
            rows = rows[self.listed]
        column, is_descending = self.sorted_by
        if column >= 0:
            values = self.table[self.columns[column].key][rows]
            if is_descending:
                order = len(rows) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
            else:
                order = np.argsort(values, kind="stable")
            rows = rows[order]
        self.rows = rows


class InstanceTable(QTableView):
    """Rows of a table of instances, to sort, filter and choose from."""

    chosen_changed = Signal()
    """The user chose other rows."""

    def __init__(
        self, columns: tuple[Column, ...], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._model = _Model(columns)
        self.setModel(self._model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setWordWrap(False)
        self.setMinimumHeight(200)
        vertical, horizontal = self.verticalHeader(), self.horizontalHeader()
        assert vertical is not None and horizontal is not None  # noqa: PT018
        vertical.hide()
        vertical.setDefaultSectionSize(22)
        horizontal.setHighlightSections(False)
        for i, column in enumerate(columns):
            self.setColumnWidth(i, column.width)
        horizontal.setSortIndicatorShown(True)
        horizontal.setSortIndicator(-1, Qt.SortOrder.DescendingOrder)
        self.setSortingEnabled(True)
        self._is_choosing = False
        selection = self.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(self._report)

    def set_table(self, table: Table, listed: NDArray[np.bool_] | None = None) -> None:
        """Show a table, or those rows of it that are listed; keep what is chosen."""
        chosen = self.chosen()
        self._is_choosing = True
        self._model.set_table(table, listed)
        self._is_choosing = False
        self.choose(chosen)

    def chosen(self) -> list[int]:
        """Return the ids of the chosen rows."""
        selection = self.selectionModel()
        rows = [] if selection is None else selection.selectedRows()
        index = self._ids()
        return [int(index[row.row()]) for row in rows if row.row() < len(index)]

    def listed(self) -> list[int]:
        """Return the ids of all rows that are listed, in order."""
        return [int(i) for i in self._ids()]

    def choose(self, ids: Iterable[int]) -> None:
        """Choose the rows of these ids, as far as they are listed."""
        rows = np.flatnonzero(np.isin(self._ids(), list(ids)))
        wanted = QItemSelection()
        for row in rows:
            index = self._model.index(int(row), 0)
            wanted.select(index, index)
        selection = self.selectionModel()
        assert selection is not None
        self._is_choosing = True
        selection.select(
            wanted,
            QItemSelectionModel.SelectionFlag.ClearAndSelect
            | QItemSelectionModel.SelectionFlag.Rows,
        )
        self._is_choosing = False
        if len(rows):
            index = self._model.index(int(rows[0]), 0)
            selection.setCurrentIndex(index, QItemSelectionModel.SelectionFlag.NoUpdate)
            self.scrollTo(index)

    def sort_by(self, key: str, *, descending: bool) -> None:
        """Sort by a column."""
        column = [c.key for c in self._model.columns].index(key)
        order = (
            Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
        )
        self.sortByColumn(column, order)

    def _ids(self) -> NDArray[Any]:
        return np.asarray(self._model.table[self._model.columns[0].key])[
            self._model.rows
        ]

    def _report(self, *_: object) -> None:
        if not self._is_choosing:
            self.chosen_changed.emit()
