"""A better mean for networks of others: what it does to R, and to the samples of a fine flow.

    python benchmarks/recalibration.py --data mnist [--count 1000] [--calls 48] [--seeds 0 1 2] [--output FILE.md]

Networks as in benchmarks/foreign.py; all numbers are of test images, half of which W and the shares were fitted to, the other
half judges. The flow is DPM-Solver++ 2M, even in log-SNR up to 8: as published from N(0, I) at t = 1, stacked from the Gaussian
start at log-SNR -7. "K = 0" draws from the free model alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import foreign
from benchmarks.few_worlds import Leading
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import Grid
from score_sde_analytic.measure.recalibration import recalibrate
from score_sde_analytic.metrics import KID, ClassifierFeatures, Frechet, Precision, Recall, Reference, evaluate
from score_sde_analytic.models import LinearDenoiser, ScoreModel
from score_sde_analytic.process import SampleNoise, Schedule
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import DPMSolverPP, generate
from score_sde_analytic.uncertainty import Estimate

LEVELS = np.array([-9.5, -8.5, -7.8, -7.0, -5.4, -3.8, -2.2, -0.6, 1.0, 2.6, 4.2, 5.8])


def even(schedule: Schedule, low: float, high: float, steps: int) -> Grid:
    """Times even in log-SNR, then 0."""
    times = np.asarray(schedule.time(np.linspace(low, high, steps)))
    return Grid((*times.tolist(), 0.0))


def residuals(models: dict[str, ScoreModel], images: Tensor) -> str:
    """Mean square error of x_0, R / snr, of every model by noise level; paired errors of the ratio of the first two."""
    rows = []
    for log_snr in LEVELS:
        schedule = next(iter(models.values())).schedule
        level = schedule.level_at(log_snr)
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        x_t = level.diffuse(images, eps)
        errors = [
            torch.cat(
                [
                    (model.predict(x, level).x_0 - y).double().square().flatten(1).mean(1)
                    for x, y in zip(x_t.split(250), images.split(250), strict=True)
                ]
            ).numpy()
            for model in models.values()
        ]
        ratio = errors[1].mean() / errors[0].mean()
        spread = (errors[1] - ratio * errors[0]).std() / np.sqrt(len(images)) / errors[0].mean()
        cells = [f"{error.mean():.4g}" for error in errors]
        rows.append([f"{log_snr:.1f}", *cells, f"{Estimate(float(ratio), float(spread)):.3f}"])
    return markdown(["log-SNR", *models, "ratio of the first two"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("mnist", "fashion"), required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=48)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="none for R alone")
    parser.add_argument("--workdir", type=Path, default=Path("results/recalibration"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    name = arguments.data
    model = foreign.model(name)
    fitted, judged = foreign.halves(name)
    free = LinearDenoiser.of(fitted)
    passed = arguments.workdir / f"{name}.safetensors"
    passed.parent.mkdir(parents=True, exist_ok=True)
    better, found = recalibrate(model, fitted, free, path=passed)
    print(f"{found}.\n\nMean square error of x_0 (R / snr) on 2000 images that were not fitted:\n")
    linear = free.score_model(model.schedule)
    errors = residuals({"network": model, "stacked": better, "W alone": linear}, judged[:2000])
    print(errors, flush=True)

    spaces = {
        "classifier": ClassifierFeatures.load(foreign.CLASSIFIERS[name]),
        "64 components": Leading(fitted),
    }
    references = {space: Reference.of(judged, features) for space, features in spaces.items()}
    flows = {
        "as published": (model, None, even(model.schedule, model.schedule.log_snr(1.0), 8.0, arguments.calls)),
        "published network, Gaussian start": (model, free, even(model.schedule, -7.0, 8.0, arguments.calls)),
        "stacked, Gaussian start": (better, free, even(model.schedule, -7.0, 8.0, arguments.calls)),
    }
    rows = []
    for seed in arguments.seeds:
        z = SampleNoise(seed, range(arguments.count)).draw(torch.empty(arguments.count, *judged.shape[1:]))
        x = free.start(z, model.schedule.level(0.0)).clamp(-1, 1)
        rows.append(["K = 0", seed, *_quality(x, references), f"{float(x.mean()):.3f}"])
        for label, (used, start, grid) in flows.items():
            shape = tuple(judged.shape[1:])
            x = generate(DPMSolverPP(used), grid, shape, arguments.count, seed, 250, start=start, progress=True).clamp(-1, 1)
            rows.append([label, seed, *_quality(x, references), f"{float(x.mean()):.3f}"])
    real = [*_quality(fitted[: arguments.count], references), f"{float(fitted.mean()):.3f}"]
    rows.append(["the fitted images", "-", *real])
    print("\nSamples:\n")
    columns = ["Frechet", "KID", "precision", "recall"]
    header = [f"{metric}, {space}" for space in spaces for metric in (columns if space == "classifier" else columns[:1])]
    samples = markdown(["flow", "seed", *header, "mean"], rows)
    print(samples)
    if arguments.output:
        write_text(arguments.output, f"{errors}\n\n{samples}\n")


def _quality(x: Tensor, references: dict[str, Reference]) -> list[str]:
    metrics = {"Frechet": Frechet(groups=10), "KID": KID(), "precision": Precision(), "recall": Recall()}
    cells = []
    for space, reference in references.items():
        chosen = metrics if space == "classifier" else {"Frechet": metrics["Frechet"]}
        cells += [str(value) for value in evaluate(chosen, x, reference).values()]
    return cells


if __name__ == "__main__":
    main()
