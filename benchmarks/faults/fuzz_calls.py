"""The calls of the campaign, each with a way to draw valid arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde_analytic import compare, covariance, data, grids, likelihood, measure, metrics, models, process, samplers
from score_sde_analytic.arrays import as_array
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.study import Study, analyse

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Call:
    """A public function.

    Attributes:
        kind: its room.
        arguments: by name, each a way to draw a valid value.
        infinite: whether it documents infinities, as the log-SNR of the data.
    """

    kind: str
    name: str
    act: Callable[..., Any]
    arguments: Mapping[str, Draw]
    infinite: bool = False


# --- valid arguments -------------------------------------------------------------------------------------------------


def real(low: float, high: float) -> Draw:
    return lambda rng: float(rng.uniform(low, high))


def count(low: int, high: int) -> Draw:
    return lambda rng: int(rng.integers(low, high + 1))


def choice(*values: Any) -> Draw:
    return lambda rng: values[rng.integers(len(values))]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Draw:
    return lambda rng: torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def array(*shape: int, low: float = 0.0, high: float = 1.0) -> Draw:
    return lambda rng: np.sort(rng.uniform(low, high, shape))


def times(steps: int) -> Draw:
    return lambda rng: (1.0, *np.sort(rng.uniform(0.01, 0.9, steps - 1))[::-1].tolist(), 0.0)


T = real(0.05, 0.95)
VP, VE = process.LinearVP(), process.VE()
SCHEDULES = choice(VP, process.CosineVP(), process.SubVP(), VE, process.Tabulated.linear(20))
MIXTURE = models.GaussianMixture([0.5, 0.5], [[-0.5, 0.3], [0.4, -0.2]], 0.05)
MODEL = MIXTURE.score_model(VP)
CURVE = measure.NoiseCurve.from_residual([-6.0, 0.0, 6.0], [0.002, 0.3, 0.9])
GRID = grids.even(3, 0.05)
COVARIANCES = choice(covariance.BetaTilde(), covariance.Isotropic(CURVE))
LEVELS = process.Level(0.5, 0.6, 0.8, -0.575)


class Network(nn.Module):
    """A small network of any precision that adds what it knows of the time."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, dtype=dtype))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.weight[0] * x + self.weight[1]) + 0.1 * labels.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def network(rng: np.random.Generator) -> nn.Module:
    torch.manual_seed(int(rng.integers(100)))
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return Network(dtypes[rng.integers(4)]).eval()


@cache
def measured() -> Study:
    return analyse(MODEL, MIXTURE.sample(64), budget=measure.Budget(min_draws=64, max_draws=64), record=(), progress=False)


# --- calls -----------------------------------------------------------------------------------------------------------


def _at(what: str, schedule: process.Schedule, t: Any) -> Any:
    return getattr(schedule, what)(t)


def _checked(lo: Any, hi: Any, levels: Any, x: Any) -> None:
    data.DataRange(lo, hi, levels).check(x)


def _predict(net: Any, predicts: Any, coordinates: Any, x: Any, t: Any) -> Any:
    prediction = models.ScoreModel(net, VP, predicts, coordinates=coordinates)(x, t)
    return prediction.x_0, prediction.eps, prediction.v


def _kernel(s: Any, t: Any, eta: Any) -> Any:
    return process.reverse_kernel(VP.level(s), VP.level(t), eta)


def _categorical(x: Any, log_snr: Any, levels: Any) -> Any:
    declared = data.DataRange(-1, 1, levels)
    level = VP.level_at(log_snr)
    x_0 = declared.encode((as_array(x).clip(0, 1) * ((declared.levels or 2) - 1)).astype(int))
    return process.CategoricalDecoder().nats(x_0, level.diffuse(x_0, torch.ones_like(x_0)), None, level, declared)


def _gaussian(x: Any, mean: Any, std: Any) -> Any:
    return process.GaussianDecoder(std).nats(x, None, mean, None, None)


def _estimate(net: Any, x: Any, log_snr: Any, seed: Any, batch_size: Any) -> Any:
    budget = measure.Budget(min_draws=32, max_draws=32, batch_size=batch_size)
    model = models.ScoreModel(net, VP)
    moments = measure.estimate(model, x, log_snr, budget, seed=seed, progress=False)
    return moments.means, moments.decoder_sums


def _sampled(make: Callable[..., Any], count: Any, seed: Any, batch_size: Any, dtype: Any, **settings: Any) -> Any:
    sampler = make(MODEL, **settings)
    return samplers.generate(sampler, GRID, (2,), count, seed=seed, batch_size=batch_size, dtype=dtype)


def _bits(net: Any, x: Any, times: Any, decoder: Any, draws: Any, seed: Any) -> Any:
    chain = likelihood.Chain(grids.Grid(times), covariance.Isotropic(CURVE), decoder)
    model = models.ScoreModel(net, VP)
    return likelihood.bits_per_dim(model, x, chain, draws=draws, seed=seed, progress=False).terms


def _continuous(x: Any, t_min: Any, decoder: Any, times: Any, seed: Any) -> Any:
    method = likelihood.ContinuousTime(t_min, decoder, times)
    return likelihood.bits_per_dim(MODEL, x, method, seed=seed, progress=False).terms


def _flow(x: Any, t_min: Any, steps: Any, seed: Any) -> Any:
    method = likelihood.Flow(t_min, solver=models.Fixed(steps, "euler"))
    return likelihood.bits_per_dim(MODEL, x, method, seed=seed, progress=False).terms


def _distance(make: Callable[..., Any], x: Any, y: Any, **settings: Any) -> Any:
    return make(**settings)(x, y)


def _of_study(what: str, *names: str) -> Callable[..., Any]:
    def act(**arguments: Any) -> Any:
        positional = [arguments.pop(name) for name in names]
        result = getattr(measured(), what)(*positional, **arguments)
        return {k: result[k].total for k in result} if what == "bits" else result

    return act


def _steps(log_snr: Any, residual: Any, steps: Any) -> Any:
    log_snr, residual = (as_array(x)[::-1] for x in (log_snr, residual))
    costs = grids.StepCosts(log_snr, residual)
    return grids.shortest_paths(costs, np.zeros(len(residual)), steps, method="plain").costs


DATA_CALLS = (
    Call("data", "DataRange", data.DataRange, {"lo": real(-2, 0), "hi": real(1, 2), "levels": count(2, 300)}),
    Call("data", "check", _checked, {"lo": real(-9, -5), "hi": real(5, 9), "levels": choice(None), "x": normal(4, 2)}),
    Call("data", "DataStatistics.of", data.DataStatistics.of, {"data": normal(8, 2), "batch_size": count(1, 9)}),
    Call(
        "data",
        "Examples",
        lambda data_: list(data.Examples(data_)),
        {"data_": choice([torch.ones(2)] * 3, {"x": torch.ones(3, 2)})},
    ),
    Call("data", "split", data.split, {"x": normal(8, 2), "sizes": choice((3, 2)), "seed": count(0, 9)}),
)
PROCESS_CALLS = (
    Call("process", "LinearVP", process.LinearVP, {"beta_min": real(0.01, 1), "beta_max": real(2, 30)}),
    Call("process", "SubVP", process.SubVP, {"beta_min": real(0.01, 1), "beta_max": real(2, 30)}),
    Call("process", "CosineVP", process.CosineVP, {"offset": real(0.001, 0.1), "log_snr_min": real(-20, -5)}),
    Call("process", "VE", process.VE, {"sigma_min": real(0.001, 0.1), "sigma_max": real(2, 100)}),
    Call(
        "process", "Tabulated", lambda betas: process.Tabulated(betas).log_alpha(0.5), {"betas": array(9, low=0.01, high=0.5)}
    ),
    Call("process", "Tabulated.linear", lambda **kw: process.Tabulated.linear(**kw).betas, {"steps": count(1, 50)}),
    Call(
        "process",
        "Tabulated.cosine",
        lambda **kw: process.Tabulated.cosine(**kw).betas,
        {"steps": count(1, 50), "offset": real(0.001, 0.1), "max_beta": real(0.5, 0.99)},
    ),
    *(
        Call("process", f"Schedule.{what}", partial(_at, what), {"schedule": SCHEDULES, "t": T}, infinite=True)
        for what in ("alpha", "sigma", "log_snr", "level")
    ),
    *(
        Call("process", f"Schedule.{what}", partial(_at, what), {"schedule": SCHEDULES, "t": T})
        for what in ("drift", "diffusion", "log_alpha")
    ),
    Call("process", "Schedule.time", partial(_at, "time"), {"schedule": SCHEDULES, "t": real(-5, 5)}),
    Call("process", "Schedule.levels", partial(_at, "levels"), {"schedule": SCHEDULES, "t": array(4)}, infinite=True),
    Call("process", "reverse_kernel", _kernel, {"s": real(0, 0.4), "t": real(0.5, 1), "eta": real(0, 1)}),
    Call("process", "GaussianDecoder", _gaussian, {"x": normal(4, 2), "mean": normal(4, 2), "std": real(0.01, 1)}),
    Call(
        "process",
        "CategoricalDecoder",
        _categorical,
        {"x": array(4, 2), "log_snr": real(-8, 9), "levels": count(2, 300)},
    ),
    Call("process", "stream_seed", stream_seed, {}),
    Call(
        "process",
        "SampleNoise",
        lambda seed, index, like: process.SampleNoise(seed, [index]).draw(like[:1]),
        {"seed": count(0, 9), "index": count(0, 9), "like": normal(2, 2)},
    ),
    Call(
        "process",
        "LevelNoise",
        lambda seed, at, like: process.LevelNoise(seed, [(0,)] * len(like)).at(at, like),
        {"seed": count(0, 9), "at": real(-9, 9), "like": normal(2, 2)},
    ),
    Call(
        "process",
        "BatchNoise",
        lambda seed, like: process.BatchNoise(seed).draw(like),
        {"seed": count(0, 9), "like": normal(2, 2)},
    ),
)
MODEL_CALLS = (
    *(
        Call("models", name, lambda kind=kind, **kw: kind(**kw).label(LEVELS), arguments)
        for name, kind, arguments in (
            ("Continuous", models.Continuous, {"scale": real(1, 999)}),
            (
                "ZeroBased",
                models.ZeroBased,
                {"steps": count(1, 4000), "scale": choice(None, 100.0), "integer": choice(True, False)},
            ),
            (
                "OneBased",
                models.OneBased,
                {"steps": count(1, 4000), "scale": choice(None, 100.0), "integer": choice(True, False)},
            ),
            ("LogSNR", models.LogSNR, {"scale": real(-1, 1), "shift": real(-1, 1), "lo": real(-20, -10), "hi": real(10, 20)}),
        )
    ),
    Call(
        "models",
        "ScoreModel",
        _predict,
        {
            "net": network,
            "predicts": choice("eps", "x_0", "v", "score"),
            "coordinates": choice("schedule", "vp", "ve"),
            "x": normal(4, 2),
            "t": T,
        },
    ),
    Call("models", "clamp", lambda clamp: models.ScoreModel(MIXTURE, VP, clamp=clamp).clamp, {"clamp": choice((-1.0, 1.0))}),
    Call(
        "models",
        "GaussianMixture",
        lambda weights, means, covariances: models.GaussianMixture(weights, means, covariances).moments(),
        {"weights": array(3, low=0.1), "means": array(3, 2), "covariances": real(0.1, 1)},
    ),
    Call("models", "GaussianMixture.sample", MIXTURE.sample, {"count": count(1, 9), "seed": count(0, 9)}),
    Call(
        "models",
        "Adaptive",
        models.Adaptive,
        {"rtol": real(1e-5, 1e-2), "atol": real(1e-5, 1e-2), "method": choice("dopri5", "bosh3"), "max_steps": count(10, 1000)},
    ),
    Call("models", "Fixed", models.Fixed, {"steps": count(1, 9), "method": choice("euler", "rk4")}),
)
MEASURE_CALLS = (
    Call(
        "measure",
        "Budget",
        measure.Budget,
        {
            "tolerance": real(0, 0.1),
            "min_draws": count(32, 64),
            "max_draws": count(64, 99),
            "batch_size": count(1, 99),
            "groups": count(2, 32),
        },
    ),
    Call(
        "measure",
        "estimate",
        _estimate,
        {
            "net": network,
            "x": normal(33, 2),
            "log_snr": array(3, low=-6, high=6),
            "seed": count(0, 9),
            "batch_size": count(8, 32),
        },
    ),
    Call("measure", "GradientEnergy", measure.GradientEnergy, {"window": choice(1, 3, 5)}),
)
COVARIANCE_CALLS = (
    Call(
        "covariance",
        "Isotropic",
        lambda cap, s, t: covariance.Isotropic(CURVE, cap).step_nats(CURVE, VP.level(s), VP.level(t)),
        {"cap": real(0.1, 1), "s": real(0.1, 0.4), "t": real(0.5, 1)},
        infinite=True,
    ),
)
GRID_CALLS = (
    Call("grids", "Grid", lambda times: grids.Grid(times).times, {"times": times(4)}),
    Call("grids", "even", lambda **kw: grids.even(**kw).times, {"steps": count(1, 9), "first": real(0.01, 0.1)}),
    Call("grids", "quadratic", lambda **kw: grids.quadratic(**kw).times, {"steps": count(1, 9), "first": real(0.01, 0.1)}),
    Call(
        "grids",
        "even_log_snr",
        lambda **kw: grids.even_log_snr(**kw).times,
        {"schedule": SCHEDULES, "steps": count(1, 9), "first": real(0.01, 0.1)},
    ),
    Call(
        "grids",
        "karras",
        lambda **kw: grids.karras(**kw).times,
        {"schedule": SCHEDULES, "steps": count(1, 9), "first": real(0.01, 0.1), "rho": real(1, 9)},
    ),
    Call(
        "grids",
        "shortest_paths",
        _steps,
        {"log_snr": array(8, low=-5, high=5), "residual": array(8, low=0.01, high=0.99), "steps": count(1, 5)},
    ),
    Call("grids", "steps_for", grids.steps_for, {"excess": real(0.01, 1), "costs": array(5), "limit": real(-1, 0)}),
    Call(
        "grids", "budget_law", lambda excess: grids.budget_law(measured().search.objective, excess), {"excess": real(0.01, 1)}
    ),
    Call(
        "grids",
        "closed_form",
        lambda steps: grids.closed_form(VP, measured().search.objective, steps).times,
        {"steps": count(1, 9)},
    ),
    Call(
        "grids", "entropic", lambda steps: grids.entropic(VP, measured().search.objective, steps).times, {"steps": count(1, 9)}
    ),
)
DRAWN = {
    "count": count(1, 5),
    "seed": count(0, 9),
    "batch_size": count(1, 9),
    "dtype": choice(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
SAMPLER_CALLS = tuple(
    Call("samplers", name, partial(_sampled, kind), DRAWN | settings)
    for name, kind, settings in (
        (
            "Ancestral",
            samplers.Ancestral,
            {"covariance": COVARIANCES, "eta": real(0, 1), "final": choice("mean", "draw"), "clip": real(0, 1)},
        ),
        ("AnalyticMultistep", samplers.AnalyticMultistep, {"covariance": COVARIANCES, "eta": real(0, 1), "kappa": real(0, 1)}),
        (
            "Heun",
            samplers.Heun,
            {"s_churn": real(0, 10), "s_min": real(0, 0.1), "s_max": real(1, 50), "s_noise": real(0.9, 1.1)},
        ),
        (
            "ProbabilityFlow",
            samplers.ProbabilityFlow,
            {"solver": choice("euler", "heun2"), "variable": choice("log_snr", "t", "ve"), "per_sample": choice(True, False)},
        ),
        ("ReverseSDE", samplers.ReverseSDE, {"solver": choice("euler", "srk"), "variable": choice("log_snr", "t", "ve")}),
        (
            "Langevin",
            lambda model, **kw: samplers.PredictorCorrector(samplers.ReverseDiffusion(model), samplers.Langevin(**kw)),
            {"snr": real(0.05, 0.3), "steps": count(1, 2)},
        ),
        (
            "DPMSolverPP",
            samplers.DPMSolverPP,
            {"order": count(1, 3), "noisy": choice(True, False), "solver_type": choice("midpoint", "heun")},
        ),
    )
)
SETTINGS_CALLS = (
    Call(
        "samplers",
        "AdaptiveSDE",
        samplers.AdaptiveSDE,
        {"rtol": real(0, 0.1), "atol": real(1e-4, 0.1), "first_step": real(0.01, 0.1), "min_step": real(1e-6, 1e-3)},
    ),
)
LIKELIHOOD_CALLS = (
    Call(
        "likelihood",
        "Chain",
        _bits,
        {
            "net": network,
            "x": normal(4, 2),
            "times": times(3),
            "decoder": real(0.1, 1),
            "draws": count(1, 2),
            "seed": count(0, 9),
        },
    ),
    Call(
        "likelihood",
        "ContinuousTime",
        _continuous,
        {"x": normal(4, 2), "t_min": real(0.01, 0.1), "decoder": real(0.1, 1), "times": count(1, 4), "seed": count(0, 9)},
    ),
    Call("likelihood", "Flow", _flow, {"x": normal(4, 2), "t_min": real(0.01, 0.1), "steps": count(1, 4), "seed": count(0, 9)}),
    Call(
        "likelihood",
        "Hutchinson",
        likelihood.Hutchinson,
        {"probes_per_sample": count(1, 4), "law": choice("rademacher", "gaussian")},
    ),
    Call(
        "likelihood",
        "paper_chain",
        lambda **kw: likelihood.paper_chain(VP, covariance.BetaTilde(), **kw).grid.times,
        {"steps": count(1, 9), "table": count(10, 1000)},
    ),
)
SIDES = {"x": normal(24, 2), "y": normal(24, 2)}
METRIC_CALLS = tuple(
    Call("metrics", name, partial(_distance, kind), SIDES | settings)
    for name, kind, settings in (
        ("Frechet", metrics.Frechet, {"groups": count(2, 5), "seed": count(0, 9), "level": real(0.5, 0.99)}),
        (
            "ExtrapolatedFrechet",
            metrics.ExtrapolatedFrechet,
            {"points": count(2, 5), "groups": count(2, 4), "level": real(0.5, 0.99)},
        ),
        (
            "SlicedWasserstein",
            metrics.SlicedWasserstein,
            {"power": choice(1.0, 2.0), "directions": count(1, 9), "groups": count(2, 5)},
        ),
        ("KID", metrics.KID, {"degree": count(1, 3), "offset": real(0, 1), "level": real(0.5, 0.99)}),
        ("GaussianMMD", metrics.GaussianMMD, {"bandwidth": real(0.1, 2)}),
        ("EnergyDistance", metrics.EnergyDistance, {"level": real(0.5, 0.99)}),
        ("Precision", metrics.Precision, {"k": count(1, 5), "level": real(0.5, 0.99)}),
        ("Recall", metrics.Recall, {"k": count(1, 5)}),
    )
)
FEATURE_CALLS = (
    Call("metrics", "entropy", metrics.entropy, {"x": normal(24, 2), "k": count(1, 5)}),
    Call("metrics", "wasserstein_1d", metrics.wasserstein_1d, {"x": normal(2, 5), "y": normal(2, 4), "power": real(1, 3)}),
    Call(
        "metrics",
        "extract",
        lambda **kw: metrics.extract(metrics.Pixels(), **kw),
        {"data": normal(6, 2), "batch_size": count(1, 9)},
    ),
    Call(
        "metrics",
        "mixture_metrics",
        lambda samples, **kw: metrics.mixture_metrics(samples, MIXTURE, **kw),
        {"samples": normal(24, 2), "count": count(0, 30), "seed": count(0, 9), "groups": count(2, 5), "level": real(0.5, 0.99)},
    ),
)
STUDY_CALLS = (
    Call(
        "study",
        "Study.bits",
        _of_study("bits", "steps"),
        {"steps": count(1, 20), "grid": choice("dp", "even"), "covariance": choice("isotropic", "beta_tilde")},
    ),
    Call("study", "Study.grid", _of_study("grid", "steps"), {"steps": count(1, 20), "name": choice("dp", "even", "log_snr")}),
    Call("study", "Study.steps_for", _of_study("steps_for"), {"excess": real(0.01, 1)}),
    Call(
        "study",
        "Study.sample",
        _of_study("sample"),
        {"count": count(1, 3), "steps": count(1, 5), "seed": count(0, 9), "batch_size": count(1, 5)},
    ),
    Call("study", "Study.chain", lambda steps: measured().chain(steps).grid.times, {"steps": count(1, 20)}),
    Call(
        "compare",
        "ComparisonSettings",
        lambda **kw: compare.ComparisonSettings(**kw).resolved().described(),
        {
            "calls": choice((5, 10)),
            "count": count(4, 99),
            "tolerances": choice((0.1, 0.01)),
            "seed": count(0, 9),
            "bits": choice("predicted", "none"),
        },
    ),
)
CALLS: tuple[Call, ...] = (
    *DATA_CALLS,
    *PROCESS_CALLS,
    *MODEL_CALLS,
    *MEASURE_CALLS,
    *COVARIANCE_CALLS,
    *GRID_CALLS,
    *SAMPLER_CALLS,
    *SETTINGS_CALLS,
    *LIKELIHOOD_CALLS,
    *METRIC_CALLS,
    *FEATURE_CALLS,
    *STUDY_CALLS,
)
