"""What structured covariances cost in time: sampling beside bare network calls, and the estimation pass beside a scalar one.

  python benchmarks/covariance_cost.py [--config digits_vp patches] [--steps 10] [--batch 64] [--repeats 10] [--output FILE.md]

Shipped networks, CPU time. Rows take turns within a round and a ratio is taken within its round, so that load on the machine
cancels. A run of the sampler includes its plan and its noise, one generator per sample; the bare loop calls the network K times
and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.statistics import STATISTICS
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import Ancestral, generate

Rows = dict[str, Callable[[], object]]


def names_for(channels: int) -> list[str]:
    transform = "colour_dct" if channels > 1 else "dct"
    return ["residual", "pixel", "pixel|gradient", transform, f"{transform}|high_frequency", "pca", "pca|high_frequency"]


def sampling(experiment: Experiment, steps: int, batch: int) -> Rows:
    model, shape = experiment.model, tuple(experiment.test.shape[1:])
    grid = even_log_snr(experiment.schedule, steps, float(experiment.schedule.time(9.0)))
    levels = grid.levels(experiment.schedule)[:-1]
    x = torch.randn(batch, *shape)

    @torch.no_grad()
    def bare() -> None:
        for level in levels:
            model.net(x, torch.full((batch,), level.log_snr))

    def sampler(name: str) -> Callable[[], object]:
        made = Ancestral(model, experiment.study.covariance(name))
        return lambda: generate(made, grid, shape, batch, batch_size=batch)

    return {"K bare network calls": bare} | {name: sampler(name) for name in names_for(shape[0])}


def estimation(experiment: Experiment, draws: int) -> Rows:
    validation, data_range, config = experiment.splits.validation, experiment.splits.data_range, experiment.config
    statistics = DataStatistics.of(as_dataset(validation), data_range)
    knots = np.linspace(-6, 8, 4)

    def once(observers: dict[str, Recorder]) -> Callable[[], object]:
        budget = Budget(min_draws=draws, max_draws=draws, batch_size=config.estimate.batch_size)
        options = {"budget": budget, "progress": False}
        common = {"statistics": statistics, "data_range": data_range, **options}
        return lambda: estimate(experiment.model, validation, knots, observers=observers, **common)  # type: ignore[arg-type]

    rows = {"moments alone": once({})}
    for name in dict.fromkeys(n.partition("|")[0] for n in names_for(validation.shape[1]) if n != "residual"):
        chosen = {n: STATISTICS[n]() for n in ("high_frequency", "energy")}
        rows[f"and draws in {name}, two statistics"] = once({name: Recorder(experiment.study.recorders[name].basis, chosen)})
    return rows


def ratios(rows: Rows, repeats: int) -> str:
    times = np.zeros((repeats, len(rows)))
    for repeat in range(-1, repeats):  # one untimed round first
        for column, row in enumerate(rows.values()):
            start = time.process_time()
            row()
            if repeat >= 0:
                times[repeat, column] = time.process_time() - start
    low, middle, high = np.percentile(times / times[:, :1], [25, 50, 75], axis=0)
    lines = [
        [name, f"{1e3 * np.median(times[:, i]):.0f}", f"{middle[i]:.3f}", f"{low[i]:.3f} - {high[i]:.3f}"]
        for i, name in enumerate(rows)
    ]
    return markdown(["run", "ms, median", "ratio to the first, median", "quartiles"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["digits_vp", "patches"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--draws", type=int, default=200, help="per knot of the estimation, four knots")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    parts = []
    for name in arguments.config:
        config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
        config.estimate.update({"knots": 6, "min_draws": 100, "max_draws": 100, "train_knots": 0})
        channels = int(config.train.unet.in_channels)
        config.evaluate.variances, config.sample.variances = tuple(names_for(channels)), ()
        config.covariance.update({"bins": (1, 8), "shrinkage": (30.0,), "smooth": (False,)})
        with tempfile.TemporaryDirectory() as scratch:
            experiment = Experiment(config, Path(scratch))
            title = f"{config.network.source}, {arguments.batch} samples of {arguments.steps} steps, one thread"
            parts.append(f"{title}:\n\n{ratios(sampling(experiment, arguments.steps, arguments.batch), arguments.repeats)}")
            title = f"{config.network.source}, estimation of {4 * arguments.draws} draws, one thread"
            parts.append(f"{title}:\n\n{ratios(estimation(experiment, arguments.draws), arguments.repeats)}")
    text = "\n\n".join(parts)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
