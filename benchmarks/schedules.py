"""How much the bound's estimator varies with the times that are drawn: predicted from the pass, and measured.

  python -m benchmarks.schedules [--configs digits_vp patches emoji] [--output FOLDER]

Three tables per network, and a picture of the second for the first:

  variances    of one draw over L^2, by density of times: predicted with its jackknife error, and measured from draws of
               (example, time, noise), examples with replacement from the validation split of the pass
  invariance   the continuous bound of the test split under four schedules with the same ends, times uniform in t of each
  examples     variance between and within examples, and how many times of each are worth drawing

An empty --configs writes the page anew from what was measured before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_sde_analytic.runners import schedules
from score_sde_analytic.runners.experiment import Experiment
from torch.utils.data import Subset

from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.files import plain
from score_sde_analytic.grids import Grid
from score_sde_analytic.grids.lattice import transition_costs
from score_sde_analytic.likelihood import ContinuousTime, bits_per_dim, times_per_example, variance_of_bound
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.likelihood.method import Batch
from score_sde_analytic.models import ScoreModel
from score_sde_analytic.models.monotone_net import MonotoneNet, fit_by_variance
from score_sde_analytic.process import VE, CosineVP, Density, Learned, LinearVP, NoDecoder, Schedule
from score_sde_analytic.report import schedules as pictures
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

STEPS = (10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Case:
    """A network, the ends of its bound, and how much is drawn.

    Attributes:
        draws: of every density and sampling.
        examples: of the test split, for the invariance.
        times: of each of them.
    """

    low: float
    high: float
    draws: int
    examples: int
    times: int


CASES = {
    "digits_vp": Case(-10.0, 7.0, 20_000, 297, 64),
    "patches": Case(-8.0, 8.0, 3000, 100, 32),
    "emoji": Case(-8.0, 10.0, 600, 20, 16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = options.output / "results"
    for name in options.configs:
        found = measured(name, CASES[name], options.output)
        (folder / f"schedules_{name}.json").write_text(json.dumps(plain(found), indent=1) + "\n")
        print(f"\n{text(name, found)}")
    done = [name for name in CASES if (folder / f"schedules_{name}.json").exists()]
    sections = [text(name, json.loads((folder / f"schedules_{name}.json").read_text())) for name in done]
    (folder / "schedules.md").write_text(HEAD + "\n\n".join(sections) + "\n")


HEAD = """# Schedules: the variance of the bound, and its invariance

    python -m benchmarks.schedules

writes this page from the JSON files beside it. Predicted: from one pass over the validation split, with jackknife errors, no
further network call. Measured: one draw of time and noise for each of so many examples, drawn
with replacement from the same split. "Stratified" is what remains, per draw, where times of all draws together are stratified.
What it means is in [docs/vdm.md](../vdm.md).

"""


def measured(name: str, case: Case, output: Path) -> dict[str, Any]:
    """All that the page says of one network."""
    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    with tempfile.TemporaryDirectory() as work:
        experiment = Experiment(config, Path(work))
        study = experiment.study
        of = schedules.densities(study, case.low, case.high)
        model = under(study.model, Learned(Density.uniform(case.low, case.high)))
        rows = {label: variances(model, study, density, experiment, case) for label, density in of.items()}
        best = of[schedules.BEST["independent"]]
        ratio = gradient(study, best)
        bounds, differences = invariance(study.model, experiment, best, case)
        discrete = {label: [steps_bits(study.curve, one, case, t) for t in STEPS] for label, one in ends(best, case).items()}
        method = ContinuousTime(model.schedule.time(case.high), NoDecoder(), 16, density=best)
        spread = times_per_example(model, part(experiment, case.examples), method, experiment.splits.data_range, progress=False)
    limit = float(variance_of_bound(study.moments, best).mean.value)
    if name == "digits_vp":
        pictures.invariance(output / "figures" / "invariance.png", bounds, discrete, STEPS, limit)
        pictures.densities(output / "figures" / "schedules.png", of, study.moments)
    return {
        "ends": [case.low, case.high],
        "evaluations": study.moments.evaluations,
        "draws": case.draws,
        "mean": variance_of_bound(study.moments, best).mean,
        "variances": rows,
        "gradient": ratio,
        "invariance": {"bounds": bounds, "differences": differences, "examples": case.examples, "times": case.times},
        "discrete": {"steps": STEPS, "excess": {k: [v - limit for v in values] for k, values in discrete.items()}},
        "examples": vars(spread) | {"worth": spread.worth()},
    }


def under(model: ScoreModel, schedule: Schedule) -> ScoreModel:
    """The same network under another schedule; it is fed log-SNR, and x_t / sqrt(alpha^2 + sigma^2)."""
    options = {name: getattr(model, name) for name in ("predicts", "times", "coordinates", "clamp", "dtype")}
    return ScoreModel(model.net, schedule, **options)


def part(experiment: Experiment, count: int) -> Any:
    """The first examples of the test split."""
    return experiment.splits.some("test", count)


def variances(model: ScoreModel, study: Any, density: Density, experiment: Experiment, case: Case) -> dict[str, Any]:
    """Predicted and measured variance of one draw over L^2, by sampling."""
    found: dict[str, Any] = {}
    split = as_dataset(experiment.splits.validation, experiment.splits.data_range)
    drawn = np.random.default_rng(5).integers(0, len(split), case.draws)
    data = Subset(experiment.splits.validation, drawn.tolist())
    for sampling in ("independent", "stratified"):
        method = ContinuousTime(model.schedule.time(case.high), NoDecoder(), 1, density=density, sampling=sampling)
        bound = bits_per_dim(model, data, method, experiment.splits.data_range, seed=11, progress=False)
        values = bound.part("transitions")
        mean = variance_of_bound(study.moments, density, sampling).mean.value
        squares = (values - values.mean()) ** 2
        if sampling == "stratified":  # of neighbours in time, so that differences of R between times do not count
            rows = Batch(split.first[None].expand(len(values), *split.first.shape), range(len(values)), 0, 11, None, 1)
            squares = np.diff(values[method.places(rows)[:, 0].argsort()])[::2] ** 2 / 2.0
        found[sampling] = {
            "predicted": variance_of_bound(study.moments, density, sampling).relative,
            "measured": Estimate.of(squares / mean**2),
        }
    return found


def gradient(study: Any, best: Density) -> dict[str, float]:
    """Variance under the density that gradients find, a monotone network for gamma, over that of the closed form."""
    net, error = MonotoneNet(best.low, best.high), study.moments.squared_error
    fit_by_variance(net, lambda lam: torch.from_numpy(error.second_moment(lam.numpy())), steps=20_000)
    found = Density.from_function(lambda lam: net.density(torch.from_numpy(lam)).numpy(), best.low, best.high)
    return {
        "network": variance_of_bound(study.moments, found).relative.value,
        "closed form": variance_of_bound(study.moments, best).relative.value,
    }


def ends(best: Density, case: Case) -> dict[str, Schedule]:
    """Schedules with the same ends."""
    return {
        "linear VP": LinearVP(0.1, 2.0 * float(np.logaddexp(0.0, -case.low)) - 0.1),
        "cosine": CosineVP(log_snr_min=case.low),
        "learned": Learned(best),
        "VE": VE(float(np.exp(-0.5 * case.high)) / 3.0, float(np.exp(-0.5 * case.low))),
    }


def invariance(
    model: ScoreModel, experiment: Experiment, best: Density, case: Case
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Bounds by schedule, and their paired differences from that of the learned one."""
    decoder = experiment.study.reconstruction.decoder(case.high)
    by_example = {}
    for name, schedule in ends(best, case).items():
        density = Density.of(schedule, case.low, case.high)
        method = ContinuousTime(schedule.time(case.high), decoder, case.times, density=density)
        data, declared = part(experiment, case.examples), experiment.splits.data_range
        by_example[name] = bits_per_dim(under(model, schedule), data, method, declared, progress=False).per_example
    bounds = {name: Estimate.of(values) for name, values in by_example.items()}
    others = {name: values for name, values in by_example.items() if name != "learned"}
    return bounds, {name: Estimate.of(values - by_example["learned"]) for name, values in others.items()}


def steps_bits(curve: Any, schedule: Schedule, case: Case, steps: int) -> float:
    """VDM's discrete loss on the curve: transitions with the posterior's own variance, times even in t, in bits/dim."""
    first = float(schedule.time(case.high))
    times = first + (1.0 - first) * np.arange(steps, -1, -1) / steps
    return float(BITS * transition_costs(schedule, curve, BetaTilde(), Grid((*times.tolist(), 0.0))).sum())


def text(name: str, found: dict[str, Any]) -> str:
    """The section of one network."""

    def show(estimate: Any, digits: int = 3) -> str:
        return f"{estimate[0]:.{digits}f} ± {estimate[1]:.{digits}f}"

    rows = [
        [label, *(show(by[s][kind]) for s in ("independent", "stratified") for kind in ("predicted", "measured"))]
        for label, by in found["variances"].items()
    ]
    header = ["times drawn", "independent, predicted", "measured", "stratified, predicted", "measured"]
    low, high = found["ends"]
    ratio = found["gradient"]["network"] / found["gradient"]["closed form"]
    spread, same = found["examples"], found["invariance"]
    bounds = [
        [label, show(bound, 4), show(same["differences"][label], 4) if label in same["differences"] else "-"]
        for label, bound in same["bounds"].items()
    ]
    steps = found["discrete"]["steps"]
    discrete = [[label, *(f"{value:.4f}" for value in values)] for label, values in found["discrete"]["excess"].items()]
    return "\n\n".join(
        [
            f"## {name}",
            f"Log-SNR {low:g} to {high:g}; L = {show(found['mean'])} bits/dim; {found['evaluations']:,} evaluations of the"
            f" pass, {found['draws']:,} draws measured. Variance of one draw over L^2:",
            markdown(header, rows),
            f"A monotone network for gamma, trained by the gradient of the variance, ends at {ratio:.4f} times the variance of"
            " the closed form.",
            f"The continuous bound of {same['examples']} test examples, {same['times']} times of each, uniform in t of each"
            " schedule (bits/dim, and paired difference from the learned schedule's):",
            markdown(["schedule", "bound", "difference"], bounds),
            "Discrete bounds over the continuous one, T steps even in t (bits/dim, from the curve):",
            markdown(["schedule", *(f"T = {t}" for t in steps)], discrete),
            f"Variance between examples {show(spread['between'], 4)}, within one at {spread['times']} times"
            f" {show(spread['within'], 4)} (bits/dim)^2: beyond {spread['worth']} per example, times gain less than a tenth.",
        ]
    )


if __name__ == "__main__":
    main()
