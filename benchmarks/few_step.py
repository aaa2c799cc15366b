"""Few-step chains between the flow and the ancestral chain: eta x share of the extrapolation x covariance.

  python benchmarks/few_step.py [--config mixture] [--steps 5 10 25] [--samples 6000] [--seeds 3] [--output FILE.md]
  python benchmarks/few_step.py --config digits_vp --steps 5 10 --samples 1500 --seeds 1

Every cell is `AnalyticMultistep(model, covariance, eta, kappa)` on a grid even in log-SNR, from the same noise. A mixture is
judged by the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| to exact samples, in thousandths, with the standard error over
seeds (without bias: it may be negative; the exact samples are the same in all cells and seeds); images by the Frechet
distance of their pixels' means and covariances to validation and test data.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.files import write_text
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.metrics import EnergyDistance, Frechet, Reference
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import AnalyticMultistep, generate
from score_sde_analytic.uncertainty import Estimate

ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Column -> share of the extrapolation at an eta.
SHARES: dict[str, Callable[[float], float]] = {
    "none: order 1": lambda eta: 0.0,
    "half": lambda eta: 0.5,
    "1 - eta^2": lambda eta: 1.0 - eta**2,
    "all: order 2": lambda eta: 1.0,
}


def judge(experiment: Experiment, samples: int) -> Callable[[Tensor], float]:
    """A distance of samples to the data."""
    if experiment.config.data.name == "mixture":
        exact = Reference(experiment.model.net.sample(samples, seed=10_001).double())
        return lambda x: 1000.0 * EnergyDistance()(x, exact).value
    real = Reference(torch.cat([experiment.splits.validation, experiment.splits.test]).double().flatten(1))
    return lambda x: Frechet()(x.flatten(1), real).plug_in


def cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{Estimate.of(np.array(values)):.2f}"


def table(
    experiment: Experiment, covariances: list[str], etas: list[float], steps: int, samples: int, seeds: int, log_snr: float
) -> str:
    """Rows of covariance and eta; columns of shares."""
    model, distance = experiment.model, judge(experiment, samples)
    grid = even_log_snr(model.schedule, steps, float(model.schedule.time(log_snr)))
    shape, rows = tuple(experiment.splits.test.shape[1:]), []
    cases = [(name, eta) for name in covariances for eta in etas]
    for name, eta in tqdm(cases, desc=f"K={steps}"):
        found: dict[float, str] = {}
        for share in {f(eta) for f in SHARES.values()}:
            sampler = AnalyticMultistep(model, experiment.study.covariance(name), eta, share)
            runs = [generate(sampler, grid, shape, samples, seed, batch_size=500) for seed in range(seeds)]
            found[share] = cell([distance(x) for x in runs])
        rows.append([str(steps), name, f"{eta:g}", *(found[f(eta)] for f in SHARES.values())])
    return markdown(["K", "covariance", "eta", *SHARES], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mixture", help="module of configs/")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--etas", type=float, nargs="+", default=ETAS)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--covariances", nargs="+", default=["beta_tilde", "residual", "pca", "pca|energy"])
    parser.add_argument("--log_snr", type=float, default=5.0, help="of the grid's last noisy time")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = importlib.import_module(f"score_sde_analytic.configs.{args.config}").get_config()
    config.covariance.bases = tuple({name.split("|")[0] for name in args.covariances} - {"beta_tilde", "residual"})
    config.covariance.statistics = tuple({name.split("|")[1] for name in args.covariances if "|" in name})
    config.data.split = (max(config.data.split[0], 1000), *config.data.split[1:])  # "pca" needs examples
    with tempfile.TemporaryDirectory() as workdir:
        experiment = Experiment(config, Path(workdir))
        common = args.samples, args.seeds, args.log_snr
        text = ""
        for steps in args.steps:
            found = table(experiment, args.covariances, args.etas, steps, *common)
            print(found)
            text += found + "\n\n"
            if args.output:
                write_text(args.output, text)


if __name__ == "__main__":
    main()
