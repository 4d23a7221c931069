"""A table of findings that can be sorted and filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

__all__ = ["TO_MEND", "FindingsTable"]

TO_MEND = "to mend"
"""The filter that hides what only informs."""

_COLUMNS = ("Kind", "Id", "z", "y", "x", "Size")
_SORTED_BY = Qt.ItemDataRole.UserRole

Finding = dict[str, Any]


class _Model(QAbstractTableModel):
    def __init__(self) -> None:
        super().__init__()
        self.findings: Sequence[Finding] = ()

    def set_findings(self, findings: Sequence[Finding]) -> None:
        self.beginResetModel()
        self.findings = findings
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.findings)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return len(_COLUMNS)

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        is_shown = role == Qt.ItemDataRole.DisplayRole
        is_top = orientation == Qt.Orientation.Horizontal
        return _COLUMNS[section] if is_shown and is_top else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        finding = self.findings[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{finding['severity']}: {finding['message']}"
        value = _values(finding)[index.column()]
        if role == _SORTED_BY:
            return value
        if role == Qt.ItemDataRole.DisplayRole:
            return "" if index.column() == 1 and value == 0 else str(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() > 0:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None


class _Filter(QSortFilterProxyModel):
    kind = TO_MEND

    def filterAcceptsRow(self, row: int, parent: QModelIndex) -> bool:
        model = self.sourceModel()
        assert isinstance(model, _Model)
        finding = model.findings[row]
        if self.kind == TO_MEND:
            return bool(finding["severity"] != "info")
        return self.kind in ("", finding["kind"])

    def set_kind(self, kind: str) -> None:
        self.kind = kind
        self.invalidate()


class FindingsTable(QTableView):
    """Findings, the most serious first until a column is chosen."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = _Model()
        self._filter = _Filter()
        self._filter.setSourceModel(self._model)
        self._filter.setSortRole(_SORTED_BY)
        self.setModel(self._filter)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setWordWrap(False)
        self.setMinimumHeight(200)
        self.setAccessibleName("Findings of the annotation check")
        vertical, horizontal = self.verticalHeader(), self.horizontalHeader()
        assert vertical is not None and horizontal is not None  # noqa: PT018
        vertical.hide()
        vertical.setDefaultSectionSize(22)
        horizontal.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        horizontal.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        horizontal.setMinimumSectionSize(28)
        self.setSortingEnabled(True)
        self._filter.sort(-1)

    def set_findings(self, findings: Sequence[Finding]) -> None:
        """Show other findings, in their own order."""
        self._model.set_findings(findings)
        self._filter.sort(-1)

    def show_kind(self, kind: str) -> None:
        """Show one kind, ``TO_MEND``, or everything (empty)."""
        self._filter.set_kind(kind)

    def counts(self) -> Counter[str]:
        """Return how many findings of each kind there are, and how many to mend."""
        counts = Counter(finding["kind"] for finding in self._model.findings)
        counts[TO_MEND] = sum(f["severity"] != "info" for f in self._model.findings)
        return counts

    def listed(self) -> list[int]:
        """Return the findings that the filter lets through, in the table's order."""
        return [self._source_row(row) for row in range(self._filter.rowCount())]

    def chosen(self) -> list[int]:
        """Return the selected findings."""
        selection = self.selectionModel()
        rows = [] if selection is None else selection.selectedRows()
        return [self._source_row(index.row()) for index in rows]

    def current(self) -> int | None:
        """Return the finding that was chosen last."""
        index = self.currentIndex()
        return self._source_row(index.row()) if index.isValid() else None

    def _source_row(self, row: int) -> int:
        return self._filter.mapToSource(self._filter.index(row, 0)).row()


def _values(finding: Finding) -> tuple[Any, ...]:
    return (finding["kind"], finding["label"], *finding["position"], finding["size"])
