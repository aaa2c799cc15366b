"""Numbers with their errors: how they print, and the error of a mean."""

import math

import numpy as np
import pytest

from score_sde_analytic.uncertainty import Estimate, jackknife_variance


def test_formats_are_those_of_floats():
    estimate = Estimate(1.23456, 0.01234)
    assert f"{estimate:.3f}" == "1.235 ± 0.012"
    assert f"{estimate:.1e}" == "1.2e+00 ± 1.2e-02"
    assert str(estimate) == f"{estimate}" == "1.235 ± 0.012"


@pytest.mark.parametrize(("value", "text"), [(0.5, "+0.500 ± 0.250"), (-0.5, "-0.500 ± 0.250")])
def test_a_sign_is_the_values(value, text):
    assert f"{Estimate(value, 0.25):+.3f}" == text


def test_mean_of_values():
    values = np.array([1.0, 2.0, 6.0])
    assert Estimate.of(values) == (3.0, math.sqrt(7.0 / 3.0))
    # The jackknife of a mean is its standard error.
    replicates = np.array([values[np.arange(3) != i].mean() for i in range(3)])
    assert Estimate.of(values).stderr == pytest.approx(math.sqrt(float(jackknife_variance(replicates))), rel=1e-12)


def test_too_few_values():
    assert Estimate.of(np.array([2.0])).value == 2.0
    assert math.isnan(Estimate.of(np.array([2.0])).stderr)
    assert math.isnan(Estimate.of(np.array([])).value)
