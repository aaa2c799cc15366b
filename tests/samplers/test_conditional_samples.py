"""Samples on conditions: each its own, whatever the batch, the solver or the covariance; paths and tables too."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from score_sde_analytic import grids
from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.guidance import ClassifierFree
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.empirical import EmpiricalStatistics
from score_sde_analytic.metrics import EnergyDistance, Reference
from score_sde_analytic.models.conditions import Constant
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import (
    Ancestral,
    DPMSolverPP,
    DPMSolverV3,
    FlowPaths,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    TableSampler,
    fit_table,
    generate,
    record_paths,
)

VP = LinearVP()
#: Far apart and narrow, so that a sample says of which component it is.
FAR = GaussianMixture([0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], 0.01)
MODEL = FAR.conditional(VP)
GRID = grids.even_log_snr(VP, 6, 0.001)
LABELS = torch.tensor([0, 2, 1, 1, 2, 0, 0])


def of(samples):
    """The component whose mean is nearest."""
    return torch.cdist(samples.double(), FAR.means).argmin(1)


@dataclass(frozen=True)
class Plain(Heun):
    """A sampler of one's own."""


SAMPLERS = {
    "ancestral": lambda m: Ancestral(m, BetaTilde()),
    "tweedie": lambda m: Ancestral(m, Tweedie(m)),
    "heun": Plain,
    "corrector": lambda m: PredictorCorrector(ReverseDiffusion(m), Langevin()),
    "flow": lambda m: ProbabilityFlow(m, "heun2"),
    "adaptive flow": lambda m: ProbabilityFlow(m, Adaptive(0.3, 0.3)),
    "sde": lambda m: ReverseSDE(m, "euler"),
    "dpm++": lambda m: DPMSolverPP(m, order=2),
}
NEEDS = {"adaptive flow": "torchdiffeq", "flow": "torchdiffeq", "sde": "torchsde", "dpm++": "diffusers"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "adaptive flow" else ()) for n in SAMPLERS])
def test_every_sampler_keeps_its_conditions(name):
    """Samples are of their components; equal seeds give equal samples in any batches, by rows or by indices, or alone."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    draw = functools.partial(generate, SAMPLERS[name](MODEL), GRID, (2,), seed=3, dtype=torch.float64)
    whole = draw(7, batch_size=7, conditions={"component": LABELS})
    assert name == "sde" or torch.equal(of(whole), LABELS)  # six steps of Euler's are too few
    torch.testing.assert_close(draw(7, batch_size=3, conditions={"component": LABELS}), whole)
    torch.testing.assert_close(draw(7, batch_size=2, conditions=lambda i: {"component": LABELS[list(i)]}), whole)
    torch.testing.assert_close(draw(range(4, 7), conditions={"component": LABELS[4:]}), whole[4:])
    torch.testing.assert_close(draw(range(4, 7), conditions=lambda i: {"component": LABELS[list(i)]}), whole[4:])
    torch.testing.assert_close(draw(range(1, 2), conditions={"component": int(LABELS[1])}), whole[1:2])


def test_one_for_all():
    """By a constant of the model, by a number, by a model that was bound for all samples."""
    sampler = Ancestral(MODEL, BetaTilde())
    draw = functools.partial(generate, grid=GRID, shape=(2,), count=5, batch_size=2)
    expected = draw(sampler, conditions={"component": torch.full((5,), 2)})
    assert (of(expected) == 2).all()
    for found in (
        draw(sampler, conditions={"component": 2}),
        draw(sampler, conditions={"component": Constant(torch.tensor(2))}),
        draw(sampler.with_model(MODEL.given(component=2))),
        draw(sampler.with_model(MODEL.given(component=torch.full((5,), 2)))),
    ):
        assert torch.equal(found, expected)


def test_guidance_is_sampled_and_counted():
    """Guided samples of overlapping components lie nearer to their own mean; two evaluations a call."""
    near = GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], 0.4)
    model, labels = near.conditional(VP), torch.arange(400) % 2
    spread = {}
    for scale in (1.0, 3.0):
        guided = ClassifierFree(model, scale, {"component": 2})
        with guided.metered() as cost:
            x = generate(Ancestral(guided, BetaTilde()), GRID, (1,), 400, batch_size=400, conditions={"component": labels})
        spread[scale] = float((x[:, 0] * (2 * labels - 1)).mean())
        assert cost.evaluations == 400 * 6 * (1 if scale == 1.0 else 2)
    assert spread[1.0] == pytest.approx(0.5, abs=0.15)
    assert spread[3.0] > spread[1.0] + 0.3


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, "needs the condition component"),
        ({"component": LABELS}, "component has 7 rows for 5 examples"),
        (lambda indices: {"component": LABELS[:1]}, "component has 1 rows for 2 examples"),
        ({"label": LABELS[:5]}, "takes no condition 'label'"),
    ],
)
def test_what_is_wrong_is_named(conditions, message):
    with pytest.raises(ValueError, match=message):
        generate(Ancestral(MODEL, BetaTilde()), GRID, (2,), 5, batch_size=2, conditions=conditions)


@pytest.mark.parametrize("count", [0, -1, range(0), range(3, 0, -1), range(0, 4, 2), range(-2, 2), 1.5])
def test_indices_are_of_samples(count):
    with pytest.raises(ValueError, match=r"count|indices of at least one"):
        generate(Ancestral(MODEL, BetaTilde()), GRID, (2,), count, conditions={"component": 1})


# --- paths and tables ---------------------------------------------------------------------------------------------------

FREE = LinearDenoiser.of(FAR.sample(300))
LEVELS = np.linspace(-4.0, 7.0, 16)
EACH = torch.arange(24) % 3


def paths(path=None, batch_size=50, labels=EACH):
    settings = {"count": 24, "batch_size": batch_size, "path": path, "progress": False}
    return record_paths(MODEL, FREE, (2,), LEVELS, conditions={"component": labels}, **settings)


def test_paths_end_in_their_components(tmp_path):
    """However they are batched; a file holds their conditions, and is refused for others."""
    recorded = paths(tmp_path / "paths.safetensors")
    assert torch.equal(of(recorded.predictions[-1]), EACH)
    torch.testing.assert_close(paths(batch_size=7).predictions, recorded.predictions)
    loaded = FlowPaths.load(tmp_path / "paths.safetensors")
    assert torch.equal(loaded.conditions["component"], EACH)
    assert torch.equal(paths(tmp_path / "paths.safetensors").predictions, recorded.predictions)
    with pytest.raises(ValueError, match="conditions"):
        paths(tmp_path / "paths.safetensors", labels=EACH.flip(0))


def test_an_interrupted_recording_goes_on(tmp_path):
    """Stopped in the middle of a batch of paths, it ends in the same predictions."""
    path, whole = tmp_path / "paths.safetensors", paths(batch_size=9)
    left = [20]

    def stop(prediction):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), MODEL.watched(stop):
        paths(path, batch_size=9)
    torch.testing.assert_close(paths(path, batch_size=9).predictions, whole.predictions, rtol=0, atol=0)


def test_tables_are_fitted_on_the_paths_conditions():
    """With a network that knows the component, three calls lead to it; the table serves any conditions afterwards."""
    table = fit_table(MODEL, paths(), FREE, steps=3)
    assert table.facts["certificate"] < 0.05
    sampler = TableSampler(MODEL, table)
    assert torch.equal(of(generate(sampler, sampler.grid, (2,), 7, conditions={"component": LABELS})), LABELS)


def test_statistics_of_dpm_solver_v3():
    """Its coefficients are measured on examples with their labels, at any batch size."""
    x_0, component = FAR.labelled(60)
    data = Examples(x_0, conditions={"component": component})
    one, other = (EmpiricalStatistics.of(MODEL, data, np.linspace(-5.0, 5.0, 5), draws=40, batch_size=size) for size in (40, 7))
    np.testing.assert_allclose(one.linear, other.linear, rtol=1e-6, atol=1e-9)
    wrong = EmpiricalStatistics.of(MODEL, Examples(x_0, conditions={"component": component.roll(1)}), LEVELS[::5], draws=40)
    right = EmpiricalStatistics.of(MODEL, data, LEVELS[::5], draws=40)
    assert np.abs(wrong.linear - right.linear).max() > 0.1
    assert DPMSolverV3(MODEL, right).calls(GRID) == GRID.steps


@pytest.mark.slow
def test_the_variance_of_a_guided_chain_is_the_conditional_one():
    """Judged by the distance to its own many-step limit: neither R of the guided prediction, R_c + w^2 G, nor beta-tilde."""
    classes = GaussianMixture([0.5, 0.5], 0.5 * np.random.default_rng(0).normal(size=(2, 8)), np.geomspace(0.5, 0.02, 8))
    knots = np.linspace(-10.0, 9.0, 39)
    power = np.exp(knots)[:, None] * classes.eigenvalues[0].numpy()
    r_c = (power / (1.0 + power)).mean(1)
    gap = np.maximum([classes.residual(VP.level_at(k), count=4000)[0] for k in knots] - r_c, 0.0)
    scale = 4.0
    curves = {"own": r_c, "guided": np.clip(r_c + (scale - 1.0) ** 2 * gap, 1e-6, 0.999)}
    covariances = {name: Isotropic(NoiseCurve.from_residual(knots, r, warn=False)) for name, r in curves.items()}
    covariances["beta_tilde"] = BetaTilde()
    model = ClassifierFree(classes.conditional(VP), scale, {"component": 2})

    def draw(covariance, steps, seed):
        options = {"seed": seed, "batch_size": 2000, "dtype": torch.float64, "conditions": {"component": 0}}
        return generate(Ancestral(model, covariance), grids.even_log_snr(VP, steps, 0.001), (8,), 2000, **options)

    limit = Reference(draw(covariances["own"], 250, 1))
    for steps in (5, 10):
        distance = {name: EnergyDistance()(draw(c, steps, 2), limit).value for name, c in covariances.items()}
        assert 2.0 * distance["own"] < min(distance["guided"], distance["beta_tilde"])
