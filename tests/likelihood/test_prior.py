"""Free priors in every bound: exact for Gaussian data at any level, number of steps and schedule; measured as priced."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import Chain, ContinuousTime, ExactTrace, Fixed, Flow, bits_per_dim, price
from score_sde_analytic.likelihood.prior import prior_price
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.decoder import NoDecoder
from score_sde_analytic.process.schedule import Schedule, Tabulated
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.uncertainty import Estimate

VARIANCE = 0.3
EXACT = NoiseCurve(np.zeros(1), np.array([-math.log(VARIANCE)]))
GAUSSIAN = GaussianMixture([1.0], [[0.7, -0.4]], VARIANCE)
FREE = LinearDenoiser.exact(*GAUSSIAN.moments())
STATISTICS = GAUSSIAN.statistics()


def grid(schedule: Schedule, steps: int, top: float = -1.0) -> Grid:
    return Grid((*schedule.time(np.linspace(top, 6.0, steps) if steps > 1 else np.array([6.0])).tolist(), 0.0))


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_bits_of_gaussian_data_do_not_depend_on_the_steps(schedule: Schedule, steps: int) -> None:
    """prior + transitions = 1/2 log(1 + snr_1 c) for every K and top: each step's price is the prior's own difference."""
    chain = Chain(grid(schedule, steps), Isotropic(EXACT), NoDecoder(), prior=FREE)
    prior = prior_price(chain.prior, schedule, chain.top, STATISTICS).value
    total = prior + chain.transition_nats(schedule, EXACT, None).sum()
    assert total == pytest.approx(0.5 * math.log1p(math.exp(6.0) * VARIANCE), abs=1e-9)


class Sources:
    """Unit draws: the k-th sets row k + 2 to one, so that each row follows one source of a linear sampler."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        unit = torch.zeros_like(like)
        unit[self.drawn + 2] = 1.0
        self.drawn += 1
        return unit


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_chains_keep_gaussian_marginals(schedule: Schedule, steps: int, eta: float) -> None:
    """From the free start, mean and variance are those of the data at every level, to rounding."""
    sampler: Any = Ancestral(GAUSSIAN.score_model(schedule), Isotropic(EXACT), eta=eta)
    times = grid(schedule, steps)
    z = torch.zeros(steps + 2, 2, dtype=torch.float64)
    z[1] = 1.0
    x, noise, state = FREE.start(z, schedule.level(times.times[0])), Sources(), None
    for step in sampler.plan(times)[:-1]:
        x, state = sampler.step(x, step, state, noise)
        variance = (x[1:] - x[0]).square().sum(0)
        torch.testing.assert_close(x[0], step.s.alpha * GAUSSIAN.means[0], rtol=1e-9, atol=1e-9)
        exact = torch.full((2,), step.s.alpha**2 * VARIANCE + step.s.sigma**2, dtype=torch.float64)
        torch.testing.assert_close(variance, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("top", [0.3, 1.0])
def test_a_flow_of_gaussian_data_is_exact_from_any_top(top: float) -> None:
    schedule = Tabulated.linear()
    x = GAUSSIAN.sample(3, seed=2)
    flow = Flow(t_min=1e-3, divergence=ExactTrace(), solver=Fixed(16), prior=FREE, t_max=top)
    nats = bits_per_dim(GAUSSIAN.score_model(schedule), x, flow, progress=False).nats
    exact = -GAUSSIAN.log_density(x, schedule.level(0.0))
    np.testing.assert_allclose(nats, exact.numpy(), atol=2e-3)


def test_measured_bits_are_the_priced_ones(mixture: GaussianMixture, moments: Moments, curve: NoiseCurve) -> None:
    """A Gaussian prior under a mixture: judged on examples, the price of a chain and of the limit is what others measure."""
    schedule = Tabulated.linear()
    model = mixture.score_model(schedule)
    free = LinearDenoiser.exact(*mixture.moments())
    judged = Judged.on(mixture.sample(2000, seed=9), free, schedule)
    first, top = float(schedule.time(6.0)), float(schedule.time(0.0))
    methods: dict[str, Any] = {
        "chain": Chain(grid(schedule, 4, top=0.0), Isotropic(curve), NoDecoder(), prior=judged),
        "limit": ContinuousTime(first, NoDecoder(), 4, curve, prior=judged, t_max=top),
    }
    priced = price(moments, schedule, methods, mixture.statistics())
    measured = bits_per_dim(model, mixture.sample(1000, seed=11), methods, progress=False)
    for name, bound in measured.items():
        for part in ("prior", "total"):
            expected = priced[name].total if part == "total" else priced[name].parts[part]
            found: Estimate = bound.total if part == "total" else bound.parts[part]
            error = math.hypot(expected.stderr, found.stderr)
            assert found.value == pytest.approx(expected.value, abs=4.0 * error), (name, part)
            assert error < 0.05
    assert priced["chain"].parts["prior"].stderr > 0.0


def test_a_judged_prior_is_the_closed_form_of_its_examples() -> None:
    schedule = Tabulated.linear()
    x = GAUSSIAN.sample(50, seed=4)
    lam = np.array([-3.0, 0.5, 4.0])
    value, stderr = Judged.on(x, FREE, schedule).prior_price(lam)
    moment = FREE.squares(x).mean(0).numpy()
    snr = np.exp(lam)[:, None]
    exact = 0.5 * (np.log1p(snr * VARIANCE) + (snr * moment + 1.0) / (snr * VARIANCE + 1.0) - 1.0).mean(1)
    np.testing.assert_allclose(value, exact, rtol=1e-4)
    assert np.all(stderr > 0.0)
    with pytest.raises(InputError, match="judged"):
        Judged(FREE, np.array([-1.0, 0.0]), np.ones((3, 2))).prior_price([5.0])


def test_without_a_prior_nothing_is_added_to_a_config() -> None:
    model = GAUSSIAN.score_model(Tabulated.linear())
    chains = [Chain(Grid((1.0, 0.1, 0.0)), Isotropic(EXACT), NoDecoder(), prior=prior) for prior in (None, FREE)]
    plain, free = (chain.config(model) for chain in chains)
    assert "prior" not in plain
    assert free == plain | {"prior": FREE.config()}


def test_a_method_below_one_needs_a_prior() -> None:
    for make in (
        lambda: Chain(Grid((0.5, 0.0)), Isotropic(EXACT), NoDecoder()),
        lambda: ContinuousTime(0.1, NoDecoder(), t_max=0.5),
        lambda: Flow(t_max=0.5),
    ):
        with pytest.raises(InputError, match="prior"):
            make()


def test_more_data_of_the_same_kind_cost_what_the_model_says() -> None:
    """The generic price, 1/2 integral of R, is the closed form of a Gaussian."""
    lam = np.array([-4.0, 0.0, 3.0])
    generic = super(LinearDenoiser, FREE).prior_price(lam)[0]
    np.testing.assert_allclose(generic, FREE.prior_price(lam)[0], rtol=1e-6)
