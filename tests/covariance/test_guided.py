"""The price of a guided chain: what guidance adds, step by step, on an exact mixture, and the grids that follow."""

import numpy as np
import pytest

from score_sde_analytic.covariance import Guided, Isotropic
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.grids import Lattice, even_log_snr, transition_costs
from score_sde_analytic.guidance import ClassifierFree, guidance_price
from score_sde_analytic.likelihood import BITS, Chain, bits_per_dim
from score_sde_analytic.measure import Budget, NoiseCurve, estimate
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import LinearVP, NoDecoder, reverse_kernel

VP = LinearVP()
FAR = GaussianMixture([0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], [[0.02, 0.2], [0.1, 0.05], [0.1, 0.02]])
CLASSES = FAR.conditional(VP)
SCALE = 3.0


def labelled(count, seed=0):
    x_0, component = FAR.labelled(count, seed)
    return Examples(x_0, conditions={"component": component})


@pytest.fixture(scope="module")
def moments():
    knots, budget = np.linspace(-9.5, 8.0, 24), Budget(max_draws=500)
    return [estimate(m, labelled(1000), knots, budget, progress=False) for m in (CLASSES, FAR.score_model(VP))]


@pytest.fixture(scope="module")
def curves(moments):
    return [NoiseCurve.fit(one, warn=False) for one in moments]


@pytest.fixture(scope="module")
def guided(curves):
    return Guided(Isotropic(curves[0]), curves[1], SCALE)


def test_it_adds_the_price_of_guidance_and_no_variance(moments, curves, guided):
    own, grid = Isotropic(curves[0]), even_log_snr(VP, 6, float(VP.time(7.0)))
    added = transition_costs(VP, curves[0], guided, grid).sum() - transition_costs(VP, curves[0], own, grid).sum()
    levels = [float(VP.log_snr(t)) for t in grid.times[:-1]]
    inside = (moments[0].log_snr[0], 8.0)
    assert levels[0] < inside[0]  # whose step is not counted there
    known = guidance_price(*moments, scale=SCALE, levels=levels, interval=inside).value
    first = transition_costs(VP, curves[0], guided, grid)[0] - transition_costs(VP, curves[0], own, grid)[0]
    assert BITS * (added - first) == pytest.approx(known, rel=1e-4)  # where the curves cross, by errors, G is 0
    steps = [VP.level(t) for t in grid.times[:2]]
    kernel = reverse_kernel(steps[1], steps[0])
    assert guided.variance(kernel, steps[0]) == own.variance(kernel, steps[0])


def test_its_price_is_what_the_guided_chain_pays(guided, curves):
    """Measured on other examples, within three standard errors, and far from the conditional chain's price."""
    grid = even_log_snr(VP, 8, float(VP.time(7.0)))
    model = ClassifierFree(CLASSES, SCALE, null={"component": 3})
    with pytest.warns(UserWarning, match="guided"):
        bound = bits_per_dim(model, labelled(1500, seed=1), Chain(grid, guided, NoDecoder()), progress=False)
    paid, predicted = bound.parts["transitions"], BITS * transition_costs(VP, curves[0], guided, grid).sum()
    unguided = BITS * transition_costs(VP, curves[0], guided.own, grid).sum()
    assert abs(predicted - paid.value) < 3.0 * np.hypot(paid.stderr, 0.02 * predicted)
    assert predicted - unguided > 10.0 * paid.stderr


def test_slopes_are_derivatives_of_its_price(guided, curves):
    own, (t, s) = curves[0], (VP.level_at(-2.0), VP.level_at(0.5))
    moved = [NoiseCurve(own.log_snr, own.y + delta) for delta in (1e-4, -1e-4)]
    up, down = (float(guided.step_nats(curve, s, t)) for curve in moved)
    assert float(guided.step_slopes(own, s, t)) == pytest.approx((up - down) / 2e-4, rel=1e-3)


def test_its_optimal_grid_is_the_best_of_its_price(guided, curves):
    """Better than the conditional model's by the price of the guided chain, and worse by that one's own."""
    lattice = Lattice.even_log_snr(VP, 60, 7.0)
    last = np.where(np.arange(60) == 0, 0.0, np.inf)
    grids = {
        name: lattice.optimal_grids(curves[0], each, last, 6)[6] for name, each in {"own": guided.own, "guided": guided}.items()
    }
    cost = {
        (name, by): transition_costs(VP, curves[0], covariance, grid).sum()
        for name, grid in grids.items()
        for by, covariance in {"own": guided.own, "guided": guided}.items()
    }
    assert cost["guided", "guided"] < cost["own", "guided"]
    assert cost["own", "own"] < cost["guided", "own"]
    assert VP.log_snr(grids["guided"].times[1]) < VP.log_snr(grids["own"].times[1])
