"""y in place of R: one to one, monotone by least squares, and interpolated without leaving the range of the knots."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.interpolant import Interpolant, nondecreasing, residual_of, y_of
from score_sde_analytic.measure.spectrum import Spectrum

KNOTS = np.array([-4.0, -1.0, 0.0, 5.0])


@given(r=st.floats(1e-9, 1 - 1e-9), lam=st.floats(-20, 20))
def test_y_stands_for_the_residual(r, lam):
    assert residual_of(y_of(r, lam), lam) == pytest.approx(r, rel=1e-9)


def test_columns_are_made_monotone_one_by_one():
    rng = np.random.default_rng(0)
    y, weights = rng.normal(size=(9, 2, 3)), rng.uniform(0.1, 2.0, size=(9, 2, 3))
    before = y.copy()
    fitted = nondecreasing(y, weights)
    np.testing.assert_array_equal(y, before)
    assert np.all(np.diff(fitted, axis=0) >= 0)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(fitted[:, i, j], isotonic_regression(y[:, i, j], weights=weights[:, i, j]).x)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0,)])
@pytest.mark.parametrize("count", [1, 4])
def test_values_of_any_shape_at_places_of_any_shape(shape, count):
    values = np.random.default_rng(1).normal(size=(count, *shape))
    curve = Interpolant(KNOTS[:count], values)
    for x in (0.3, np.array([-9.0, 0.3]), np.zeros((2, 2))):
        assert curve(x).shape == (*np.shape(x), *shape)
    np.testing.assert_allclose(curve(KNOTS[:count]), values)
    np.testing.assert_array_equal(curve(-100.0), curve(KNOTS[0]))  # constant beyond the ends
    np.testing.assert_array_equal(curve(100.0), curve(KNOTS[count - 1]))


def test_slopes_are_derivatives_and_vanish_beyond_the_ends():
    curve, x = Interpolant(KNOTS, np.array([0.0, 1.0, 1.5, 4.0])), np.array([-3.0, -0.5, 2.0])
    np.testing.assert_allclose(curve.slope(x), (curve(x + 1e-6) - curve(x - 1e-6)) / 2e-6, rtol=1e-6)
    assert curve.slope(np.array([-4.1, 5.1])).tolist() == [0.0, 0.0]
    assert Interpolant(KNOTS[:1], np.ones(1)).slope(x).tolist() == [0.0, 0.0, 0.0]


@given(lam=st.floats(-9.0, 9.0))
def test_a_curve_is_a_spectrum_of_one_label(lam):
    y = np.array([-2.0, -1.5, 0.0, 3.0])
    curve = NoiseCurve(KNOTS, y)
    one = Spectrum(KNOTS, y[:, None, None], np.zeros((4, 0)), np.ones(1))
    assert float(one.residual(lam)[0, 0]) == curve.residual(lam)
    assert float(one.y_at(lam)[0, 0]) == curve.y_at(lam)
    if min(abs(KNOTS - lam)) > 2e-3:
        assert one.spread(lam) == pytest.approx(float(curve.spread(lam)), rel=1e-4, abs=1e-9)
