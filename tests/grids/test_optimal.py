"""Closed-form and refined grids, budgets and other objectives, against dynamic programming, quadrature and limits."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad

from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.grids.optimal import (
    Objective,
    budget_law,
    closed_form,
    closed_form_levels,
    entropic,
    refined,
    steps_for,
)
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.kernel import optimal_step_nats
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, Schedule, SubVP

LOW, HIGH = -10.0, 9.0


@pytest.fixture(scope="module")
def mixture_curve(mixture) -> NoiseCurve:
    """R of the mixture's exact posterior at 40 levels, 2,000 states each."""
    schedule, lam = CosineVP(), np.linspace(LOW, HIGH, 40)
    return NoiseCurve.from_residual(lam, [mixture.residual(schedule.level_at(float(v)), 2000)[0] for v in lam])


@pytest.fixture(scope="module")
def objective(mixture_curve) -> Objective:
    return Objective(mixture_curve, LOW, HIGH)


def lattice_costs(curve: NoiseCurve, points: int, most: int) -> np.ndarray:
    """Optimal costs of paths from HIGH to LOW with 1 .. most transitions, by dynamic programming."""
    lattice = Lattice.even_log_snr(ENDS["cosine"], points, HIGH)
    first = np.where(np.arange(points) == 0, 0.0, np.inf)
    grids = lattice.optimal_grids(curve, Isotropic(curve), first, most + 1)
    return np.array([grids[steps].cost for steps in range(2, most + 2)])


def ends(name: str) -> Schedule:
    """A schedule of each kind whose log-SNR at t = 1 is LOW."""
    log_alpha = -0.5 * np.logaddexp(0.0, -LOW)
    sub_vp = -np.arcsinh(0.5 * np.exp(-0.5 * LOW))
    return {
        "linear": lambda: LinearVP(0.1, -4 * log_alpha - 0.1),
        "sub_vp": lambda: SubVP(0.1, -4 * sub_vp - 0.1),
        "cosine": lambda: CosineVP(log_snr_min=LOW),
        "ve": lambda: VE(0.005, math.exp(-LOW / 2)),
    }[name]()


ENDS = {name: ends(name) for name in ("linear", "sub_vp", "cosine", "ve")}


def test_gradient_is_that_of_the_cost(objective):
    lam = np.array([LOW, -6.3, -1.0, 0.7, 3.3, 6.1, 8.0])
    h = 1e-6
    numeric = [(objective.cost(lam + h * row) - objective.cost(lam - h * row)) / (2 * h) for row in np.eye(len(lam))]
    np.testing.assert_allclose(objective.gradient(lam), numeric, atol=1e-8)


@pytest.mark.parametrize("steps", [2, 5, 10, 30])
def test_refined_is_stationary_and_never_worse(objective, steps):
    start = closed_form_levels(objective, steps)
    grid = refined(ENDS["cosine"], objective, steps)
    assert grid.cost <= objective.cost(start) + 1e-14
    levels = np.asarray(ENDS["cosine"].log_snr(np.array(grid.times[:-1])))
    # The ends are fixed; what is free has no slope left, to the tolerance of the optimiser on a curve with kinks in y''.
    np.testing.assert_allclose(objective.gradient(levels)[1:-1], 0.0, atol=2e-5)


@pytest.mark.parametrize("points", [101, 402])
def test_refined_is_no_worse_than_any_lattice(mixture_curve, objective, points):
    costs = lattice_costs(mixture_curve, points, 30)
    for transitions in (1, 4, 9, 19, 29):
        assert refined(ENDS["cosine"], objective, transitions + 1).cost <= costs[transitions - 1] + 1e-9


def test_closed_form_is_within_five_percent_of_the_optimum(mixture_curve, objective):
    costs = lattice_costs(mixture_curve, 801, 100)
    limit = objective.continuous_limit
    for steps in (10, 20, 50, 100):
        best = min(costs[steps - 2], refined(ENDS["cosine"], objective, steps).cost) - limit
        assert closed_form(ENDS["cosine"], objective, steps).cost - limit < 1.05 * best


def test_excess_follows_the_law(objective):
    """K times the excess tends to I^2 / 4: 2 % off at K = 100."""
    for steps, tolerance in ((20, 0.05), (100, 0.02)):
        excess = refined(ENDS["cosine"], objective, steps).cost - objective.continuous_limit
        assert excess == pytest.approx(objective.excess_law(steps), rel=tolerance)


def test_law_and_search_agree_on_budgets(mixture_curve, objective):
    costs = [math.inf, *lattice_costs(mixture_curve, 801, 200)]
    for excess in (0.05, 0.02):
        assert steps_for(excess, costs, objective.continuous_limit) == pytest.approx(budget_law(objective, excess), abs=2)
    assert steps_for(1e-9, costs, objective.continuous_limit) is None


def test_spread_is_the_excess_of_a_small_step(mixture_curve, objective):
    """Cost of a step of size h less its continuous limit is w h^2 / 4 + O(h^3)."""
    h = 1e-3
    for lam in (-3.03, 0.21, 3.37):
        limit = 0.5 * quad(mixture_curve.residual, lam, lam + h, epsabs=1e-16)[0]
        excess = optimal_step_nats(mixture_curve.residual(lam), h) - limit
        assert excess == pytest.approx(mixture_curve.spread(lam) * h**2 / 4, rel=5e-3)


def test_klub_is_the_cost_of_beta_tilde_less_its_limit(mixture_curve):
    """1/2 integral (mmse_t - mmse(u)) du over the SNR of a step whose x0_hat is frozen, by quadrature."""
    for low, high in ((-2.0, -0.5), (1.0, 3.0)):
        s, t = ENDS["cosine"].level_at(high), ENDS["cosine"].level_at(low)
        frozen = mixture_curve.posterior_variance(low)
        moving = quad(lambda lam: mixture_curve.posterior_variance(lam) * math.exp(lam), low, high)[0]
        klub = 0.5 * (frozen * (math.exp(high) - math.exp(low)) - moving)
        limit = 0.5 * quad(mixture_curve.residual, low, high)[0]
        assert float(BetaTilde().step_nats(mixture_curve, s, t)) - limit == pytest.approx(klub, rel=1e-6)


def test_entropic_steps_carry_equal_information(objective):
    levels = np.asarray(ENDS["cosine"].log_snr(np.array(entropic(ENDS["cosine"], objective, 8).times[:-1])))
    information = [quad(objective.curve.residual, a, b)[0] for a, b in pairwise(levels)]
    np.testing.assert_allclose(information, np.mean(information), rtol=0.02)


def test_every_schedule_gets_the_same_levels_and_bits(mixture):
    """Measured anew under each schedule: one optimal grid in log-SNR and one cost, the prior apart."""
    results = {}
    for name, schedule in ENDS.items():
        moments = estimate(
            mixture.score_model(schedule),
            mixture.sample(2000),
            np.linspace(LOW, HIGH, 20),
            Budget(max_draws=300),
            statistics=mixture.statistics(),
            progress=False,
        )
        curve, table = NoiseCurve.fit(moments), Reconstruction.of(moments)
        lattice = Lattice.even_log_snr(schedule, 150, HIGH)
        first = table.best(lattice.levels.log_snr)[0]
        grid = lattice.optimal_grids(curve, Isotropic(curve), first, 10)[10]
        objective = Objective(curve, LOW, HIGH, (lattice.levels.log_snr[::-1], first[::-1]))
        fine = refined(schedule, objective, 10)
        results[name] = (
            schedule.log_snr(np.array(grid.times[:-1])),
            grid.cost,
            schedule.log_snr(np.array(fine.times[:-1])),
            fine.cost,
        )
    for name, (levels, cost, fine, fine_cost) in results.items():
        np.testing.assert_allclose(levels, results["linear"][0], atol=1e-8, err_msg=name)
        np.testing.assert_allclose(fine, results["linear"][2], atol=1e-3, err_msg=name)
        assert cost == pytest.approx(results["linear"][1], abs=1e-9)
        assert fine_cost == pytest.approx(results["linear"][3], abs=1e-9)


@st.composite
def curves(draw) -> NoiseCurve:
    """Any nondecreasing y, flat stretches and all, or a raw table that is not monotone."""
    count = draw(st.integers(1, 8))
    knots = np.sort(draw(st.lists(st.floats(-9, 9), min_size=count, max_size=count, unique=True)))
    assume(count == 1 or np.diff(knots).min() > 1e-3)
    rises = np.array(draw(st.lists(st.sampled_from([0.0, 0.0, 1e-6, 0.5, 4.0]), min_size=count, max_size=count)))
    if draw(st.booleans()):
        rises = rises * np.array(draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=count, max_size=count)))
    # Extremes put R at 0 or 1 to rounding at an end.
    return NoiseCurve(knots, draw(st.sampled_from([-60.0, -2.0, 0.0, 60.0])) + np.cumsum(rises))


@pytest.mark.slow
@given(curves(), st.integers(1, 40), st.booleans())
def test_any_curve_gives_a_valid_grid(curve, steps, reconstruct):
    """`Grid` itself refuses duplicates and disorder."""
    lam = np.linspace(LOW, HIGH, 60)
    table = (lam, 0.05 * (lam - 4.0) ** 2) if reconstruct else None
    objective = Objective(curve, LOW, HIGH, table)
    for make in (closed_form, refined, entropic):
        grid = make(ENDS["linear"], objective, steps)
        assert grid.steps == steps
        assert math.isfinite(grid.cost)


def test_gaussian_data_cost_the_same_on_any_grid():
    """w = 0: a single number of steps is as good as any other."""
    objective = Objective(NoiseCurve(np.array([0.0]), np.array([0.7])), LOW, HIGH)
    for steps in (2, 7, 50):
        assert closed_form(ENDS["ve"], objective, steps).cost == pytest.approx(objective.continuous_limit, abs=1e-6)
    assert objective.excess_law(3) == pytest.approx(0.0, abs=1e-12)


def test_the_reconstruction_moves_the_first_time(mixture_curve):
    lam = np.linspace(LOW, HIGH, 200)
    free = Objective(mixture_curve, LOW, HIGH, (lam, 0.3 * np.maximum(4.0 - lam, 0.0)))
    levels = closed_form_levels(free, 10)
    assert levels[-1] < HIGH
    refined_levels = np.asarray(ENDS["ve"].log_snr(np.array(refined(ENDS["ve"], free, 10).times[:-1])))
    np.testing.assert_allclose(free.gradient(refined_levels)[1:], 0.0, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: closed_form(ENDS["ve"], o, 0), "at least 1"),
        (lambda o: refined(ENDS["ve"], o, 3, [0.0, -1.0, 2.0]), "strictly increasing"),
        (lambda o: steps_for(0.0, [1.0], 0.5), "above 0"),
        (lambda o: budget_law(o, -1.0), "above 0"),
        (lambda o: Objective(o.curve, 1.0, math.inf), "finite log-SNRs"),
    ],
)
def test_errors(objective, call, message):
    with pytest.raises(ValueError, match=message):
        call(objective)


def test_one_step_has_no_transitions(objective):
    for make in (closed_form, refined, entropic):
        assert make(ENDS["ve"], objective, 1).times == (1.0, 0.0)
    assert objective.excess_law(1) == math.inf


def test_uncertainty_is_carried_through(moments: Moments):
    """Jackknife of the budget: positive, and smaller with the law's averaging than the error of a single R."""
    value, error = moments.jackknife(lambda m: budget_law(Objective(NoiseCurve.fit(m), LOW, HIGH), 0.05))
    assert 0 < float(error) < 0.2 * float(value)
