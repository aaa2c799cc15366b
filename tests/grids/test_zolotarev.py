"""Zolotarev's nodes: equioscillation, the geometric rate, symmetry."""

import math

import numpy as np
import pytest
from scipy.special import ellipj, ellipk

from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.zolotarev import nodes, zolotarev, zolotarev_rate

INTERVALS = [(0.002, 1.0), (1e-6, 50.0)]


def best(c_min, c_max, steps, free_term):
    """(c, relative error) of the rational function with Zolotarev's poles and zeros, scaled to errors alike on both sides."""
    c = np.geomspace(c_min, c_max, 200_001)
    order = 2 * steps + free_term
    places = np.exp(nodes(c_min, c_max, np.arange(1, order) / order))
    if free_term:
        zeros, poles, r = places[0::2], places[1::2], np.ones_like(c)
    else:
        zeros, poles, r = places[1::2], places[0::2], c.copy()
    for zero in zeros:
        r = r * (c + zero)
    for pole in poles:
        r = r / (c + pole)
    ratio = r / np.sqrt(c)
    return poles, 2.0 * ratio / (ratio.max() + ratio.min()) - 1.0


@pytest.mark.parametrize("free_term", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("interval", INTERVALS)
def test_the_error_equioscillates_so_no_other_poles_are_better(interval, steps, free_term):
    """2K + 2 alternating extremes with a free term, 2K + 1 without: one more than there are parameters (Chebyshev)."""
    poles, error = best(*interval, steps, free_term)
    np.testing.assert_allclose(np.sort(-np.log(poles)), zolotarev(*interval, steps, free_term), atol=1e-9)
    inner = np.flatnonzero(np.diff(np.sign(np.diff(error)))) + 1
    extremes = error[[0, *inner, -1]]
    assert len(extremes) == 2 * steps + 1 + free_term
    assert np.all(np.sign(extremes[1:]) == -np.sign(extremes[:-1]))
    np.testing.assert_allclose(np.abs(extremes), np.abs(extremes[0]), rtol=1e-4)


@pytest.mark.parametrize("free_term", [True, False])
@pytest.mark.parametrize("interval", INTERVALS)
def test_each_call_multiplies_the_error_by_the_rate(interval, free_term):
    sizes = [np.abs(best(*interval, steps, free_term)[1]).max() for steps in (3, 4, 5)]
    rate = zolotarev_rate(*interval)
    np.testing.assert_allclose(np.array(sizes[1:]) / sizes[:-1], rate, rtol=0.02)
    assert sizes[0] == pytest.approx(4.0 * rate ** (3 + 0.5 * free_term), rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_nodes_without_a_free_term_are_symmetric(steps):
    lam = zolotarev(1e-4, 2.0, steps, free_term=False)
    np.testing.assert_allclose(lam + lam[::-1], -math.log(1e-4 * 2.0), atol=1e-9)


@pytest.mark.parametrize("steps", [3, 4])
def test_a_free_term_saves_half_a_call(steps):
    sizes = [np.abs(best(0.002, 1.0, steps, free_term)[1]).max() for free_term in (False, True)]
    assert sizes[1] / sizes[0] == pytest.approx(zolotarev_rate(0.002, 1.0) ** 0.5, rel=0.05)


def test_nodes_are_the_textbook_formula_where_that_can_be_evaluated():
    c_min, c_max, steps = 0.1, 1.0, 3
    sn, cn, _, _ = ellipj((np.arange(1, steps + 1) - 0.5) / steps * ellipk(1.0 - 0.1), 1.0 - 0.1)
    expected = np.sort(-np.log(c_min * (sn / cn) ** 2))
    np.testing.assert_allclose(zolotarev(c_min, c_max, steps, free_term=False), expected, atol=1e-12)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1e-3, 1e-9, 1e-11, 1e-14])
def test_nodes_for_any_ratio(ratio):
    """In the limit of wide intervals they are even in log-SNR but for the ends; for one variance they are tan^2."""
    lam = zolotarev(ratio, 1.0, 9)
    assert np.all(np.diff(lam) > 0)
    if ratio == 1.0:
        np.testing.assert_allclose(lam, -2 * np.log(np.tan(np.arange(9, 0, -1) * math.pi / 19)), atol=1e-12)
    if ratio <= 1e-9:
        inner = np.diff(lam)[2:-2]
        np.testing.assert_allclose(inner, inner.mean(), rtol=0.02)


def test_wrong_ends():
    with pytest.raises(InputError, match="c_min <= c_max"):
        zolotarev(2.0, 1.0, 3)
    with pytest.raises(InputError, match="c_min"):
        zolotarev(0.0, 1.0, 3)


@pytest.mark.parametrize(("c_min", "c_max"), [(1e-320, 1e300), (2.0, 1.0)])
def test_variances_that_span_nothing_or_too_much_are_refused(c_min, c_max):
    with pytest.raises(InputError, match=r"span more than numbers do|need c_min <= c_max"):
        zolotarev(c_min, c_max, 3)
    if c_min > c_max:
        with pytest.raises(InputError, match="need c_min <= c_max"):
            zolotarev_rate(c_min, c_max)
