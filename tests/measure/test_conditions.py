"""Networks on conditions: data, pass, bits and samples of a mixture whose component is the condition, against closed forms."""

from __future__ import annotations

import numpy as np
import torch

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
#: Two dimensions, three components that overlap and differ in shape.
CLASSES = GaussianMixture([0.5, 0.3, 0.2], [[-0.8, 0.2], [0.9, 0.4], [0.1, -1.0]], [[0.05, 0.4], [0.2, 0.1], [0.3, 0.02]])
MODEL = CLASSES.conditional(VP)
KNOTS = np.linspace(-8.0, 8.0, 9)


def labelled(count: int, seed: int = 0) -> Examples:
    x_0, component = CLASSES.labelled(count, seed)
    return Examples(x_0, conditions={"component": component})


def exact_residual(variances: torch.Tensor, log_snr: np.ndarray) -> np.ndarray:
    """mean_j snr l_j / (1 + snr l_j), which is R of a Gaussian."""
    power = np.exp(log_snr)[:, None] * np.asarray(variances)
    return (power / (1.0 + power)).mean(1)


def conditional_residual(log_snr: np.ndarray) -> np.ndarray:
    return sum(float(w) * exact_residual(c, log_snr) for w, c in zip(CLASSES.weights, CLASSES.eigenvalues, strict=True))


def test_the_conditional_residual_is_the_closed_form():
    """Within four standard errors at every knot; with permuted labels it is far above at high log-SNR."""
    examples = labelled(2000)
    budget = Budget(tolerance=0.0, min_draws=2000, max_draws=2000, batch_size=500)
    moments = estimate(MODEL, examples, KNOTS, budget, progress=False)
    exact = conditional_residual(KNOTS)
    assert (np.abs(moments.residual - exact) < 4.0 * moments.stderr("residual")).all()
    x_0, component = CLASSES.labelled(2000, 0)
    wrong = Examples(x_0, conditions={"component": component.roll(1)})
    permuted = estimate(MODEL, wrong, KNOTS, budget, progress=False)
    assert (permuted.residual - exact > 10.0 * permuted.stderr("residual"))[3:].all()
    assert permuted.fingerprint["data"] != moments.fingerprint["data"]
