"""Predictions: every view is the direct formula to the last digits, in every precision, down to alpha = 0."""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: (a, b) of a x_t + b x_0.
COMBINED = (0.3, 0.7)


def levels():
    """Variance preserving, rectified, exploding and sub-VP ones; of small alpha, and of none."""
    vp = [(alpha, math.sqrt(1 - alpha**2)) for alpha in (0.0, 2.0**-12, 0.3, 0.8, 0.999)]
    rectified = [(1 - t, t) for t in (1.0, 1 - 2.0**-12, 0.7, 0.1, 0.004)]
    return [Level(0.5, a, s, 2 * math.log(a / s) if a else -math.inf) for a, s in (*vp, *rectified, (1.0, 30.0), (0.6, 0.64))]


def definitions(level):
    """Every quantity as coefficients of (x_0, eps)."""
    a, s = level.alpha, level.sigma
    x_t = np.array([a, s])
    known = {"x_0": [1, 0], "eps": [0, 1], "v": [-s, a], "velocity": [-1, 1], "score": [0, -1 / s]}
    return x_t, {name: np.array(row, dtype=np.float64) for name, row in known.items()}


def direct(level, kind, name):
    """Coefficients of (x_t, what is known) of a quantity, by solving for it."""
    x_t, rows = definitions(level)
    target = COMBINED[0] * x_t + COMBINED[1] * rows["x_0"] if name == "combine" else rows[name]
    return np.linalg.solve(np.stack([x_t, rows[kind]], 1), target)


def said(prediction, name):
    return prediction.combine(*COMBINED) if name == "combine" else getattr(prediction, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["v", "velocity", "x_0", "eps"])
def test_views_are_within_four_ulps_of_the_direct_formula(dtype, kind):
    """An ulp is that of the largest term: where terms cancel no formula in this precision does better."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(500, 2, generator=generator).to(dtype) for _ in range(2))
    for level in levels():
        if kind == "eps" and level.alpha == 0.0:
            continue
        prediction = Prediction(x, level, y, kind)
        for name in ("x_0", "eps", "score", "v", "velocity", "combine"):
            if (kind, name) in {("eps", "v"), ("x_0", "v")}:
                continue  # of two views, each rounded
            p, q = direct(level, kind, name)
            exact = p * x.double() + q * y.double()
            if float(exact.abs().max()) > torch.finfo(dtype).max:
                continue
            largest = torch.maximum((p * x.double()).abs(), (q * y.double()).abs())
            ulp = torch.maximum(largest, exact.abs()) * torch.finfo(dtype).eps + torch.finfo(dtype).smallest_normal
            error = (said(prediction, name).double() - exact).abs() / ulp
            assert float(error.max()) <= 4.0, (level, name, float(error.max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["v", "velocity", "x_0"])
def test_noise_alone_still_says_the_data(dtype, kind):
    """At alpha = 0: x_0 = -v, x_0 = eps - u, and x_0 itself, exactly."""
    noise, x_0 = torch.tensor([[0.5, -1.25]], dtype=dtype), torch.tensor([[0.75, 0.125]], dtype=dtype)
    level = Level(1.0, 0.0, 1.0, -math.inf)
    value = {"v": -x_0, "velocity": noise - x_0, "x_0": x_0}[kind]
    prediction = Prediction(noise, level, value, kind)
    assert torch.equal(prediction.x_0, x_0)
    assert torch.equal(prediction.eps, noise)
    assert torch.equal(prediction.velocity, noise - x_0)
    assert torch.equal(prediction.combine(0.0, 1.0), x_0)


def test_eps_says_nothing_of_the_data_in_pure_noise():
    prediction = Prediction(torch.ones(1, 2), Level(1.0, 0.0, 1.0, -math.inf), torch.ones(1, 2), "eps")
    for name in ("x_0", "velocity", "combine", "v"):
        with pytest.raises(ValueError, match="pure noise"):
            said(prediction, name)
    assert torch.equal(prediction.score, -torch.ones(1, 2))


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "velocity"])
def test_levels_of_every_sample_agree_with_their_own(kind):
    rows = [level for level in levels() if level.alpha > 0]
    columns = (torch.tensor([getattr(level, name) for level in rows], dtype=torch.float64) for name in Level._fields)
    x, y = torch.randn(2, len(rows), 3, dtype=torch.float64)
    batch = Prediction(x, Level(*columns), y, kind)
    for i, level in enumerate(rows):
        row = Prediction(x[i : i + 1], level, y[i : i + 1], kind)
        for name in ("x_0", "eps", "score", "v", "velocity", "combine"):
            torch.testing.assert_close(said(batch, name)[i : i + 1], said(row, name), rtol=1e-12, atol=1e-12)


def test_v_no_longer_passes_through_eps():
    """Where alpha is 2^-12, float32 keeps x_0 of a v to 1e-7; through eps it would lose four digits."""
    alpha = 2.0**-12
    level = Level(1.0, alpha, math.sqrt(1 - alpha**2), 2 * math.log(alpha))
    x_0, eps = torch.randn(2, 1000, 1, dtype=torch.float64)
    x_t, v = level.diffuse(x_0, eps).float(), (level.alpha * eps - level.sigma * x_0).float()
    native = Prediction(x_t, level, v, "v")
    through = Prediction(x_t, level, native.eps, "eps")
    assert float((native.x_0 - x_0).abs().max()) < 1e-6
    assert float((through.x_0 - x_0).abs().max()) > 1e-5
