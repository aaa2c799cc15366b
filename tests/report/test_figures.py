"""The picture of bits/dim: what it shows lies inside its axes, and what does not is named."""

import numpy as np
import pytest

from score_sde_analytic.report import figures


@pytest.fixture
def drawn(monkeypatch):
    """The axes of bits/dim, from predicted values: grid -> covariance -> values of K = 3, 5, 10."""
    monkeypatch.setattr(figures, "save", lambda figure, path: figure)

    def axes(prices, path):
        cells = {
            (grid, name, k): {"predicted": {"total": {"value": value, "stderr": 0.01}}}
            for grid, row in prices.items()
            for name, values in row.items()
            for k, value in zip((3, 5, 10), values, strict=True)
        }
        names = list(next(iter(prices.values())))
        return figures.bits(path, cells, list(prices), names).axes

    return axes


@pytest.mark.parametrize("others", [[], [9.0, 8.0, 7.0]])
@pytest.mark.parametrize("own", [[2.4, 1.9, 1.8], [-0.5, -1.0, -1.1], [0.3, -0.2, -0.3], [0.0, -1.0, -1.1], [-3.0, -3.0, -3.0]])
def test_the_own_curve_lies_inside_the_axis(own, others, drawn, tmp_path):
    """Whatever the sign of bits/dim: those of a density are of either."""
    (axis,) = drawn({"dp": {"residual": own} | ({"beta": others} if others else {})}, tmp_path)
    low, high = axis.get_ylim()
    assert low < min(own)
    assert high > max(own)
    assert [text.get_text() for text in axis.texts] == ([r"beyond the axis: $\beta$: 7 at best"] if others else [])


@pytest.mark.parametrize("shift", [0.0, -2.0, -40.0])
def test_no_panel_is_empty(shift, drawn, tmp_path):
    prices = {"dp": {"residual": [2.4, 1.9, 1.8]}, "even": {"residual": [32.0, 30.0, 29.0]}}
    moved = {grid: {name: [value + shift for value in row] for name, row in by.items()} for grid, by in prices.items()}
    for axis, by_name in zip(drawn(moved, tmp_path), moved.values(), strict=True):
        assert axis.get_ylim()[0] < min(by_name["residual"]) < axis.get_ylim()[1]


def test_an_error_that_is_not_known_has_no_bar(monkeypatch, tmp_path):
    """That of one example: the point stands alone."""
    monkeypatch.setattr(figures, "save", lambda figure, path: figure)
    cells = {("dp", "residual", k): {"measured": {"total": {"value": 1.0 / k, "stderr": None}}} for k in (3, 5)}
    (axis,) = figures.bits(tmp_path, cells, ["dp"], ["residual"]).axes
    ((points, _, (bars,)),) = axis.containers
    assert np.allclose(points.get_ydata(), [1.0 / 3.0, 1.0 / 5.0])
    assert not any(len(ends) and np.isfinite(ends).all() for ends in bars.get_segments())
