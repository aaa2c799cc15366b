"""Prices of steps: optimality, invariance over schedules, the continuous limit, lattices and reconstruction tables."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules import SCHEDULES
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.grids.lattice import Lattice, transition_costs
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import DECODER_RATIOS
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.kernel import optimal_step_nats, reverse_kernel
from score_sde_analytic.process.schedule import VE, LinearVP

LAM = st.floats(-7.5, 9.0)


@pytest.fixture(scope="module")
def steep() -> NoiseCurve:
    lam = np.linspace(-9.0, 9.0, 19)
    return NoiseCurve(lam, 0.5 * lam + np.tanh(lam / 2))


def random_curve(seed: int) -> NoiseCurve:
    rng = np.random.default_rng(seed)
    return NoiseCurve(np.linspace(-8, 8, 6), np.cumsum(rng.exponential(size=6)) - 3)


@given(name=st.sampled_from(sorted(SCHEDULES)), lam=st.tuples(LAM, LAM), seed=st.integers(0, 99))
def test_the_optimal_variance_costs_the_optimum_under_every_schedule(name, lam, seed):
    """J/2 depends on the schedule through the two log-SNRs only."""
    assume(abs(lam[0] - lam[1]) > 1e-3)
    curve, schedule = random_curve(seed), SCHEDULES[name]
    s, t = schedule.level_at(max(lam)), schedule.level_at(min(lam))
    expected = optimal_step_nats(curve.residual(min(lam)), max(lam) - min(lam))
    assert Isotropic(curve).step_nats(curve, s, t) == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
    power = curve.noise_power(min(lam)) + curve.residual(min(lam)) * math.exp(abs(lam[0] - lam[1]))
    assert expected == pytest.approx(0.5 * math.log(power), rel=1e-9, abs=1e-14)


@given(lam=st.tuples(LAM, LAM), seed=st.integers(0, 99), other=st.integers(100, 199), name=st.sampled_from(sorted(SCHEDULES)))
def test_no_variance_beats_the_optimal_one(lam, seed, other, name):
    assume(abs(lam[0] - lam[1]) > 1e-3)
    curve, schedule = random_curve(seed), SCHEDULES[name]
    s, t = schedule.level_at(max(lam)), schedule.level_at(min(lam))
    best = optimal_step_nats(curve.residual(min(lam)), max(lam) - min(lam))
    for covariance in (Beta(), BetaTilde(), Isotropic(random_curve(other)), Isotropic(curve, 0.01)):
        assert covariance.step_nats(curve, s, t) >= best * (1 - 1e-6) - 1e-12


@pytest.mark.parametrize("covariance", [Beta(), BetaTilde(), Isotropic(NoiseCurve(np.zeros(1), np.zeros(1)))])
def test_cost_is_the_kl_divergence(schedule, steep, covariance):
    """1/2 [log(v / rho^2) + (rho^2 + b^2 V0) / v - 1], written out."""
    s, t = schedule.level(0.2), schedule.level(0.7)
    kernel = reverse_kernel(s, t)
    variance, excess = covariance.variance(kernel, t), kernel.b**2 * steep.posterior_variance(t.log_snr)
    naive = 0.5 * (math.log(variance / kernel.rho2) + (kernel.rho2 + excess) / variance - 1)
    assert covariance.step_nats(steep, s, t) == pytest.approx(naive, rel=1e-10)


def test_tiny_steps_keep_relative_precision(schedule, steep):
    """J/2 -> R h/2 as h -> 0."""
    for h in (1e-3, 1e-6, 1e-9):
        s, t = schedule.level_at(1.0 + h), schedule.level_at(1.0)
        assert optimal_step_nats(steep.residual(1.0), h) == pytest.approx(0.5 * h * steep.residual(1.0), rel=h + 1e-6)
        assert Isotropic(steep).step_nats(steep, s, t) == pytest.approx(0.5 * h * steep.residual(1.0), rel=h + 1e-5)


@pytest.mark.parametrize("count", [1000, 4000])
def test_the_continuous_limit(steep, count):
    """Sum of optimal step costs -> 1/2 integral R dlam; the excess falls as 1/K."""
    lam = np.linspace(-9, 9, 100_001)
    limit = 0.5 * np.trapezoid(steep.residual(lam), lam)

    def excess(k):
        knots = np.linspace(-9, 9, k + 1)
        return optimal_step_nats(steep.residual(knots[:-1]), np.diff(knots)).sum() - limit

    assert excess(count) > 0
    assert excess(count) == pytest.approx(2 * excess(2 * count), rel=0.02)
    # Section 8 of the theory: each step exceeds the limit by w h^2 / 4 nats, w = Lambda R dy/dlam.
    w = steep.noise_power(lam) * steep.residual(lam) * steep.y_slope(lam)
    assert excess(count) == pytest.approx(np.trapezoid(w, lam) * 18 / count / 4, rel=0.05)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_gaussian_data_cost_the_limit_at_any_number_of_steps(schedule, k):
    curve = NoiseCurve(np.zeros(1), np.array([0.7]))
    grid = even_log_snr(schedule, k + 1, 0.01)
    ends = schedule.log_snr(np.array([1.0, grid.times[-2]]))
    exact = 0.5 * np.diff(np.logaddexp(0, ends - 0.7))[0]
    assert transition_costs(schedule, curve, Isotropic(curve), grid).sum() == pytest.approx(exact, rel=1e-9)


def test_transitions_visit_the_grid(schedule, steep):
    grid = Grid((1.0, 0.6, 0.3, 0.1, 0.0))
    costs = transition_costs(schedule, steep, Beta(), grid)
    expected = [Beta().step_nats(steep, schedule.level(s), schedule.level(t)) for t, s in itertools.pairwise(grid.times[:-1])]
    np.testing.assert_allclose(costs, expected, rtol=1e-12)
    assert transition_costs(schedule, steep, Beta(), Grid((1.0, 0.0))).shape == (0,)


# --- lattices -----------------------------------------------------------------------------------------------------------


def test_lattice_prices_equal_direct_ones(schedule, steep):
    lattice = Lattice.even_log_snr(schedule, 12, 8.0)
    matrix = lattice.costs(steep, Beta())
    for i, j in itertools.product(range(12), repeat=2):
        if i < j:
            s, t = (schedule.level(float(lattice.times[k])) for k in (i, j))
            assert matrix[i, j] == pytest.approx(float(Beta().step_nats(steep, s, t)), rel=1e-10)
        else:
            assert matrix[i, j] == np.inf


@pytest.mark.parametrize("log_snr_max", [8.0, 30.0])
def test_lattice_levels_are_noisy_and_even(schedule, log_snr_max):
    """Also when the schedule's own largest log-SNR is the limit, as with VE."""
    lattice = Lattice.even_log_snr(schedule, 50, log_snr_max)
    assert np.all(lattice.levels.sigma > 0)
    assert np.all(np.diff(lattice.times) > 0)
    assert lattice.times[-1] == 1.0
    lam = lattice.levels.log_snr
    np.testing.assert_allclose(np.diff(lam), lam[1] - lam[0], rtol=1e-6)
    assert lam[0] == pytest.approx(min(log_snr_max, schedule.log_snr_range[1]))


def test_optimal_costs_are_monge(curve, table):
    """cost[i, j] + cost[i+1, j+1] <= cost[i, j+1] + cost[i+1, j] wherever y is nondecreasing."""
    lattice = Lattice.even_log_snr(table, 120, 8.0)
    c = lattice.costs(curve, Isotropic(curve))
    i, j = np.triu_indices(119, 1)
    inside = i + 1 < j
    i, j = i[inside], j[inside]
    assert np.all(c[i, j] + c[i + 1, j + 1] <= c[i, j + 1] + c[i + 1, j] + 1e-9)


def test_optimal_grids_are_priced_right_and_improve(schedule, steep):
    lattice = Lattice.even_log_snr(schedule, 60, 8.0)
    first = -0.4 * lattice.levels.log_snr  # the continuous trade between stopping early and late
    grids = lattice.optimal_grids(steep, Isotropic(steep), first, 12, "test")
    assert [g.steps for g in grids.values()] == list(grids) == list(range(1, 13))
    for grid in grids.values():
        at = int(np.argmin(np.abs(lattice.times - grid.times[-2])))
        assert grid.times[0] == 1.0
        assert grid.cost == pytest.approx(transition_costs(schedule, steep, Isotropic(steep), grid).sum() + first[at], abs=1e-9)
        if grid.steps > 1:
            other = even_log_snr(schedule, grid.steps, grid.times[-2])
            rival = transition_costs(schedule, steep, Isotropic(steep), other).sum() + first[at]
            assert grid.cost <= rival + 0.02 * abs(rival)  # the rival may use times between lattice points
    costs = np.array([g.cost for g in grids.values()])
    assert np.all(np.diff(costs) <= 1e-12)
    assert np.all(np.diff(costs, 2) >= -1e-9)  # convex in K: Monge
    assert "60 levels: test" in grids[1].objective


def test_grids_are_shared_across_schedules(steep):
    """At the same lattice of log-SNRs, VP and VE choose the same noise levels."""
    low = max(s.log_snr(1.0) for s in (LinearVP(), VE()))
    chosen = []
    for schedule in (LinearVP(), VE()):
        lam = np.linspace(8.0, low, 40)
        lattice = Lattice(schedule, schedule.time(lam))
        grid = lattice.optimal_grids(steep, Isotropic(steep), np.where(lam == 8.0, 0.0, np.inf), 6)[6]
        chosen.append(schedule.log_snr(np.array(grid.times[:-1])))
    np.testing.assert_allclose(chosen[0], chosen[1], rtol=1e-9)


def test_unreachable_grids_are_left_out(table, steep):
    lattice = Lattice.even_log_snr(table, 5, 8.0)
    grids = lattice.optimal_grids(steep, Beta(), [0.0, *[np.inf] * 4], 5)
    assert list(grids) == [2, 3, 4, 5]


@pytest.mark.parametrize("k", [1, 2, 6])
def test_best_first_is_the_best_of_all(table, steep, k):
    lattice = Lattice.even_log_snr(table, 30, 8.0)
    first = np.cos(np.arange(30)) - 0.4 * lattice.levels.log_snr
    grid = lattice.best_first(lambda t_1: even(k, t_1), steep, BetaTilde(), first)
    options = []
    for t_1, last in zip(lattice.times, first, strict=True):
        candidate = even(k, float(t_1)) if t_1 < 1 else Grid((1.0, 0.0))
        if candidate.times[-2] != t_1:  # one step starts at t = 1 alone
            continue
        options.append((transition_costs(table, steep, BetaTilde(), candidate).sum() + last, candidate.times))
    assert (grid.cost, grid.times) == min(options)


def test_best_first_says_when_there_is_none(table, steep):
    lattice = Lattice(table, np.array([0.5, 0.9]))
    with pytest.raises(ValueError, match="finer lattice"):
        lattice.best_first(lambda t_1: Grid((1.0, 0.4, t_1 * 1e-3, 0.0)), steep, Beta(), [0.0, 0.0])


# --- reconstruction -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reconstruction() -> Reconstruction:
    """Nats of decoders N(x0_hat, s^2) with mean squared error exp(-lam) R, R = 1 / (1 + exp(-lam))."""
    lam = np.linspace(-2.0, 10.0, 25)
    noise, r = np.exp(-lam)[:, None], 1 / (1 + np.exp(-lam))[:, None]
    return Reconstruction(lam, 0.5 * (np.log(2 * np.pi * noise * DECODER_RATIOS**2) + r / DECODER_RATIOS**2))


def test_reconstruction_returns_the_table(reconstruction):
    for i, j in itertools.product((0, 7, 24), (0, 5, len(DECODER_RATIOS) - 1)):
        lam = float(reconstruction.log_snr[i])
        assert reconstruction.at(lam, DECODER_RATIOS[j] * math.exp(-lam / 2)) == pytest.approx(reconstruction.nats[i, j])


def test_best_decoder_is_the_best_of_all(reconstruction):
    """The optimal std is the root mean squared error sigma / alpha sqrt(R), to half a cell of the table."""
    lam = np.array([-1.0, 0.33, 2.0, 9.1])
    nats, std = reconstruction.best(lam)
    for value, here, width in zip(lam, nats, std, strict=True):
        brute = min(reconstruction.at(value, r * math.exp(-value / 2)) for r in 2.0 ** np.linspace(-5, 1, 601))
        assert here == pytest.approx(brute, abs=1e-3)
        assert here == pytest.approx(reconstruction.at(value, width), abs=1e-12)
        error = math.exp(-value) / (1 + math.exp(-value))
        assert width == pytest.approx(math.sqrt(error), rel=0.1)
        assert here == pytest.approx(0.5 * math.log(2 * math.pi * math.e * error), abs=0.01)
    scalar, _ = reconstruction.best(2.0)
    assert scalar.shape == (1,)


def test_one_knot_is_enough(reconstruction):
    single = Reconstruction(reconstruction.log_snr[:1], reconstruction.nats[:1])
    assert single.best([-2.0, -2.0])[0][1] == pytest.approx(reconstruction.best(-2.0)[0][0])


@pytest.mark.parametrize("ratio", [2.0**-5.1, 2.1])
def test_unmeasured_decoders_are_refused(reconstruction, ratio):
    with pytest.raises(ValueError, match="outside the measured range"):
        reconstruction.at(1.0, ratio * math.exp(-0.5))


def test_table_of_moments(moments):
    table = Reconstruction.of(moments)
    np.testing.assert_allclose(table.nats, moments.decoder_nats())
    assert table.best(9.0)[1][0] < table.best(0.0)[1][0]


def test_levels_beyond_the_knots_are_refused(reconstruction):
    """Above the last knot the table knows nothing; below the first the scale of the data takes over."""
    with pytest.raises(ValueError, match="beyond the last measured knot"):
        reconstruction.best(11.0)
    with pytest.raises(ValueError, match="beyond the last measured knot"):
        reconstruction.at(11.0, 0.01)


def test_the_decoder_of_one_step_is_that_of_the_data(mixture, moments):
    """At t = 1 x_t says nothing of x_0: the best decoder is the data's own Gaussian."""
    nats, std = Reconstruction.of(moments).best(-10.0)
    variance = mixture.statistics().variance
    assert std[0] == pytest.approx(math.sqrt(variance), rel=0.05)
    assert nats[0] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance), abs=0.05)
