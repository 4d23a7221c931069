"""Curves of a training: what is shown, and what a zoom leaves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_volseg.widgets.curves import shown_range
from napari_volseg.widgets.plot import CurvePlot

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(st.lists(numbers, min_size=1, max_size=20))
def test_all_values_are_shown_and_half_the_range_is_theirs(values: list[float]) -> None:
    low, high = shown_range(values)
    slack = 1e-9 * max(abs(low), abs(high))
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    assert low < high
    if min(values) < max(values):
        assert max(values) - min(values) >= 0.5 * (high - low) - slack


def test_a_longer_run_seldom_changes_the_range() -> None:
    ranges = {shown_range([1.0, step]) for step in range(1000, 2000)}
    assert len(ranges) < 20


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), float("nan")]])
def test_nothing_finite_is_no_error(values: list[float]) -> None:
    assert shown_range(values) == (0.0, 1.0)


@pytest.fixture
def plot(viewer: Any, qtbot: Any) -> CurvePlot:
    plot = CurvePlot(viewer)
    viewer.window.add_dock_widget(plot, name="curves")
    plot.curves.loss = [(float(step), 3.0 - step / 100) for step in range(1, 201)]
    plot.redraw()
    return plot


def _view(plot: CurvePlot) -> tuple[list[float], list[float]]:
    x, y = plot.canvas.getViewBox().viewRange()
    return x, y


def test_all_steps_are_shown_while_more_come(plot: CurvePlot) -> None:
    assert _view(plot) == ([0, 200], [1.0, 3.0])
    plot.curves.loss.append((300.0, 0.2))
    plot.redraw()
    x, y = _view(plot)
    assert x[1] >= 300
    assert y[0] <= 0.2


def test_a_zoom_stays_until_a_double_click(plot: CurvePlot) -> None:
    view = plot.canvas.getViewBox()
    view.setXRange(50, 100, padding=0)
    view.sigRangeChangedManually.emit(view.state["mouseEnabled"])
    plot.curves.loss.append((300.0, 0.2))
    plot.redraw()
    x, y = _view(plot)
    assert x == [50, 100]
    assert y[0] <= 2.0
    assert y[1] >= 2.5
    assert y[1] - y[0] < 1  # the losses at these steps fill the height
    plot.follow()
    assert _view(plot)[0][1] >= 300
