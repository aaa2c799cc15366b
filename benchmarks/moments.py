"""Variance of Monte Carlo estimates of R, Lambda and X: plain, antithetic, control variates, and both together.

  python benchmarks/moments.py [--digits] [--output FILE.md]

At equal network evaluations n the variance of an estimate is v / n, and the tables give v relative to plain Monte Carlo:

    plain        v = Var f(x_0, eps)
    antithetic   v = 2 Var (f(x_0, eps) + f(x_0, -eps))/2            a pair costs two evaluations
    controls     v = Var f - Cov(f, c) Cov(c)^+ Cov(c, f)            c = ||eps||^2/d, <x_0 - m, eps>/d and, for data known
                                                                     in closed form, ||x_0 - m||^2/d, less their means
    both         the same regression on means over pairs, times 2

All four come from the same draws; errors are the delete-one-group jackknife of the ratio, groups being whole pairs. The
regression is fitted on those draws, so many that its own noise does not show.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Tabulated

METHODS = ("antithetic pairs", "control variates", "both")
OUTCOMES = ("R", "Lambda", "X")
KNOTS = np.linspace(-8.0, 9.0, 8)
GROUPS = 64


def mixture() -> GaussianMixture:
    """Eight Gaussians in 16 dimensions with one shared anisotropic covariance."""
    means = 0.6 * np.random.default_rng(0).normal(size=(8, 16))
    return GaussianMixture(np.ones(8), means, np.geomspace(0.5, 0.002, 16))


@torch.no_grad()
def draw_values(model: ScoreModel, level: Level, x_0: Tensor, eps: Tensor, statistics: DataStatistics) -> Array:
    """[R, Lambda, X, controls] per draw, (batch, 6 or 5); the energy of x_0 is a control where its mean is known."""
    eps_hat = model.predict(level.diffuse(x_0, eps), level).eps
    centred = x_0.double() - statistics.mean
    columns = [
        mean_square(eps - eps_hat),
        mean_square(eps_hat),
        (eps.double() * eps_hat.double()).flatten(1).mean(1),
        mean_square(eps) - 1.0,
        (centred * eps.double()).flatten(1).mean(1),
    ]
    if statistics.count == 0:
        columns.append(mean_square(centred) - statistics.variance)
    return torch.stack(columns, 1).numpy()


def covariances(groups: list[Array]) -> Array:
    """Covariance of all rows but those of one group, for each group, after that of all rows: (1 + g, c, c)."""
    count = np.array([len(rows) for rows in groups], dtype=np.float64)
    total = np.array([rows.sum(0) for rows in groups])
    products = np.array([rows.T @ rows for rows in groups])

    def kept(sums: Array) -> Array:
        return np.concatenate([sums.sum(0, keepdims=True), sums.sum(0) - sums])

    n, mean = kept(count)[:, None, None], kept(total) / kept(count)[:, None]
    return (kept(products) / n - mean[:, :, None] * mean[:, None, :]) * n / (n - 1)


def residual_variance(covariance: Array) -> Array:
    """Variance of the three outcomes with the controls regressed out."""
    coupling, k = covariance[:, 3:, :3], len(OUTCOMES)
    beta = np.linalg.pinv(covariance[:, 3:, 3:], rcond=1e-10, hermitian=True) @ coupling
    return np.einsum("goo->go", covariance[:, :k, :k]) - np.einsum("gco,gco->go", beta, coupling)


def relative_variances(pairs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(ratio to plain, its standard error), (methods, outcomes), from groups of (values at eps, values at -eps)."""
    draws = covariances([np.concatenate(group) for group in pairs])
    means = covariances([0.5 * (plus + minus) for plus, minus in pairs])
    plain, paired = (np.einsum("goo->go", c[:, :3, :3]) for c in (draws, means))
    ratios = np.stack([2.0 * paired, residual_variance(draws), 2.0 * residual_variance(means)], 1) / plain[:, None]
    whole, left_out, g = ratios[0], ratios[1:], len(pairs)
    return whole, np.sqrt(((left_out - left_out.mean(0)) ** 2).sum(0) * (g - 1) / g)


def measure(model: ScoreModel, x_0: Tensor, statistics: DataStatistics, pairs: int, seed: int = 0) -> tuple[Array, Array]:
    """Relative variances at every knot: x_0 drawn from the given examples with replacement, eps fresh."""
    generator, size = torch.Generator().manual_seed(seed), pairs // GROUPS
    ratios, errors = [], []
    for knot in KNOTS:
        level, groups = model.schedule.level_at(float(knot)), []
        for _ in range(GROUPS):
            batch = x_0[torch.randint(len(x_0), (size,), generator=generator)]
            eps = torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
            plus, minus = (draw_values(model, level, batch, sign * eps, statistics) for sign in (1.0, -1.0))
            groups.append((plus, minus))
        ratio, error = relative_variances(groups)
        ratios.append(ratio)
        errors.append(error)
    return np.stack(ratios), np.stack(errors)


def markdown(ratios: Array, errors: Array) -> str:
    """One table per outcome, a row per knot and the geometric mean over knots."""
    parts = []
    for o, outcome in enumerate(OUTCOMES):
        parts += [f"| log-SNR, {outcome} | {' | '.join(METHODS)} |", "|---" * (1 + len(METHODS)) + "|"]
        for k, knot in enumerate(KNOTS):
            cells = (f"{r:.2g} ± {e:.1g}" for r, e in zip(ratios[k, :, o], errors[k, :, o], strict=True))
            parts.append(f"| {knot:.1f} | {' | '.join(cells)} |")
        cells = (f"{r:.2g}" for r in np.exp(np.log(ratios[:, :, o]).mean(0)))
        parts += [f"| geometric mean | {' | '.join(cells)} |", ""]
    return "\n".join(parts)


def exact_curve(distribution: GaussianMixture, schedule: Tabulated, knots: int = 64, count: int = 50_000) -> NoiseCurve:
    """R of the exact posterior covariance; its Monte Carlo error is at most 0.2 % at any knot."""
    low, high = np.asarray(schedule.log_snr(schedule.times[[-1, 0]])).tolist()
    lam = np.linspace(low, high, knots)
    r, error = np.array([distribution.residual(schedule.level_at(float(x)), count, seed=i) for i, x in enumerate(lam)]).T
    return NoiseCurve.from_residual(lam, r, error)


def curve_errors(distribution: GaussianMixture, repeats: int) -> str:
    """Error in R over the table's own times, three ways to spend 10,000 evaluations."""
    schedule = Tabulated.linear()
    model, statistics = distribution.score_model(schedule), distribution.statistics()
    table = np.asarray(schedule.log_snr(schedule.times))
    truth = exact_curve(distribution, schedule).residual(table)

    def moments(knots: Array, draws: int, seed: int) -> Moments:
        x_0 = distribution.sample(draws, seed=1000 + seed)
        budget = Budget(tolerance=0.0, min_draws=draws, max_draws=draws, batch_size=draws, groups=min(32, draws))
        return estimate(model, x_0, knots, budget, statistics=statistics, seed=seed, progress=False)

    errors: dict[str, list[Array]] = {"curve, control variates": [], "curve, plain": [], "table of 1000 times, plain": []}
    for seed in range(repeats):
        controlled = moments(np.linspace(-9.0, 9.0, 32), 312, seed)
        plain = replace(controlled, coefficients=np.zeros((32, 3, 3)))
        direct = moments(np.sort(table), 10, seed)
        raw = direct.sums.sum(0)[::-1, 2] / direct.draws[::-1]
        estimates = (NoiseCurve.fit(controlled).residual(table), NoiseCurve.fit(plain).residual(table), raw)
        for name, value in zip(errors, estimates, strict=True):
            errors[name].append(np.abs(value / truth - 1.0))
    evaluations = (controlled.evaluations, plain.evaluations, direct.evaluations)
    lines = ["| estimate | network evaluations | mean error in R | largest error in R |", "|---|---|---|---|"]
    for (name, rows), spent in zip(errors.items(), evaluations, strict=True):
        cells = [
            f"{100 * e.mean():.2f} ± {100 * e.std(ddof=1) / len(e) ** 0.5:.1g} %"
            for e in (np.mean(rows, axis=1), np.max(rows, axis=1))
        ]
        lines.append(f"| {name} | {spent:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def digits(pairs: int) -> str:
    """The shipped digits network on validation digits; a message where network or diffusers is absent."""
    from score_sde_analytic.configs.digits_vp import get_config
    from score_sde_analytic.runners import datasets, networks

    config = get_config()
    try:
        model = networks.model(config, Path(), torch.device("cpu"))
    except (FileNotFoundError, ImportError) as error:
        return f"Digits skipped: {error}\n"
    x_0 = datasets.splits(config).validation
    statistics = DataStatistics.of(TensorDataset(x_0))
    network = model.fingerprint()["network"]
    title = f"Digits network {network}, {len(x_0)} validation examples, {2 * pairs:,} evaluations per knot:"
    return f"{title}\n\n{markdown(*measure(model, x_0, statistics, pairs))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64_000, help="antithetic pairs per knot")
    parser.add_argument("--repeats", type=int, default=40, help="repeated estimates of the whole curve")
    parser.add_argument("--digits", action="store_true", help="also measure the shipped digits network")
    parser.add_argument("--digits-pairs", type=int, default=3_200, help="antithetic pairs per knot for it")
    parser.add_argument("--output", type=Path, help="also write the tables here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    distribution = mixture()
    model, x_0 = distribution.score_model(Tabulated.linear()), distribution.sample(1_000_000, seed=1)
    title = f"Mixture in 16 dimensions, exact score, DDPM's linear table, {2 * args.pairs:,} evaluations per knot:"
    parts = [f"{title}\n\n{markdown(*measure(model, x_0, distribution.statistics(), args.pairs))}"]
    title = f"R over the 1000 times of the table, mean of {args.repeats} repetitions:"
    parts.append(f"{title}\n\n{curve_errors(distribution, args.repeats)}")
    if args.digits:
        parts.append(digits(args.digits_pairs))
    text = "\n".join(parts)
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
