"""Do the error bars of predicted bits/dim hold the truth? Coverage of 95 % intervals over fresh problems, data and noise.

    python benchmarks/prediction_coverage.py [--repetitions=200] [--knots 4 8 16 50] [--workers=2] [--output FILE.md]

Problems, new in every repetition; the exact cost of any chain is known by quadrature:

    gaussian   isotropic Gaussian data of random variance, exact network
    mixture    8 independent coordinates, each a random mixture of 2 to 5 normal densities, exact network
    ripples    such a mixture and a network whose R / (1 - R) is up to 5-19 % too large, rippling with periods of 0.35-1.5
    rippled    Gaussian data and a network that ripples so

Each repetition draws 400 examples, measures the network at so many knots (more are added where they are in doubt), and prices
chains of K steps even in log-SNR and on the optimal grid. A cell is the share of intervals, estimate +- 2.04 standard errors
(Student's t, 31 degrees of freedom), that hold the exact cost of the very chain that was priced.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from score_sde_analytic import ScoreModel, Study, analyse
from score_sde_analytic.data import DataStatistics
from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import BITS, Chain
from score_sde_analytic.measure import Budget, NoiseCurve
from score_sde_analytic.models import LogSNR
from score_sde_analytic.process import LinearVP
from score_sde_analytic.process.kernel import prior_kl
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study import Knots, Settings

STEPS, GRIDS, DIM, EXAMPLES = (5, 10, 25), {"fixed": "log_snr", "optimised": "dp"}, 8, 400
#: Of Student's t with 31 degrees of freedom: errors come from 32 groups of examples.
QUANTILE = 2.04
#: Log-SNRs at which the truth is tabulated.
LEVELS = np.linspace(-10.1, 9.6, 986)
#: Quadrature nodes of one normal number.
NODES = np.linspace(-7.0, 7.0, 101)


@dataclass(frozen=True)
class Problem:
    """Independent coordinates, each a mixture of normal densities, and a network with a rippling error.

    Attributes:
        weights, means, stds: of the components, (d, k).
        ripple: relative size, period in log-SNR and phase of what the network adds to the exact error power.
    """

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray
    ripple: tuple[float, float, float] = (0.0, 1.0, 0.0)

    @classmethod
    def drawn(cls, kind: str, rng: np.random.Generator) -> Problem:
        ripple = (rng.uniform(0.05, 0.19), rng.uniform(0.7, 3.0), rng.uniform(0.0, 2.0 * np.pi))
        if kind in ("gaussian", "rippled"):
            ones = np.ones((DIM, 1))
            return cls(ones, 0.0 * ones, np.exp(0.5 * rng.normal()) * ones, ripple if kind == "rippled" else (0.0, 1.0, 0.0))
        components = rng.integers(2, 6)
        weights = rng.dirichlet(2.0 * np.ones(components), DIM)
        means = rng.normal(size=(DIM, components)) * rng.uniform(0.2, 1.2, (DIM, 1))
        means -= (weights * means).sum(1, keepdims=True)
        stds = np.exp(rng.uniform(np.log(0.01), np.log(0.5), (DIM, components)))
        return cls(weights, means, stds, ripple if kind == "ripples" else (0.0, 1.0, 0.0))

    def sample(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        columns = []
        for weight, mean, std in zip(self.weights, self.means, self.stds, strict=True):
            component = rng.choice(len(weight), count, p=weight)
            columns.append(mean[component] + std[component] * rng.normal(size=count))
        return torch.from_numpy(np.stack(columns, 1))

    def statistics(self) -> DataStatistics:
        """Exact but for the digest, so that they count as those of a sample: no control variate."""
        power = float((self.weights * (self.means**2 + self.stds**2)).sum(1).mean())
        return DataStatistics(EXAMPLES, torch.zeros(DIM, dtype=torch.float64), power, None, "exact")

    @cached_property
    def exact_residual(self) -> np.ndarray:
        """R of the exact network at LEVELS."""
        noise = np.exp(-LEVELS)[:, None]
        power = np.zeros(len(LEVELS))
        mass = np.exp(-0.5 * NODES**2)
        mass /= mass.sum()
        for weight, mean, std in zip(self.weights, self.means, self.stds, strict=True):
            spread = std**2 + noise
            x = (mean[:, None] + np.sqrt(spread)[..., None] * NODES).reshape(len(LEVELS), -1)
            posterior_variance = _posterior_variance(x, weight, mean, std, noise)
            power += posterior_variance @ (weight[:, None] * mass).ravel()
        return power / DIM * np.exp(LEVELS)

    def residual(self) -> np.ndarray:
        """R of the network at LEVELS: the exact one and its ripples."""
        return self.exact_residual + self.added(LEVELS, self.exact_residual) ** 2 * (1.0 - self.exact_residual)

    def added(self, log_snr: Any, residual: Any) -> Any:
        """What multiple of eps_hat the network adds to it: enough to raise R / (1 - R) by size sin^2."""
        size, period, phase = self.ripple
        growth = size * np.sin(2.0 * np.pi * log_snr / period + phase) ** 2
        return np.sqrt(residual * growth / (1.0 - residual + residual * (1.0 + growth)))

    def model(self) -> ScoreModel:
        """A network that predicts the exact posterior mean of the noise, and adds to it as the ripples say."""
        exact = scipy.interpolate.CubicSpline(LEVELS, self.exact_residual)
        weight, mean, std = (torch.from_numpy(a) for a in (self.weights, self.means, self.stds))

        def predict(x: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
            lam = log_snr.double().reshape(-1, 1, 1)
            alpha, sigma = torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()
            spread = alpha**2 * std**2 + sigma**2
            error = x[..., None] - alpha * mean
            share = torch.softmax(weight.log() - 0.5 * spread.log() - 0.5 * error**2 / spread, -1)
            eps = (share * sigma * error / spread).sum(-1)
            level = float(log_snr.reshape(-1)[0])
            # A multiple of eps_hat is orthogonal to eps - eps_hat, and E||eps_hat||^2 / d = 1 - R, for the exact network.
            return eps * (1.0 + float(self.added(level, exact(level))))

        return ScoreModel(predict, LinearVP(), times=LogSNR(), fingerprint="coverage")


def _posterior_variance(x, weight, mean, std, noise):
    """Of x_0 given x_0 + sqrt(noise) z = x; x (levels, n)."""
    log_share, means, variances = [], [], []
    for w, m, s in zip(weight, mean, std, strict=True):
        spread = s**2 + noise
        log_share.append(np.log(w) - 0.5 * np.log(spread) - 0.5 * (x - m) ** 2 / spread)
        means.append(m + s**2 / spread * (x - m))
        variances.append(s**2 * noise / spread)
    share = scipy.special.softmax(np.stack(log_share), 0)
    centre = (share * np.stack(means)).sum(0)
    second = sum(q * (v + m**2) for q, v, m in zip(share, variances, means, strict=True))
    return second - centre**2


def truth(chain: Chain, problem: Problem, curve: NoiseCurve, statistics: DataStatistics) -> float:
    """Bits per dimension that the chain costs on the problem's data."""
    schedule = LinearVP()
    first = float(schedule.log_snr(chain.first_time))
    error = float(np.exp(-first) * curve.residual(first))
    std = chain.decoder.std
    last = 0.5 * (np.log(2.0 * np.pi * std**2) + error / std**2)
    return BITS * float(
        chain.transition_nats(schedule, curve, None).sum() + last + prior_kl(schedule, statistics.second_moment)
    )


def repetition(task: tuple[str, int, int]) -> dict[str, list[float]]:
    """(difference from the truth, standard error) of every chain of one problem, and the knots and evaluations of its pass."""
    kind, knots, seed = task
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([seed, ["gaussian", "mixture", "ripples", "rippled"].index(kind)])
    problem = Problem.drawn(kind, rng)
    residual = problem.residual()
    curve = NoiseCurve(LEVELS, LEVELS - scipy.special.logit(residual))
    settings = Settings(knots=Knots(high=9.5, count=knots))
    budget = Budget(tolerance=0.01, min_draws=400, max_draws=400)
    study: Study = analyse(
        problem.model(),
        problem.sample(EXAMPLES, rng),
        statistics=problem.statistics(),
        record=(),
        settings=settings,
        budget=budget,
        seed=seed,
        progress=False,
    )
    chains = {f"{name} {k}": study.chain(k, grid) for name, grid in GRIDS.items() for k in STEPS}
    row = {"knots": [len(study.moments.log_snr), study.moments.evaluations]}
    for name, priced in study.price(chains).items():
        exact = truth(chains[name], problem, curve, study.statistics)
        row[name] = [priced.total.value - exact, priced.total.stderr]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--knots", type=int, nargs="*", default=[4, 8, 16, 50])
    parser.add_argument("--problems", nargs="*", default=["gaussian", "mixture", "ripples", "rippled"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/prediction_coverage.json"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results, lines = {}, []
    with ProcessPoolExecutor(arguments.workers) as pool:
        for kind in arguments.problems:
            for knots in arguments.knots:
                tasks = [(kind, knots, seed) for seed in range(arguments.repetitions)]
                rows = list(pool.map(repetition, tasks, chunksize=4))
                results[f"{kind} {knots}"] = {name: [row[name] for row in rows] for name in rows[0]}
                cells = [_cell(np.array([row[f"{g} {k}"] for row in rows])) for g in GRIDS for k in STEPS]
                in_the_end = np.mean([row["knots"][0] for row in rows])
                lines.append([kind, str(knots), f"{in_the_end:.0f}", *cells])
                print(" | ".join(lines[-1]), flush=True)
                arguments.out.write_text(json.dumps(results) + "\n")
    table = markdown(["data", "knots", "in the end", *(f"{g}, K = {k}" for g in GRIDS for k in STEPS)], lines)
    print(f"{table}\nwrote {arguments.out}")
    if arguments.output:
        write_text(arguments.output, table + "\n")


def _cell(rows: np.ndarray) -> str:
    difference, error = rows.T
    covered = 100.0 * np.mean(np.abs(difference) <= QUANTILE * error)
    return f"{covered:.1f} % (bias {np.mean(difference):+.3f}, ± {np.mean(error):.3f})"


if __name__ == "__main__":
    main()
