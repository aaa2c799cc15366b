"""What the variance of a guided chain should be, what guidance costs, and its fewest calls.

    python -m benchmarks.guidance --world exact [--count 10000] [--output FILE.md]
    python -m benchmarks.guidance --world digits --workdir FOLDER [--count 200] [--output FILE.md]
    python -m benchmarks.guidance --world few --workdir FOLDER [--count 200] [--output FILE.md]   digits by few calls

Chains are judged by the Frechet distance to their own limit of many steps, of the same scale; in digits in the features of the
shipped classifier, which also says how often a sample is of its class.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.configs import digits_classes
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from benchmarks.guidance_worlds import CLASSES, NULL, VP, information, labelled
from score_sde_analytic.covariance import BetaTilde, Isotropic
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import Grid, even_log_snr, karras
from score_sde_analytic.guidance import ClassifierFree, ConditionalMoments, estimate_guided
from score_sde_analytic.guidance.conditional import VARIANCES
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure import Budget
from score_sde_analytic.metrics.classifier import load_classifier
from score_sde_analytic.metrics.frechet import GaussianSummary, frechet_distance, sample_moments
from score_sde_analytic.models import ScoreModel
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import Ancestral, DPMSolverPP, Sampler, generate
from score_sde_analytic.uncertainty import Estimate

#: scale - 1.
WEIGHTS = (0.0, 1.0, 3.0)
STEPS = (5, 10, 25)
LIMIT = 150
KNOTS = np.linspace(-10.0, 10.0, 41)
#: Log-SNR of the first time of chains.
END = 7.0
Summary = Callable[[Tensor], GaussianSummary]


def chains(model: ScoreModel, measured: ConditionalMoments, w: float) -> dict[str, Sampler]:
    """Rows of a table: DDIM, beta-tilde, and the variances by name."""
    rows: dict[str, Sampler] = {
        "DDIM": Ancestral(model, BetaTilde(), eta=0.0),
        "beta-tilde": Ancestral(model, BetaTilde()),
    }
    return rows | {name: Ancestral(model, Isotropic(measured.curve(1.0 + w, name))) for name in VARIANCES}


def summary(x: Tensor) -> GaussianSummary:
    return GaussianSummary.of(*sample_moments(x.double().flatten(1)))


# --- exact mixtures ------------------------------------------------------------------------------------------------------


def exact(count: int) -> str:
    measured = estimate_guided(CLASSES, labelled(20_000), NULL, KNOTS, _fixed(20_000), progress=False)
    known = Estimate(*information(400_000))
    lines = [
        f"1/2 integral of G: {measured.information():.4f} bits/dim; I(x_0; c) / d by exact posteriors: {known:.4f}; entropy of"
        f" the condition: {measured.ceiling:.4f}.",
        markdown(
            ["w", "price, predicted", "rise of a chain of 10, predicted", "measured"], [_bits(measured, w) for w in (1.0, 3.0)]
        ),
    ]
    rows = []
    for w in WEIGHTS:
        scores = _exact_scores(measured, w, count)
        rows += [[f"{w:g}", name, *(f"{value:.4f}" for value in row)] for name, row in scores.items()]
    return "\n\n".join([*lines, markdown(["w", "variance", *(f"K = {k}" for k in STEPS)], rows)])


def _fixed(draws: int) -> Budget:
    return Budget(tolerance=0.0, min_draws=draws, max_draws=draws, batch_size=1000)


def _bits(measured: ConditionalMoments, w: float) -> list[str]:
    grid = even_log_snr(VP, 10, float(VP.time(END)))
    chain, test = Chain(grid, Isotropic(measured.curve()), 0.1), labelled(4000, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bits of a guided model are its own
        guided, plain = (bits_per_dim(m, test, chain, progress=False).terms for m in (_guided(w), CLASSES))
    rise = Estimate.of((guided - plain)[:, 1:-1].sum(1))
    levels = np.asarray(VP.log_snr(np.array(grid.times[:-1])))
    return [f"{w:g}", f"{measured.price(1.0 + w):.4f}", f"{measured.price(1.0 + w, levels=levels):.4f}", f"{rise:.4f}"]


def _guided(w: float) -> ScoreModel:
    return ClassifierFree(CLASSES, 1.0 + w, NULL)


def _exact_scores(measured: ConditionalMoments, w: float, count: int) -> dict[str, list[float]]:
    """Distances to the limit by row, at all numbers of steps, mean over two classes."""
    model, scores = _guided(w), {}
    options = {"shape": (8,), "count": count, "batch_size": count, "dtype": torch.float64}
    for label in (0, 1):
        draw = partial(generate, **options, conditions={"component": label})
        limits = [summary(draw(Ancestral(model, BetaTilde()), _exact_grid(LIMIT), seed=seed)) for seed in (11, 12)]
        for name, sampler in chains(model, measured, w).items():
            apart = [frechet_distance(summary(draw(sampler, _exact_grid(k), seed=1)), limits[0]) for k in STEPS]
            scores[name] = np.add(scores.get(name, 0.0), np.array(apart) / 2)
        floor = frechet_distance(limits[1], limits[0])
        scores["(two limits)"] = np.add(scores.get("(two limits)", 0.0), np.full(len(STEPS), floor / 2))
    return {name: list(row) for name, row in scores.items()}


def _exact_grid(steps: int) -> Grid:
    return even_log_snr(VP, steps, float(VP.time(END)))


# --- digits --------------------------------------------------------------------------------------------------------------


class Digits:
    """The shipped network of digits by class, measured, and the shipped classifier."""

    def __init__(self, workdir: Path, count: int) -> None:
        config = digits_classes.get_config()
        config.device = "cpu"
        self.experiment = Experiment(config, workdir)
        self.study = self.experiment.study
        self.classifier = load_classifier("digits_classifier")[0].eval()
        self.count = count
        self.labels = torch.arange(count) % 10

    def guided(self, w: float) -> ScoreModel:
        return ClassifierFree(self.study.model, 1.0 + w, {"class_labels": 10})

    def draw(self, sampler: Sampler, grid: Grid, seed: int = 1) -> Tensor:
        options = {"shape": (1, 8, 8), "count": self.count, "batch_size": 200, "conditions": {"class_labels": self.labels}}
        return generate(sampler, grid, seed=seed, **options).clamp(-1.0, 1.0)

    def grid(self, steps: int, end: float = END, make: Callable[..., Grid] = even_log_snr) -> Grid:
        return make(self.study.schedule, steps, float(self.study.schedule.time(end)))

    @torch.no_grad()
    def accuracy(self, x: Tensor) -> float:
        return float((self.classifier(x).argmax(1) == self.labels).double().mean())

    @torch.no_grad()
    def summary(self, x: Tensor) -> GaussianSummary:
        return summary(self.classifier.features(x))


def digits(workdir: Path, count: int) -> str:
    world = Digits(workdir, count)
    measured = world.experiment.condition
    assert measured is not None  # the config has a label for none
    gap, errors = measured.information(), measured.information(by="difference")
    rows = [row for w in WEIGHTS for row in _digits_rows(world, measured, w)]
    return "\n\n".join(
        [
            f"1/2 integral of G: {gap:.4f} bits/dim, of R_u - R_c: {errors:.4f}; entropy of the condition:"
            f" {measured.ceiling:.4f}.",
            markdown(["w", "variance", *(f"K = {k}" for k in STEPS)], rows),
        ]
    )


def few(workdir: Path, count: int) -> str:
    rows = _fewest_rows(Digits(workdir, count), workdir)
    return markdown(["w", "K", "solver", "RMS to the flow", "Frechet to the flow", "accuracy"], rows)


def _digits_rows(world: Digits, measured: ConditionalMoments, w: float) -> list[list[str]]:
    """Frechet distance to the limit / accuracy."""
    model = world.guided(w)
    limit = world.summary(world.draw(Ancestral(model, BetaTilde()), world.grid(LIMIT), seed=11))
    rows = []
    for name, sampler in chains(model, measured, w).items():
        drawn = [world.draw(sampler, world.grid(k)) for k in STEPS]
        scores = [(frechet_distance(world.summary(x), limit), world.accuracy(x)) for x in drawn]
        rows.append([f"{w:g}", name, *(f"{apart:.2f} / {accuracy:.3f}" for apart, accuracy in scores)])
        print(rows[-1], flush=True)
    return rows


def _fewest_rows(world: Digits, workdir: Path) -> list[list[str]]:
    """Tables of few calls against DDIM and DPM-Solver++, these on the grid that is best for each by the very distance."""
    rows = []
    for w in WEIGHTS[1:]:
        model = world.guided(w)
        flow = world.draw(DPMSolverPP(model, 3), world.grid(60, 9.0))
        target = world.summary(flow)

        def judged(x: Tensor, flow: Tensor = flow, target: GaussianSummary = target) -> list[float]:
            rms = float((x - flow).square().flatten(1).mean(1).mean().sqrt())
            return [rms, frechet_distance(world.summary(x), target), world.accuracy(x)]

        study = world.study.guided(1.0 + w, {"class_labels": 10})
        for steps in (3, 5):
            plan = study.fewest(steps, path=workdir / "few", progress=False)
            table = plan(world.count, 1, 200, conditions={"class_labels": world.labels}).clamp(-1.0, 1.0)
            tried: dict[str, list[list[float]]] = {"the table": [judged(table)]}
            for name, sampler in _public(model).items():
                grids = [world.grid(steps, end, make) for end in (2.0, 3.0, 4.0, 5.0, 7.0) for make in (even_log_snr, karras)]
                tried[name] = [judged(world.draw(sampler, grid)) for grid in grids]
            rows += [_best(w, steps, name, scores) for name, scores in tried.items()]
            print(rows[-len(tried) :], flush=True)
    return rows


def _public(model: ScoreModel) -> Mapping[str, Sampler]:
    return {
        "DDIM": Ancestral(model, BetaTilde(), eta=0.0),
        "DPM-Solver++ 2M": DPMSolverPP(model, 2),
        "DPM-Solver++ 3M": DPMSolverPP(model, 3),
    }


def _best(w: float, steps: int, name: str, scores: list[list[float]]) -> list[str]:
    """The best of every column on its own, over grids."""
    columns = list(zip(*scores, strict=True))
    best = min(columns[0]), min(columns[1]), max(columns[2])
    return [f"{w:g}", str(steps), name, *(f"{value:.3f}" for value in best)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("exact", "digits", "few"), required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("results/guidance"))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    count = asked.count or (10_000 if asked.world == "exact" else 200)
    made = {"exact": exact, "digits": partial(digits, asked.workdir), "few": partial(few, asked.workdir)}
    text = made[asked.world](count)
    print(text)
    if asked.output is not None:
        write_text(asked.output, text + "\n")


if __name__ == "__main__":
    main()
