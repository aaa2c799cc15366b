"""Likelihoods on conditions: every way to bits/dim, of a mixture whose component is known, against log p(x | c)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from score_sde_analytic import grids
from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.guidance import ClassifierFree, guidance_price
from score_sde_analytic.likelihood import Chain, ContinuousTime, ExactTrace, Flow, bits_per_dim
from score_sde_analytic.likelihood.bound import BITS, Bound
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.ode_solvers import Fixed
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
CLASSES = GaussianMixture([0.5, 0.3, 0.2], [[-0.8, 0.2], [0.9, 0.4], [0.1, -1.0]], [[0.05, 0.4], [0.2, 0.1], [0.3, 0.02]])
MODEL = CLASSES.conditional(VP)
NULL = {"component": 3}
KNOTS = np.linspace(-9.0, 9.0, 19)
TRUTH = sum(
    w * (np.exp(KNOTS)[:, None] * c.numpy() / (1.0 + np.exp(KNOTS)[:, None] * c.numpy())).mean(1)
    for w, c in zip(CLASSES.weights.tolist(), CLASSES.eigenvalues, strict=True)
)
CURVE = NoiseCurve.from_residual(KNOTS, TRUTH, warn=False)
GRID = grids.even_log_snr(VP, 8, 0.001)


def labelled(count, seed=0, shift=0):
    x_0, component = CLASSES.labelled(count, seed)
    return Examples(x_0, conditions={"component": component.roll(shift)})


def exact_bits(examples):
    """-log2 p(x | c) / d of every example."""
    x_0, conditions = examples.batch(range(len(examples)))
    data = Level(0.0, 1.0, 0.0, math.inf)
    densities = torch.stack([CLASSES.component(k).log_density(x_0, data) for k in range(3)], 1)
    return -densities.gather(1, conditions["component"][:, None])[:, 0].numpy() * BITS / 2


@pytest.mark.parametrize("method", [Flow(divergence=ExactTrace(), solver=Fixed(12)), Flow(divergence=ExactTrace())])
def test_the_flow_s_likelihood_is_the_conditional_density(method):
    """Example by example, but for alpha^2 at t = 1, and far from it with the label of another; whatever the network's rows."""
    if not isinstance(method.solver, Fixed):
        pytest.importorskip("torchdiffeq")
    examples = labelled(12)
    bound = bits_per_dim(MODEL, examples, method, batch_size=5, progress=False)
    np.testing.assert_allclose(bound.terms.sum(1), exact_bits(examples), atol=0.012)
    wrong = bits_per_dim(MODEL, labelled(12, shift=1), method, batch_size=5, progress=False)
    others = exact_bits(labelled(12, shift=1))
    np.testing.assert_allclose(wrong.terms.sum(1), others, rtol=5e-3, atol=0.012)
    assert wrong.total.value > bound.total.value + 1.0


def test_the_continuous_bound_is_the_conditional_density():
    """With an exact score it is tight, on average over noise; on the same examples, to four standard errors."""
    examples = labelled(500)
    method = ContinuousTime(1e-4, decoder=math.exp(-0.5 * float(VP.log_snr(1e-4))), times=8, curve=CURVE)
    bound = bits_per_dim(MODEL, examples, method, progress=False)
    gap = bound.terms.sum(1) - exact_bits(examples)
    assert abs(gap.mean()) < 4.0 * gap.std() / len(gap) ** 0.5 + 2e-3
    assert gap.std() / len(gap) ** 0.5 < 0.2
    wrong = bits_per_dim(MODEL, labelled(500, shift=1), method, progress=False)
    assert wrong.total.value - bound.total.value > 3.0


def chains():
    return {
        "isotropic": Chain(GRID, Isotropic(CURVE), 0.02),
        "tweedie": Chain(GRID, Tweedie(MODEL), 0.02),
        "lanczos": Chain(GRID, Tweedie(MODEL, method="lanczos", products_per_probe=2), 0.02),
    }


def test_chains_do_not_depend_on_batches_shards_or_interruptions(tmp_path):
    """Labels stay with their example whichever way the data set is cut."""
    examples = labelled(13)
    whole = bits_per_dim(MODEL, examples, chains(), batch_size=13, progress=False)
    parts = bits_per_dim(MODEL, examples, chains(), batch_size=4, progress=False)
    shards = [
        bits_per_dim(MODEL, examples, chains(), batch_size=5, shard=(i, 3), path=tmp_path, progress=False) for i in range(3)
    ]
    for name, bound in whole.items():
        np.testing.assert_allclose(parts[name].terms, bound.terms, rtol=1e-10)
        merged = Bound.merge([shard[name] for shard in shards])
        np.testing.assert_allclose(merged.terms, bound.terms, rtol=1e-10)
    with pytest.raises(ValueError, match="data"):
        bits_per_dim(MODEL, labelled(13, shift=1), chains(), shard=(0, 3), path=tmp_path, progress=False)


def test_chains_know_the_component():
    """Each component's examples cost what the chain of that component alone costs them, at the same noise."""
    examples = labelled(30)
    for name in ("isotropic", "tweedie"):
        bound = bits_per_dim(MODEL, examples, chains()[name], progress=False)
        for k, part in examples.divided("component").items():
            alone = CLASSES.component(k).score_model(VP)
            chain = Chain(GRID, Isotropic(CURVE) if name == "isotropic" else Tweedie(alone), 0.02)
            rows = (examples.batch(range(30)).conditions["component"] == k).nonzero()[:, 0].tolist()
            assert len(part) == len(rows)
            own = bits_per_dim(alone, examples.batch(range(30)).x_0, chain, progress=False)
            np.testing.assert_allclose(bound.terms[rows], own.terms[rows], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_what_guidance_costs_a_chain_is_predicted(scale):
    """Transitions with the conditional variance rise by w^2 G e / (1 + R_c e) / 2 a step; a warning says what such bits are."""
    examples = labelled(1000)
    budget = Budget(tolerance=0.0, min_draws=1000, max_draws=1000, batch_size=500)
    both = [estimate(m, examples, KNOTS, budget, progress=False) for m in (MODEL, MODEL.given(**NULL))]
    levels = VP.log_snr(np.array(GRID.times[:-1]))
    price = guidance_price(*both, scale, levels=levels)
    with pytest.warns(UserWarning, match=f"guided with scale {scale:g}.*above those of the conditional one"):
        guided = bits_per_dim(ClassifierFree(MODEL, scale, NULL), examples, chains()["isotropic"], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = bits_per_dim(MODEL, examples, chains()["isotropic"], progress=False)
    rise = (guided.terms - plain.terms)[:, 1:-1].sum(1)
    error = math.hypot(rise.std() / len(rise) ** 0.5, price.stderr)
    assert rise.mean() == pytest.approx(price.value, abs=4.0 * error)
    assert error < 0.1 * price.value


def test_images_and_their_conditions():
    """A network that is shown a low-resolution image beside x_t: the bound of the right pairs is far below that of others'."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(40, 1, 4, 4, generator=generator)
    low = torch.nn.functional.avg_pool2d(x_0, 2)

    def net(x, log_snr, low):
        """x_0 known up to variance 0.1 about the upsampled condition; eps of it."""
        up = torch.nn.functional.interpolate(low, scale_factor=2)
        alpha2 = torch.sigmoid(log_snr)[:, None, None, None].to(x)
        mean = up + alpha2.sqrt() * 0.75 / (alpha2 * 0.75 + 1.0 - alpha2) * (x - alpha2.sqrt() * up)
        return (x - alpha2.sqrt() * mean) / (1.0 - alpha2).sqrt()

    from score_sde_analytic.models.model import ScoreModel
    from score_sde_analytic.models.times import LogSNR

    model = ScoreModel(net, VP, times=LogSNR(), coordinates="vp", conditions=("low",))
    chain = Chain(GRID, Isotropic(CURVE), 0.05)
    right, wrong = (
        bits_per_dim(model, Examples(x_0, conditions={"low": rows}), chain, batch_size=16, progress=False)
        for rows in (low, low.roll(1, 0))
    )
    assert wrong.total.value - right.total.value > 0.1
