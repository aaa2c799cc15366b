"""Samples that start from examples, diffused to a level: SDEdit."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic import grids
from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import VE, LinearVP, RectifiedFlow
from score_sde_analytic.samplers import Ancestral, Heun, generate

VP = LinearVP()
FAR = GaussianMixture([0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], 0.01)
MODEL = FAR.conditional(VP)


def rows(n=6):
    return torch.linspace(-1.0, 1.0, 2 * n, dtype=torch.float64).reshape(n, 2)


def begun(log_snr, steps=6, schedule=VP):
    return grids.even_log_snr(schedule, steps, 0.001, top=schedule.time(log_snr))


@pytest.mark.parametrize("schedule", [VP, VE(), RectifiedFlow()])
def test_the_first_state_is_the_diffused_example(schedule):
    """alpha x_0 + sigma z, z the draw that the prior would be made of."""
    seen = []
    model = FAR.score_model(schedule)
    generate(
        Ancestral(model, BetaTilde()),
        begun(-0.5, schedule=schedule),
        (2,),
        6,
        seed=2,
        dtype=torch.float64,
        start=(rows(), -0.5),
        callback=lambda step: seen.append(step["x"].clone()),
    )
    z = SampleNoise(2, range(6)).draw(rows())
    torch.testing.assert_close(seen[0], schedule.level_at(-0.5).diffuse(rows(), z))


@pytest.mark.parametrize("rule", [lambda m: Ancestral(m, BetaTilde()), Heun])
def test_equal_seeds_whatever_the_batch(rule):
    """By rows, by what gives rows for indices, on from where others ended; of many domains by condition."""
    x_0, labels, grid = rows(), torch.tensor([0, 1, 2, 2, 1, 0]), begun(-2.0)

    def draw(count, batch, start, conditions):
        return generate(rule(MODEL), grid, (2,), count, 5, batch, conditions={"component": conditions}, start=(start, -2.0))

    whole = draw(6, 6, x_0, labels)
    assert torch.equal(torch.cdist(whole.double(), FAR.means).argmin(1), labels)
    torch.testing.assert_close(draw(6, 4, x_0, labels), whole)
    torch.testing.assert_close(draw(6, 4, lambda indices: x_0[list(indices)], labels), whole)
    torch.testing.assert_close(draw(range(2, 6), 3, x_0[2:], labels[2:]), whole[2:])


def test_from_pure_noise_it_is_the_prior():
    """At alpha = 0 the example is forgotten."""
    model = FAR.score_model(RectifiedFlow())
    grid = Grid((1.0, 0.6, 0.3, 0.0))
    plain = generate(Heun(model), grid, (2,), 4)
    found = generate(Heun(model), grid, (2,), 4, start=(rows(4), float("-inf")))
    assert torch.equal(plain, found)


def test_little_noise_leaves_the_example():
    """The distance to the example falls with the level, to nothing."""
    x_0 = FAR.sample(50)
    model, apart = FAR.score_model(VP), []
    for log_snr in (-4.0, 0.0, 4.0, 8.0):
        x = generate(Heun(model), begun(log_snr, 20), (2,), 50, dtype=torch.float64, start=(x_0, log_snr))
        apart.append(float((x - x_0).square().sum(1).mean()))
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 2e-3 * apart[0]


def test_a_grid_is_begun_at_a_level():
    grid = grids.even_log_snr(VP, 10, 0.001)
    t = VP.time(-3.0)
    cut = grid.begun(t)
    assert cut.times[0] == t
    assert set(cut.times[1:]) < set(grid.times)
    assert cut.begun(t) == cut
    assert grid.begun(1e-4).times == (1e-4, 0.0)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ((rows(), -1.0), "the start is at log-SNR -1, the grid begins at -2"),
        ((rows(5), -2.0), "6 in all, got"),
        ((rows().long(), -2.0), "6 in all"),
        ((rows() * float("nan"), -2.0), "NaN"),
        ((rows(), float("nan")), "the log-SNR of a start"),
        ((rows(),), "is \\(x_0, log_snr\\)"),
        (None, "name a free model of the data as the start, or examples and their log-SNR"),
    ],
)
def test_what_is_wrong_is_named(start, message):
    with pytest.raises(InputError, match=message):
        generate(Heun(FAR.score_model(VP)), begun(-2.0), (2,), 6, start=start)
