"""Samplers: exact marginals, published updates, one call per step, seeds that do not see the batch."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from score_sde_analytic.covariance.base import StepCovariance
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, IsotropicStep
from score_sde_analytic.grids.grid import Grid, even, even_log_snr, karras, quadratic
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.schedule import LinearVP, Tabulated
from score_sde_analytic.samplers import Ancestral, carry, generate
from score_sde_analytic.samplers.base import prior_sample

MEAN, VARIANCE = 0.7, 0.3
EXACT = NoiseCurve(np.zeros(1), np.array([-math.log(VARIANCE)]))
GAUSSIAN = GaussianMixture([1.0], [[MEAN]], VARIANCE)


class Fixed:
    """Noise that is always the same tensor."""

    def __init__(self, z):
        self.z = torch.tensor(z, dtype=torch.float64)

    def draw(self, like):
        return self.z.to(like)


def pointwise(schedule, calls=None):
    """The exact score of N(MEAN, VARIANCE) in every coordinate, row by row: any shape, any batch."""

    def net(x, t):
        if calls is not None:
            calls.append(len(x))
        alpha, sigma = schedule.alpha(float(t[0])), schedule.sigma(float(t[0]))
        return sigma * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)

    return ScoreModel(net, schedule)


# --- exact marginals ----------------------------------------------------------------------------------------------------

GRIDS = {
    "even": lambda schedule, k: even(k, 1e-3),
    "quadratic": lambda schedule, k: quadratic(k, 1e-2),
    "even_log_snr": lambda schedule, k: even_log_snr(schedule, k, 1e-3),
    "karras": lambda schedule, k: karras(schedule, k, 1e-3),
}


def propagate(sampler, grid, mean, variance):
    """Mean and variance after every step of a linear sampler, from probes (x, z) = (0, 0), (1, 0), (0, 1)."""
    noise, history = Fixed([[0.0], [0.0], [1.0]]), []
    for step in sampler.plan(grid):
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        offset, at_one, at_noise = sampler.step(x, step, None, noise)[0].flatten().tolist()
        mean = offset + (at_one - offset) * mean
        variance = (at_one - offset) ** 2 * variance + (at_noise - offset) ** 2
        history.append((step.s, mean, variance))
    return history


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("k", [1, 2, 5, 50])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_gaussian_marginals_are_exact(schedule, eta, k, name):
    """Analytic variances carry N(alpha m, alpha^2 c^2 + sigma^2) from any level to any other, for every eta and grid."""
    sampler = Ancestral(GAUSSIAN.score_model(schedule), Isotropic(EXACT), eta, final="draw")
    top = schedule.level(1.0)
    history = propagate(sampler, GRIDS[name](schedule, k), top.alpha * MEAN, top.alpha**2 * VARIANCE + top.sigma**2)
    assert len(history) == k
    for level, mean, variance in history:
        assert mean == pytest.approx(level.alpha * MEAN, rel=1e-9)
        assert variance == pytest.approx(level.alpha**2 * VARIANCE + level.sigma**2, rel=1e-9)
    assert history[-1][1:] == (pytest.approx(MEAN, rel=1e-9), pytest.approx(VARIANCE, rel=1e-9))


def test_a_mean_ends_without_its_posterior_variance(schedule):
    """final="mean" loses exactly V0 of the last level: Var x_0 = E Cov + Var E."""
    top, grid = schedule.level(1.0), even(5, 0.3)
    sampler = Ancestral(GAUSSIAN.score_model(schedule), Isotropic(EXACT))
    variance = propagate(sampler, grid, top.alpha * MEAN, top.alpha**2 * VARIANCE + top.sigma**2)[-1][2]
    v0 = EXACT.posterior_variance(schedule.log_snr(0.3))
    assert variance == pytest.approx(VARIANCE - v0, rel=1e-8)


@pytest.mark.parametrize("covariance", [BetaTilde(), Beta()])
def test_handcrafted_variances_are_wrong_on_few_steps(covariance):
    schedule = LinearVP()
    sampler = Ancestral(GAUSSIAN.score_model(schedule), covariance, final="draw")
    variance = propagate(sampler, even(5, 1e-3), 0.0, 1.0)[-1][2]
    assert abs(variance - VARIANCE) > 0.02


def test_distribution_of_samples(schedule):
    """Kolmogorov-Smirnov at level 1e-5 with a fixed seed, one test per schedule."""
    sampler = Ancestral(pointwise(schedule), Isotropic(EXACT), final="draw")
    x = generate(sampler, even_log_snr(schedule, 5, 0.01), (1,), 4000, seed=1, batch_size=4000, dtype=torch.float64)
    assert kstest(x.flatten().numpy(), "norm", args=(MEAN, math.sqrt(VARIANCE))).pvalue > 1e-5


def test_mixture_samples(triple):
    """Two hundred exact-score steps reproduce a multimodal law: Kolmogorov-Smirnov at level 1e-5."""
    schedule = LinearVP()
    moments_free = NoiseCurve(np.zeros(1), np.array([3.0]))
    sampler = Ancestral(triple.score_model(schedule), Isotropic(moments_free), final="draw")
    x = generate(sampler, even_log_snr(schedule, 200, 1e-4), (1,), 2000, seed=3, batch_size=2000, dtype=torch.float64)
    grid = np.linspace(-4, 4, 8001)
    density = triple.log_density(torch.from_numpy(grid)[:, None], schedule.level(0.0)).exp().numpy()
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (grid[1] - grid[0])])
    assert kstest(x.flatten().numpy(), lambda v: np.interp(v, grid, cdf)).pvalue > 1e-5


# --- published updates --------------------------------------------------------------------------------------------------


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(3)]


@pytest.mark.parametrize(("n", "m"), [(1000, 900), (500, 499), (100, 1), (7, 0)])
def test_ddim_update(state, n, m):
    """Song et al., 2021, eq. 12 with sigma = 0: sqrt(bar_s) x0_hat + sqrt(1 - bar_s) eps_hat."""
    x, eps, z = state
    table = Tabulated.linear()
    bar = np.concatenate([[1.0], np.cumprod(1 - table.betas)])
    sampler = Ancestral(ScoreModel(lambda x, t: eps, table), BetaTilde(), eta=0.0)
    step = sampler.plan(Grid((n / 1000, m / 1000) if m == 0 else (n / 1000, m / 1000, 0.0)))[0]
    x_0 = (x - math.sqrt(1 - bar[n]) * eps) / math.sqrt(bar[n])
    expected = math.sqrt(bar[m]) * x_0 + math.sqrt(1 - bar[m]) * eps
    torch.testing.assert_close(sampler.step(x, step, None, Fixed(z.tolist()))[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1000, 500, 2])
@pytest.mark.parametrize("covariance", [Beta(), BetaTilde()])
def test_ddpm_update(state, n, covariance):
    """Ho et al., 2020, algorithm 2: (x - beta eps / sqrt(1 - bar)) / sqrt(1 - beta) + sigma z."""
    x, eps, z = state
    table = Tabulated.linear()
    bar, beta = np.concatenate([[1.0], np.cumprod(1 - table.betas)]), table.betas[n - 1]
    sampler = Ancestral(ScoreModel(lambda x, t: eps, table), covariance)
    step = sampler.plan(Grid((n / 1000, (n - 1) / 1000, 0.0)))[0]
    variance = beta if isinstance(covariance, Beta) else (1 - bar[n - 1]) / (1 - bar[n]) * beta
    expected = (x - beta / math.sqrt(1 - bar[n]) * eps) / math.sqrt(1 - beta) + math.sqrt(variance) * z
    torch.testing.assert_close(sampler.step(x, step, None, Fixed(z.tolist()))[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_diffusers_ddim_scheduler(state, eta):
    """The same update as diffusers' DDIMScheduler, within its float32 table."""
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    x, eps, z = state
    scheduler = diffusers.DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)
    scheduler.set_timesteps(10)
    sampler = Ancestral(ScoreModel(lambda x, t: eps, Tabulated.linear()), BetaTilde(), eta)
    times = [(int(n) + 1) / 1000 for n in scheduler.timesteps]
    for n, (t, s) in zip(scheduler.timesteps, itertools.pairwise(times), strict=False):
        theirs = scheduler.step(eps, int(n), x, eta=eta, variance_noise=z).prev_sample
        ours = sampler.step(x, sampler.plan(Grid((t, s, 0.0)))[0], None, Fixed(z.tolist()))[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# --- calls, seeds, shapes, dtypes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("final", ["mean", "draw"])
def test_one_call_per_step(schedule, k, final):
    calls = []
    sampler = Ancestral(pointwise(schedule, calls), Isotropic(EXACT), final=final)
    with sampler.model.metered() as cost:
        generate(sampler, even(k, 0.01), (2,), 3, batch_size=3)
    assert calls == [3] * k
    assert cost.calls == k
    assert cost.evaluations == 3 * k


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (3, 4, 4), ()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batch(shape, dtype):
    sampler, grid = Ancestral(pointwise(LinearVP()), Isotropic(EXACT)), even(4, 0.01)
    whole = generate(sampler, grid, shape, 7, seed=5, batch_size=7, dtype=dtype)
    assert whole.shape == (7, *shape)
    assert whole.dtype == dtype
    for size in (1, 2, 3, 100):
        assert torch.equal(generate(sampler, grid, shape, 7, seed=5, batch_size=size, dtype=dtype), whole)
    later = generate(sampler, grid, shape, range(4, 7), seed=5, dtype=dtype)
    assert torch.equal(later, whole[4:])
    assert torch.equal(generate(sampler, grid, shape, 7, seed=5, dtype=dtype), whole)
    assert not torch.equal(generate(sampler, grid, shape, 7, seed=6, dtype=dtype), whole)
    assert dtype == torch.bfloat16 or len(whole.reshape(7, -1).unique(dim=0)) == 7


def test_precision_does_not_change_the_sample():
    sampler, grid = Ancestral(pointwise(LinearVP()), Isotropic(EXACT)), even(10, 0.01)
    single, half = (generate(sampler, grid, (8,), 4, seed=1, dtype=d) for d in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(half.float(), single, rtol=0, atol=0.1)


def test_the_start_has_the_prior_variance(schedule):
    """100,000 squares: relative error 0.0045, five of them leave a false alarm below 1e-6."""
    noise = Fixed(torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0)).tolist())
    x = prior_sample(schedule, noise, torch.empty(100_000, 1))
    assert float(x.var()) == pytest.approx(schedule.prior_variance, rel=0.0225)


def test_carrying_does_not_change_its_input():
    sampler = Ancestral(pointwise(LinearVP()), Isotropic(EXACT))
    x = torch.ones(3, 1, dtype=torch.float64)
    carry(sampler, sampler.plan(even(3, 0.01)), x, Fixed([[1.0]] * 3))
    assert x.tolist() == [[1.0]] * 3


# --- options and errors -------------------------------------------------------------------------------------------------


def test_last_step_is_silent_unless_drawn(schedule):
    for final, noisy in (("mean", False), ("draw", True)):
        plan = Ancestral(pointwise(schedule), Isotropic(EXACT), final=final).plan(even(4, 0.01))
        assert [step.noisy for step in plan] == [True, True, True, noisy]


@pytest.mark.parametrize("clip", [1e-3, 0.05, 100.0, 1e300])
def test_clip_bounds_the_last_noise(schedule, clip):
    """E|z| std <= clip, with E|z| = sqrt(2 / pi), on the last step before the data only."""
    free, clipped = (Ancestral(pointwise(schedule), Isotropic(EXACT), clip=c).plan(even(5, 0.01)) for c in (0.0, clip))
    variances = [[step.covariance.variance for step in plan] for plan in (free, clipped)]
    assert variances[0][:3] == variances[1][:3]
    assert variances[0][4] == variances[1][4]
    assert math.sqrt(2 / math.pi * variances[1][3]) <= clip * (1 + 1e-12)
    assert variances[1][3] == pytest.approx(min(variances[0][3], clip * clip * math.pi / 2))


def test_clip_leaves_a_single_step_alone(schedule):
    assert len(Ancestral(pointwise(schedule), Isotropic(EXACT), clip=0.1).plan(even(1, 0.5))) == 1


def test_clip_needs_an_isotropic_covariance():
    class Coloured(StepCovariance):
        def add_noise(self, mean, prediction, z):
            return mean

        def kl(self, kernel, prediction, x_0):
            return torch.zeros(len(x_0))

    class Other(Isotropic):
        def steps(self, kernels, levels):
            return [Coloured() for _ in kernels]

    with pytest.raises(ValueError, match="isotropic"):
        Ancestral(pointwise(LinearVP()), Other(EXACT), clip=0.1).plan(even(3, 0.1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eta": -0.1}, "eta"),
        ({"eta": 1.1}, "eta"),
        ({"eta": math.nan}, "eta"),
        ({"covariance": Beta(), "eta": 0.5}, "beta"),
        ({"final": "sample"}, "final"),
        ({"clip": -1.0}, "clip"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Ancestral(**({"model": pointwise(LinearVP()), "covariance": Isotropic(EXACT)} | options))


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 2, "batch_size": 0}])
def test_counts_must_be_positive(options):
    with pytest.raises(ValueError, match="at least 1"):
        generate(Ancestral(pointwise(LinearVP()), Isotropic(EXACT)), even(2, 0.1), (1,), **options)


@pytest.mark.parametrize("k", [1, 4])
def test_divergence_is_reported(k):
    """Finite network outputs whose x_0 overflows float32."""
    model = ScoreModel(lambda x, t: torch.full_like(x, 3e38), LinearVP())
    with pytest.raises(RuntimeError, match="NaN or inf"):
        generate(Ancestral(model, Isotropic(EXACT)), even(k, 0.01), (1,), 2)


def test_a_plan_holds_the_kernels(schedule):
    plan = Ancestral(pointwise(schedule), Isotropic(EXACT), 0.5).plan(even(3, 0.1))
    for step in plan:
        assert step.kernel == reverse_kernel(step.s, step.t, 0.5)
        assert isinstance(step.covariance, IsotropicStep)
        assert all(type(value) is float for value in (step.kernel.a, step.kernel.b, step.kernel.rho2, step.covariance.variance))


def test_samples_start_from_the_prior():
    sampler = Ancestral(ScoreModel(lambda x, t: x, LinearVP()), BetaTilde())
    with pytest.raises(ValueError, match="begin it with 1"):
        generate(sampler, Grid((0.5, 0.1, 0.0)), (2,), 3)
