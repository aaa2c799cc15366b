"""Tables: samplers read out by unit vectors, run again, kept, and priced on Gaussian data."""

import itertools
import math

import numpy as np
import pytest
import torch

from schedules import SCHEDULES
from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.data.transforms import DCT, PCA
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid, even_log_snr
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import (
    Ancestral,
    DPMSolverPP,
    Heun,
    ProbabilityFlow,
    Table,
    TableSampler,
    UniPC,
    carry,
    gaussian_price,
    generate,
    spectrum_table,
    table_of,
)
from score_sde_analytic.samplers.flow_paths import preserving
from score_sde_analytic.samplers.gaussian_tables import transfer
from score_sde_analytic.samplers.table_rows import Rule

EXACT = Rule(gain="none", ridge=0.0)
#: From a multiple of z, so that every state is rational in the variances.
RATIONAL = Rule(gain="none", ridge=0.0, start="common")
SPECTRUM = np.geomspace(0.002, 2.0, 12)


def solvers(model):
    pytest.importorskip("diffusers")
    return {
        "ddim": Ancestral(model, BetaTilde(), eta=0.0),
        "dpm2": DPMSolverPP(model, 2),
        "dpm3": DPMSolverPP(model, 3),
        "unipc2": UniPC(model, 2),
        "unipc3": UniPC(model, 3),
        "euler": ProbabilityFlow(model),
        "midpoint": ProbabilityFlow(model, "midpoint"),
    }


@pytest.fixture
def linear():
    """Gaussian data in twelve coefficients of a cosine transform, off centre."""
    return LinearDenoiser(DCT(), torch.linspace(-1.0, 1.0, 12), SPECTRUM)


@pytest.mark.parametrize("name", ["ddim", "dpm2", "dpm3", "unipc2", "unipc3", "euler", "midpoint"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float32, 1e-5, marks=pytest.mark.slow), (torch.float64, 1e-10)],
    ids=["float32", "float64"],
)
def test_a_table_gives_the_samples_of_the_solver_it_was_read_from(planar, schedule, name, dtype, tolerance):
    model = planar.score_model(schedule)
    solver = solvers(model)[name]
    grid = even_log_snr(schedule, 5, float(schedule.time(4.0)))
    table = table_of(solver, grid)
    same = TableSampler(model, table)
    if name.startswith("dpm"):
        tolerance = max(tolerance, 1e-6)  # diffusers steps in float32 whatever comes in
    options = {"shape": (2,), "count": 6, "dtype": dtype}
    np.testing.assert_allclose(table.log_snrs[0], schedule.log_snr(1.0))
    own, again = generate(solver, grid, **options), generate(same, same.grid, **options)
    torch.testing.assert_close(again, own, atol=tolerance * float(own.abs().max()), rtol=0.0)


def test_ddim_is_its_formula(schedule):
    """x_s = sigma_s / sigma_t x_t + (alpha_s - alpha_t sigma_s / sigma_t) x0_hat, unrolled by hand."""
    model = GaussianMixture([1.0], [[0.0]], 1.0).score_model(schedule)
    grid = even_log_snr(schedule, 3, float(schedule.time(2.0)))
    table = table_of(Ancestral(model, BetaTilde(), eta=0.0), grid)
    levels = grid.levels(schedule)
    row = np.array([schedule.prior_variance**0.5 / levels[0].norm])
    for i in range(3):
        np.testing.assert_allclose(table.rows[i], row, atol=1e-12)
        (a_t, s_t), (a_s, s_s) = (preserving(level.log_snr) if level.sigma else (1.0, 0.0) for level in levels[i : i + 2])
        row = np.append(s_s / s_t * row, a_s - a_t * s_s / s_t)
    np.testing.assert_allclose(table.rows[3], row, atol=1e-12)


def test_a_start_below_the_prior_is_exact_for_its_data(linear):
    """A solver from the flow of Gaussian data: rows of z, not of the state, and the mean where it belongs."""
    model = linear.score_model(LinearVP())
    times = [*model.schedule.time(np.array([-2.0, 1.0, 4.0])), 0.0]
    solver, grid = solvers(model)["unipc2"], Grid(tuple(times))
    table = TableSampler(model, table_of(solver, grid, linear))
    noise = SampleNoise(0, range(4))
    z = noise.draw(torch.empty(4, 12, dtype=torch.float64)).clone()
    x = linear.start(z, model.schedule.level(grid.times[0]))
    torch.testing.assert_close(table.table.start(z, model.schedule.level(grid.times[0])), x)
    runs = [carry(sampler, sampler.plan(table.grid), x, noise) for sampler in (solver, table)]
    torch.testing.assert_close(runs[1], runs[0], atol=1e-10, rtol=0.0)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (lambda model: Ancestral(model, BetaTilde()), "takes noise"),
        (lambda model: Heun(model), "twice at a level"),
    ],
)
def test_what_is_no_table(planar, solver, message):
    model = planar.score_model(LinearVP())
    with pytest.raises(UnsupportedError, match=message):
        table_of(solver(model), even_log_snr(model.schedule, 4, 0.01))


# --- Gaussian data ---


def linear_run(table, linear, schedule, count):
    """Samples of the exact linear model through the sampler itself, in float64."""
    model = linear.score_model(schedule)
    sampler = TableSampler(model, table)
    return generate(sampler, sampler.grid, (len(SPECTRUM),), count, dtype=torch.float64, batch_size=count)


@pytest.mark.parametrize("rule", [Rule(ridge=1e-3), EXACT, Rule(gain="common")], ids=["default", "exact", "common"])
def test_the_price_on_gaussian_data_is_what_samples_show(linear, schedule, rule):
    """Brute force: the samples are mu + U^T r U z to rounding, and Monte Carlo: E (sample - flow's end)^2 is the price."""
    table = spectrum_table(linear, 2, np.array([-1.5, 2.0]), rule)
    x = linear_run(table, linear, schedule, 4000)
    z = SampleNoise(0, range(4000)).draw(torch.empty(4000, 12, dtype=torch.float64))
    r = torch.from_numpy(transfer(table, SPECTRUM))
    torch.testing.assert_close(linear.basis.forward(x - linear.mean), r * linear.basis.forward(z), atol=1e-9, rtol=0.0)
    squares = (linear.basis.forward(x - linear.mean) - linear.basis.forward(z) * SPECTRUM**0.5).square().sum(1)
    price = gaussian_price(table, SPECTRUM)
    assert float(squares.mean()) == pytest.approx(price, abs=5.0 * float(squares.std()) / 4000**0.5 + 1e-12)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_rows_reach_the_least_squares_of_all_rational_functions_with_their_poles(linear, steps):
    """Whatever the states between, (z, m_K, ..) span 1, c / (c + exp(-lam_j)): the last row's residual is that of the span."""
    table = spectrum_table(linear, steps, rule=RATIONAL)
    poles = np.exp(-table.log_snrs)
    span = np.stack([np.ones(12), *(SPECTRUM / (SPECTRUM + pole) for pole in poles)], 1)
    residual = SPECTRUM**0.5 - span @ np.linalg.lstsq(span, SPECTRUM**0.5, rcond=1e-15)[0]
    assert gaussian_price(table, SPECTRUM) == pytest.approx(np.sum(residual**2), rel=1e-6)


def test_with_enough_calls_the_price_vanishes_geometrically():
    c = np.geomspace(0.002, 2.0, 200)
    linear = LinearDenoiser(DCT(), torch.zeros(200), c)
    prices = [gaussian_price(spectrum_table(linear, steps, rule=EXACT, quantile=0.0), c) / c.sum() for steps in (3, 6, 9, 12)]
    assert prices[-1] < 1e-10
    assert all(later < 1e-2 * earlier for earlier, later in itertools.pairwise(prices))


def test_zolotarev_calls_beat_the_usual_ones():
    c = np.geomspace(0.002, 2.0, 64)
    linear = LinearDenoiser(DCT(), torch.zeros(64), c)
    ours = gaussian_price(spectrum_table(linear, 5, rule=RATIONAL, quantile=0.0), c)
    usual = gaussian_price(spectrum_table(linear, 5, np.linspace(-10.0, 9.0, 5), RATIONAL), c)
    assert ours < 1e-3 * usual


def test_gains_per_coordinate_make_gaussian_data_exact(linear):
    assert gaussian_price(spectrum_table(linear, 2), SPECTRUM) < 1e-20


# --- the sampler ---


def test_samples_do_not_depend_on_the_batch(linear, schedule):
    sampler = TableSampler(linear.score_model(schedule), spectrum_table(linear, 3))
    options = {"shape": (12,), "count": 5}
    together, alone = (generate(sampler, sampler.grid, batch_size=size, **options) for size in (5, 1))
    torch.testing.assert_close(together, alone)


def test_calls_are_as_many_as_steps(linear):
    model = linear.score_model(LinearVP())
    sampler = TableSampler(model, spectrum_table(linear, 4))
    with model.metered() as cost:
        generate(sampler, sampler.grid, (12,), 7)
    assert (cost.calls, cost.evaluations) == (4, 28)
    assert sampler.calls(sampler.grid) == 4


@pytest.mark.parametrize("schedule", [SCHEDULES["ve"], SCHEDULES["sub_vp"]], ids=["ve", "sub_vp"])
def test_one_table_serves_every_schedule(linear, schedule):
    table = spectrum_table(linear, 3)
    torch.testing.assert_close(linear_run(table, linear, schedule, 4), linear_run(table, linear, LinearVP(), 4))


def test_half_precision_networks_and_latent_shapes():
    mean, spectrum = torch.zeros(2, 3, 4), np.geomspace(0.1, 1.0, 24).reshape(2, 3, 4)
    linear = LinearDenoiser(DCT(), mean, spectrum)

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float16))

        def forward(self, x, t):
            return x * self.weight

    model = ScoreModel(Half().eval(), LinearVP(), predicts="x_0")
    sampler = TableSampler(model, spectrum_table(linear, 3))
    x = generate(sampler, sampler.grid, (2, 3, 4), 3, dtype=torch.float16)
    assert x.shape == (3, 2, 3, 4)
    assert x.dtype == torch.float16


def test_another_grid_is_refused(linear):
    sampler = TableSampler(linear.score_model(LinearVP()), spectrum_table(linear, 3))
    with pytest.raises(InputError, match="its own times"):
        generate(sampler, even_log_snr(LinearVP(), 3, 0.01), (12,), 2)


def test_a_file_gives_the_same_table(linear, tmp_path):
    table = spectrum_table(linear, 3)
    table.save(tmp_path / "table.safetensors")
    again = Table.load(tmp_path / "table.safetensors")
    assert again.digest == table.digest
    assert (again.label, again.network, dict(again.facts)) == (table.label, None, {})
    torch.testing.assert_close(linear_run(again, linear, LinearVP(), 3), linear_run(table, linear, LinearVP(), 3))


def test_a_table_of_another_network_is_refused(linear, planar):
    table = spectrum_table(linear, 2)
    model = linear.score_model(LinearVP())
    own = Table(table.log_snrs, table.rows, table.shifts, table.mean, table.basis, network=model.fingerprint())
    TableSampler(model, own)
    with pytest.raises(InputError, match="made for something else"):
        TableSampler(planar.score_model(LinearVP()), own)


@pytest.mark.parametrize(
    ("log_snrs", "rows", "message"),
    [
        ([1.0, 0.0], [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0]], "ascend"),
        ([0.0, 1.0], [[1.0], [0.0, 1.0]], "need 3 rows"),
        ([0.0], [[1.0], [0.0, 1.0, 2.0]], "row 1 weighs 2 terms"),
        ([0.0], [[0.0], [0.0, 1.0]], "none of its weights may be 0"),
        ([math.nan], [[1.0], [0.0, 1.0]], "finite"),
    ],
)
def test_parts_that_do_not_fit(log_snrs, rows, message):
    with pytest.raises(InputError, match=message):
        Table(log_snrs, rows)


@pytest.mark.parametrize("spectrum", [[1.0], [1.0, 2.0, 3.0], np.ones((2, 4))])
def test_a_price_is_of_as_many_coefficients_as_the_table_has(spectrum):
    table = spectrum_table(LinearDenoiser(PCA(np.eye(4)), torch.zeros(4), np.array([2.0, 1.0, 0.5, 0.1])), 3)
    with pytest.raises(InputError, match="of coefficients"):
        gaussian_price(table, spectrum)
