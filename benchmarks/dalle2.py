"""DALL-E 2's way of sampling in small: excess bits and sample quality by variance and grid, and few calls under guidance.

  python -m benchmarks.dalle2 [--cases features digits] [--parts bits quality few] [--output FOLDER]

Cosine schedule, classes, guidance scales 1, 2 and 4 (w = 0, 1, 3); configs/dalle2.py has the settings.

  bits      bits/dim of K steps over those of infinitely many between the same ends: predicted from the pass, and measured
  quality   Frechet distance to held-out examples and to the chain's own limit of 250 steps; the shipped classifier's accuracy
  few       K = 3 and 5 calls under guidance: tables against public solvers, each at its best grid and first time

Every part of every case writes a JSON file beside the page; a run without parts (--parts) writes the page from these.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.dalle2_page import page
from benchmarks.dalle2_worlds import HEAD, NULL, WORLDS, World
from score_sde_analytic.covariance import Beta, BetaTilde, Covariance, Guided, Isotropic
from score_sde_analytic.files import plain, write_text
from score_sde_analytic.grids import Grid, Lattice, Objective, even, even_log_snr, karras, refined, transition_costs
from score_sde_analytic.guidance import mutual_information
from score_sde_analytic.likelihood import BITS, Chain, ContinuousTime, bits_per_dim, price
from score_sde_analytic.measure import Budget, NoiseCurve, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.metrics import Measured, Reference, difference
from score_sde_analytic.process import NoDecoder
from score_sde_analytic.samplers import Ancestral, DPMSolverPP, Sampler
from score_sde_analytic.study import Study, few
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.uncertainty import Estimate

STEPS, SCALES, CALLS = (4, 8, 16, 64), (1.0, 2.0, 4.0), (3, 5)
#: t_1 of strided steps of 1000.
FIRST = 1e-3
LIMIT = 250
BATCH = 199
#: Samples per row of "quality", per row and seed of "few", and of public solvers that are tried there.
COUNTS = {"features": (1194, 1194, 1194), "digits": (199, 398, 199)}
#: Noise draws per test example.
DRAWS = {"features": 8, "digits": 1}
SEEDS, OTHER = (1, 2, 3), 999
#: Log-SNRs of the first time of public solvers.
ENDS = (3.0, 5.0, 7.0, 9.0)
NAMES = {"beta": Beta(), "beta-tilde": BetaTilde()}


# --- bits ---


def bits(world: World, case: str) -> dict[str, Any]:
    """Predicted and measured excess of every chain, and how many steps on other grids do the work of 64."""
    study = world.study
    chains = {name: Chain(grid, covariance, NoDecoder()) for name, grid, covariance in _chains(study)}
    limit = ContinuousTime(FIRST, NoDecoder(), 64, study.curve)
    predicted = _predicted(study, chains, limit)
    measured = _measured(world, chains, limit, DRAWS[case])
    rows = {name: {"predicted": predicted.get(name), "measured": value} for name, value in measured.items()}
    known = price(study.moments, study.schedule, {"limit": limit}, study.statistics)["limit"]
    informed = mutual_information(study.moments, unconditional(world))
    return {"limit": known.parts["transitions"], "rows": rows, "enough": _enough(study), "information": informed}


def _chains(study: Study) -> Iterator[tuple[str, Grid, Covariance]]:
    own = Isotropic(study.curve)
    learned = {"learned": study.covariance(HEAD)} if _has_head(study) else {}
    for steps in STEPS:
        for name, covariance in {**NAMES, **learned, "analytic": own}.items():
            yield f"{steps} {name}, strided", even(steps, FIRST), covariance
        for name, make in better(study).items():
            yield f"{steps} analytic, {name}", make(steps), own


def _has_head(study: Study) -> bool:
    try:
        study.covariance(HEAD)
    except FileNotFoundError:
        return False
    return True


def better(study: Study) -> dict[str, Callable[[int], Grid]]:
    """Grids between the same ends as strided steps."""
    schedule = study.schedule
    low, high = (float(schedule.log_snr(t)) for t in (1.0, FIRST))
    objective = Objective(study.curve, low, high)
    return {
        "even in log-SNR": lambda steps: even_log_snr(schedule, steps, FIRST),
        "optimal": lambda steps: refined(schedule, objective, steps),
    }


def excess(study: Study, curve: NoiseCurve, covariance: Covariance, grid: Grid) -> float:
    """Bits/dim of the transitions over those of infinitely many between the same levels."""
    lam = np.linspace(*(float(study.schedule.log_snr(t)) for t in (1.0, FIRST)), 20_001)
    limit = 0.5 * np.trapezoid(curve.residual(lam), lam)
    return float(BITS * (transition_costs(study.schedule, curve, covariance, grid).sum() - limit))


def _predicted(study: Study, chains: dict[str, Chain], limit: ContinuousTime) -> dict[str, Estimate]:
    """Of those that the curve can price, with the jackknife's errors of the difference."""
    known = {name: chain for name, chain in chains.items() if chain.covariance.priced}
    priced = price(study.moments, study.schedule, {**known, "limit": limit}, study.statistics)
    values = {name: priced[name].parts["transitions"].value - priced["limit"].parts["transitions"].value for name in known}

    def replicate(moments: Moments) -> list[float]:
        curve = NoiseCurve.fit(moments, warn=False)
        return [excess(study, curve, chain.covariance, chain.grid) for chain in known.values()]

    errors = study.moments.jackknife(replicate)[1]
    return {name: Estimate(value, float(error)) for (name, value), error in zip(values.items(), errors, strict=True)}


def _measured(world: World, chains: dict[str, Chain], limit: ContinuousTime, draws: int) -> dict[str, Estimate]:
    """On the test split, paired example by example."""
    splits = world.experiment.splits
    methods = {**chains, "limit": limit}
    bounds = bits_per_dim(
        world.study.model, splits.test, methods, splits.data_range, draws=draws, seed=1, batch_size=BATCH, progress=False
    )
    paid = {name: bound.part("transitions") for name, bound in bounds.items()}
    return {name: Estimate.of(paid[name] - paid["limit"]) for name in chains}


def _enough(study: Study) -> dict[str, int]:
    """The fewest steps whose excess is no more than that of 64 strided ones with the analytic variance."""
    own = Isotropic(study.curve)
    most = excess(study, study.curve, own, even(64, FIRST))
    return {
        name: next(k for k in range(2, 200) if excess(study, study.curve, own, make(k)) <= most)
        for name, make in better(study).items()
    }


# --- quality ---


def quality(world: World, case: str) -> dict[str, Any]:
    """Distances and accuracy of every sampler, at every scale and number of steps."""
    data, rows, count = world.reference(world.real), [], COUNTS[case][0]
    for scale in SCALES:
        study = world.guided(scale)
        fine = _chain(study, BetaTilde(), even(LIMIT, FIRST))
        limit = _drawn(world, fine, count, seed=9)
        rows.append(_row(world, scale, LIMIT, "limit: beta-tilde, strided", limit, data, None))
        own = world.reference(limit)
        for steps in STEPS:
            for name, plan in _plans(world, study, scale, steps):
                rows.append(_row(world, scale, steps, name, _drawn(world, plan, count, seed=1), data, own))
                print(rows[-1], flush=True)
    return {"count": count, "real": world.accuracy(world.real), "rows": rows}


def _chain(study: Study, covariance: Covariance, grid: Grid, eta: float = 1.0) -> SamplingPlan:
    return study.plan(Ancestral(study.model, covariance, eta), grid)


def _plans(world: World, study: Study, scale: float, steps: int) -> Iterator[tuple[str, SamplingPlan]]:
    strided, own = even(steps, FIRST), Isotropic(world.study.curve)
    yield "DDIM, strided", _chain(study, BetaTilde(), strided, eta=0.0)
    for name, covariance in (NAMES | {"analytic": own}).items():
        yield f"{name}, strided", _chain(study, covariance, strided)
    if scale != 1.0:
        yield "guided residual (the trap), strided", _chain(study, Isotropic(_of_guided(world, scale)), strided)
    for name, make in better(world.study).items():
        yield f"analytic, {name}", _chain(study, own, make(steps))
    if scale != 1.0:
        yield "analytic, optimal under guidance", _chain(study, own, under_guidance(world, scale, steps))
    if steps <= 16:
        yield "table of the fewest calls", table(world, scale, steps)


def under_guidance(world: World, scale: float, steps: int) -> Grid:
    """The grid that is optimal for the price of the guided chain, between the same ends."""
    study = world.study
    covariance = Guided(Isotropic(study.curve), NoiseCurve.fit(unconditional(world), warn=False), scale)
    lattice = Lattice.even_log_snr(study.schedule, 400, float(study.schedule.log_snr(FIRST)))
    last = np.where(np.arange(400) == 0, 0.0, np.inf)
    return lattice.optimal_grids(study.curve, covariance, last, steps)[steps]


def unconditional(world: World) -> Moments:
    """The same network without its condition, on the same examples."""
    splits, study = world.experiment.splits, world.study
    model = study.model.given(**NULL)
    path = world.experiment.workdir / "unconditional.safetensors"
    levels, budget = study.moments.log_snr, Budget(max_draws=600)
    return estimate(model, splits.validation, levels, budget, data_range=splits.data_range, path=path, progress=False)


def _of_guided(world: World, scale: float) -> NoiseCurve:
    """The curve of the guided prediction on data of its class, which is no variance."""
    model, splits = world.guided(scale).model, world.experiment.splits
    levels = np.linspace(-12.0, 10.0, 24)
    budget = Budget(max_draws=300)
    moments = estimate(model, splits.validation, levels, budget, data_range=splits.data_range, progress=False)
    return NoiseCurve.fit(moments, warn=False)


def _drawn(world: World, plan: SamplingPlan, count: int, seed: int) -> Tensor:
    return plan(count, seed, BATCH, conditions=world.asked)


def _row(
    world: World, scale: float, steps: int, name: str, samples: Tensor, data: Reference, own: Reference | None
) -> dict[str, Any]:
    to_own = None if own is None else _told(world.distance(samples, own))
    found = {"data": _told(world.distance(samples, data)), "own": to_own, "accuracy": world.accuracy(samples)}
    return {"scale": scale, "steps": steps, "sampler": name} | found


def _told(measured: Measured) -> list[float]:
    return [measured.value, measured.stderr]


# --- fewest calls ---


def table(world: World, scale: float, steps: int) -> SamplingPlan:
    """The table of so many calls of the guided model: one per scale."""
    return world.guided(scale).fewest(steps, path=world.experiment.workdir / "fewest", progress=False)


def fewest(world: World, case: str) -> dict[str, Any]:
    """Rows of all seeds: ours, the best public solver of each kind by samples of another seed; and chains of K = 10, 25."""
    data, rows, (_, count, tried) = world.reference(world.real), [], COUNTS[case]
    for scale in SCALES:
        study = world.guided(scale)
        for steps in CALLS:
            plans = {"table": table(world, scale, steps), "table as fitted": _as_fitted(world, scale, steps)}
            plans |= _public(world, study, steps, tried, data)
            rows += _judged(world, scale, steps, plans, data, count)
        for steps in (10, 25):
            chain = _chain(study, Isotropic(world.study.curve), even(steps, FIRST))
            rows += _judged(world, scale, steps, {"analytic, strided": chain}, data, count)
    return {"count": count, "seeds": len(SEEDS), "rows": rows}


def _as_fitted(world: World, scale: float, steps: int) -> SamplingPlan:
    study = world.guided(scale)
    settings = few.settings(study, None, {"path": world.experiment.workdir / "fewest", "progress": False})
    return few.of_table(study, few.table(study, steps, settings, few.paths(study, settings)))


def _public(world: World, study: Study, steps: int, count: int, data: Reference) -> dict[str, SamplingPlan]:
    """The best of every kind, called by its settings."""
    found = {}
    for kind, samplers in solvers(study).items():
        tried = {
            f"{name}, {where} to {end:g}": study.plan(sampler, grid)
            for name, sampler in samplers.items()
            for where, end, grid in _grids(study, steps)
        }
        scores = {name: world.distance(_drawn(world, plan, count, OTHER), data).value for name, plan in tried.items()}
        best = min(scores, key=lambda name: scores[name])
        found[best if best.startswith(kind) else f"{kind}: {best}"] = tried[best]
    return found


def solvers(study: Study) -> dict[str, dict[str, Sampler[Any]]]:
    model = study.model
    multistep = {f"DPM-Solver++ {order}M": DPMSolverPP(model, order) for order in (2, 3)}
    return {"DDIM": {"DDIM": Ancestral(model, BetaTilde(), 0.0)}, "DPM-Solver++": multistep}


def _grids(study: Study, steps: int) -> Iterator[tuple[str, float, Grid]]:
    for end in ENDS:
        first = float(study.schedule.time(end))
        yield "even in log-SNR", end, even_log_snr(study.schedule, steps, first)
        yield "Karras", end, karras(study.schedule, steps, first)
        yield "even in t", end, even(steps, first)


def _judged(
    world: World, scale: float, steps: int, plans: dict[str, SamplingPlan], data: Reference, count: int
) -> list[dict[str, Any]]:
    """Means over seeds, and paired differences from the first."""
    rows: list[dict[str, Any]] = []
    samples = {name: [_drawn(world, plan, count, seed) for seed in SEEDS] for name, plan in plans.items()}
    scores = {name: [world.distance(x, data) for x in of_seeds] for name, of_seeds in samples.items()}
    first = scores[next(iter(plans))]
    for name, values in scores.items():
        apart = [difference(value, other) for value, other in zip(values, first, strict=True)]
        accuracy = float(np.mean([world.accuracy(x) for x in samples[name]]))
        told: dict[str, Any] = {"data": _mean(values), "beyond": _mean(apart), "accuracy": accuracy}
        if world.sees_all:
            told["energy"] = _mean([world.energy(x, data) for x in samples[name]])
        rows.append({"scale": scale, "steps": steps, "sampler": name} | told)
        print(rows[-1], flush=True)
    return rows


def _mean(values: list[Measured]) -> list[float]:
    """With the error of noise that differs between seeds; that of the reference, which they share, is in each."""
    spread = np.std([value.value for value in values], ddof=1) / np.sqrt(len(values))
    return [
        float(np.mean([value.value for value in values])),
        float(max(spread, np.mean([v.stderr for v in values]) / np.sqrt(3))),
    ]


PARTS: dict[str, Callable[[World, str], dict[str, Any]]] = {"bits": bits, "quality": quality, "few": fewest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--workdir", type=Path, default=Path("results/dalle2"), help="keeps passes, paths, tables and heads")
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for case in options.cases:
        for part in options.parts:
            begun = time.process_time()
            found = PARTS[part](WORLDS[case](options.workdir / case), case)
            found["seconds"] = round(time.process_time() - begun)
            write_text(options.output / f"dalle2_{case}_{part}.json", json.dumps(plain(found), indent=1) + "\n")
    write_text(options.output / "dalle2.md", page(options.output))


if __name__ == "__main__":
    main()
