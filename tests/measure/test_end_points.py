"""Ends of a schedule: where the derivative of the bound vanishes, and where the prior costs what it may."""

import numpy as np
import pytest
import scipy

from score_sde_analytic.data import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure import NoiseCurve, Reconstruction, end_points
from score_sde_analytic.measure.end_points import prior_bits

KNOTS = np.linspace(-10.0, 12.0, 45)
#: Posterior variances of eight levels, coarse: R falls where noise no longer hides which level it was.
CURVE = NoiseCurve(KNOTS, np.interp(KNOTS, [-10.0, 2.0, 5.0, 12.0], [0.5, 1.0, 4.0, 14.0]))
EIGHT = DataRange(-1.0, 1.0, 8)


def test_the_upper_end_balances_the_integral_against_the_last_step():
    last = Reconstruction.normal(CURVE, 0.3, EIGHT)
    ends = end_points(CURVE, last, second_moment=0.3)
    assert not ends.at_last_knot
    step = 0.05
    after, before = last.best([ends.high + step, ends.high - step])[0]
    assert -(after - before) / (2 * step) == pytest.approx(float(CURVE.residual(ends.high)) / 2, rel=0.05)


def test_the_upper_end_is_the_best_of_a_brute_force_search():
    last = Reconstruction.normal(CURVE, 0.3, EIGHT)

    def bound(high):
        return float(last.best(high)[0][0]) + 0.5 * scipy.integrate.quad(CURVE.residual, -10.0, high, limit=200)[0]

    tried = np.linspace(2.0, 11.0, 46)
    best = tried[np.argmin([bound(high) for high in tried])]
    assert abs(end_points(CURVE, last, 0.3).high - best) <= 0.2 + 1e-9


@pytest.mark.parametrize(("second_moment", "tolerance"), [(0.3, 1e-3), (1.0, 1e-3), (4.0, 1e-5)])
def test_the_lower_end_costs_what_it_may_and_no_less(second_moment, tolerance):
    ends = end_points(CURVE, Reconstruction.normal(CURVE, 0.3, EIGHT), second_moment, tolerance)
    assert ends.prior == pytest.approx(tolerance, rel=1e-6)
    assert prior_bits(ends.low + 0.1, second_moment) > tolerance


def test_the_prior_term_is_half_the_signal_to_leading_order():
    """1/2 (alpha^2 E x^2 + sigma^2 - 1 - log sigma^2) = 1/2 alpha^2 E x^2 + O(alpha^4)."""
    for second_moment in (0.3, 1.0, 3.0):
        assert prior_bits(-10.0, second_moment) * np.log(2.0) == pytest.approx(0.5 * np.exp(-10.0) * second_moment, rel=1e-3)


def test_densities_have_no_best_upper_end():
    assert end_points(CURVE, Reconstruction.normal(CURVE, 0.3), 0.3).at_last_knot


def test_what_cannot_be_is_refused():
    last = Reconstruction.normal(CURVE, 0.3, EIGHT)
    with pytest.raises(InputError, match="choose another tolerance"):
        end_points(CURVE, last, 0.3, tolerance=1e3)
    with pytest.raises(InputError, match="prices come from the residual"):
        end_points(NoiseCurve(KNOTS, CURVE.y, "score"), last, 0.3)


def test_the_best_ends_of_measured_moments(moments, curve):
    ends = end_points(curve, Reconstruction.of(moments), moments.data_variance)
    assert ends.low < -3.0 < ends.high == moments.log_snr[-1]
