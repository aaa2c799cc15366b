"""Pictures of the explanation, from the shipped networks of digits and emoji: half a minute on one core.

python -m benchmarks.explained [--output docs/figures]
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from benchmarks.few_worlds import experiment
from score_sde_analytic.covariance import Beta, BetaTilde, Covariance, Diagonal, Isotropic
from score_sde_analytic.data import DataRange
from score_sde_analytic.grids import even_log_snr, zolotarev
from score_sde_analytic.models import LinearDenoiser, ScoreModel
from score_sde_analytic.report.style import COLOURS, GRID_COLOURS, STYLE, mosaic, save
from score_sde_analytic.samplers import DPMSolverPP, table_of
from score_sde_analytic.samplers.gaussian_tables import ends, transfer
from score_sde_analytic.study import Study, analyse

BITS = 1.0 / np.log(2.0)
#: Which emoji of the test images is shown, to the network of no class, at these log-SNRs.
FORWARD, NO_CLASS = 13, 9
SHOWN = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
#: Samplers of others by their order, and the log-SNR of their last call.
PUBLIC, PUBLIC_LAST = {"DDIM": 1, "DPM-Solver++ 3M": 3}, 6.0
#: Names of grids in the legend.
GRIDS = {"dp": "optimal", "closed_form": "closed form", "even_tuned": "even in t, best first time"}
THREE = COLOURS["beta"], COLOURS["beta_tilde"], COLOURS["residual"]
PLAIN = STYLE | {"figure.constrained_layout.use": True}


@torch.no_grad()
@plt.rc_context(PLAIN | {"axes.grid": False})
def forward(path: Path, model: ScoreModel, x_0: Tensor) -> Path:
    """One picture under more and more noise, and what the network takes it for."""
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    levels = [model.schedule.level(model.schedule.time(log_snr)) for log_snr in SHOWN]
    noisy = [level.diffuse(x_0, eps) for level in levels]
    guesses = [model(x, level.t).x_0 for x, level in zip(noisy, levels, strict=True)]
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(8.4, 2.7))
    for row, images in zip(axes, (noisy, guesses), strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(mosaic(image, 1, DataRange(-1.0, 1.0)), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, log_snr in zip(axes[0], SHOWN, strict=True):
        axis.set_title(f"log-SNR {log_snr:g}", fontsize=9)
    axes[0][0].set_ylabel("the state $x_t$")
    axes[1][0].set_ylabel(r"network's $\hat x_0$")
    return save(figure, path)


@plt.rc_context(PLAIN)
def curve(path: Path, study: Study) -> Path:
    """R with the two numbers that equal it for an exact score; the effective variance."""
    moments, lam = study.moments, study.moments.log_snr
    fine = np.linspace(lam[0], lam[-1], 400)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    left.plot(fine, study.curve.residual(fine), color=COLOURS["residual"], label=r"$R$, residual power")
    left.plot(lam, moments.residual, ".", ms=4, color=COLOURS["residual"])
    left.plot(
        lam, 1.0 - moments.noise_power, "x", ms=4, color=COLOURS["score"], label=r"$1-\Lambda$, from the network's output"
    )
    left.set(xlabel="log-SNR (noise on the left)", ylabel="share of the noise", title="What the network does not know")
    left.legend(frameon=False)
    right.semilogy(fine, study.curve.effective_variance(fine), color=COLOURS["residual"])
    right.set(xlabel="log-SNR", ylabel="$C$, variance in data units", title="Effective data variance: it only falls")
    return save(figure, path)


def excess(study: Study, covariance: Covariance, levels: np.ndarray) -> float:
    """Bits/dim of the transitions between levels over those of infinitely many."""
    at = [study.schedule.level(study.schedule.time(lam)) for lam in levels]
    nats = sum(float(covariance.step_nats(study.curve, s, t)) for t, s in pairwise(at))
    fine = np.linspace(levels[0], levels[-1], 20_001)
    return BITS * (nats - 0.5 * float(np.trapezoid(study.curve.residual(fine), fine)))


@plt.rc_context(PLAIN)
def steps(path: Path, study: Study) -> Path:
    """What so many steps cost over infinitely many: variances on one grid, then grids."""
    counts = np.unique(np.geomspace(3, 200, 14).round().astype(int))
    variances = {"β": Beta(), "β-tilde": BetaTilde(), "analytic": Isotropic(study.curve)}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    for (name, variance), colour in zip(variances.items(), THREE, strict=True):
        left.loglog(counts, [excess(study, variance, np.linspace(-9.0, 7.0, k)) for k in counts], color=colour, label=name)
    left.set(xlabel="steps K", ylabel="bits/dim above infinitely many", title="Variance, on steps even in log-SNR")
    objective = study.search.objective
    for grid, colour in zip(("dp", "closed_form", "even_tuned"), GRID_COLOURS[::2], strict=False):
        costs = [study.grid(int(k), grid).cost - objective.continuous_limit for k in counts]
        right.loglog(counts, BITS * np.array(costs), color=colour, label=GRIDS[grid])
    right.loglog(counts, [BITS * objective.excess_law(int(k)) for k in counts], ":", color="0.3", label="law, $I^2/4(K-1)$")
    right.set(xlabel="steps K", title="Grid, with the analytic variance")
    for axis in (left, right):
        axis.legend(frameon=False)
    return save(figure, path)


@plt.rc_context(PLAIN)
def density(path: Path, study: Study) -> Path:
    """Where steps belong: the root of the spread, and the optimal times of several numbers of steps."""
    objective = study.search.objective
    figure, axis = plt.subplots(figsize=(8.4, 3.0))
    axis.fill_between(objective.levels, objective.root_spread, color=COLOURS["residual"], alpha=0.15, lw=0)
    axis.plot(objective.levels, objective.root_spread, color=COLOURS["residual"], label=r"$\sqrt{w}$")
    for row, k in enumerate((25, 10, 5)):
        at = study.schedule.log_snr(np.array(study.grid(k).times[:-1]))
        axis.plot(at, np.full(k, -0.06 * (row + 1)), "|", ms=9, mew=1.3, color="0.15")
        axis.text(9.4, -0.06 * (row + 1), f"K = {k}", va="center", fontsize=8)
    axis.set(xlabel="log-SNR", ylabel=r"$\sqrt{w}$, density of the best steps", xlim=(-10.2, 10.4))
    return save(figure, path)


@plt.rc_context(PLAIN)
def coordinates(path: Path, study: Study) -> Path:
    """R of every principal component at every level."""
    covariance = cast(Diagonal, study.covariance("pca"))
    lam = np.linspace(-8.0, 8.0, 161)
    nodes = np.array([covariance.spectrum.residual(each)[0] for each in lam])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=(1.15, 1.0))
    order = np.argsort(-nodes[len(lam) // 2])
    shown = left.imshow(
        nodes[:, order].T, aspect="auto", extent=(lam[0], lam[-1], nodes.shape[1], 0), cmap="viridis", vmin=0, vmax=1
    )
    left.set(xlabel="log-SNR", ylabel="principal component", title="$R_k$: what is not known of each")
    left.grid(visible=False)
    figure.colorbar(shown, ax=left)
    step_sizes = np.linspace(0.0, 6.0, 61)
    middle = nodes[np.searchsorted(lam, 1.0)]
    scalar = 0.5 * BITS * np.log1p(middle.mean() * np.expm1(step_sizes))
    each = 0.5 * BITS * np.log1p(middle[:, None] * np.expm1(step_sizes)).mean(0)
    right.plot(step_sizes, scalar, color=COLOURS["beta"], label="one variance for all")
    right.plot(step_sizes, each, color=COLOURS["residual"], label="one for each component")
    right.set(xlabel="step in log-SNR, from 1", ylabel="bits/dim of the step", title="The same step, with either")
    right.legend(frameon=False)
    return save(figure, path)


@plt.rc_context(PLAIN)
def free(path: Path, study: Study, linear: LinearDenoiser) -> Path:
    """The network beside the best linear denoiser, and beside the mean."""
    lam = np.linspace(-9.0, 8.0, 200)
    figure, axis = plt.subplots(figsize=(8.4, 3.0))
    axis.semilogy(lam, np.exp(-lam) * study.curve.residual(lam), color=COLOURS["residual"], label="network")
    axis.semilogy(lam, np.exp(-lam) * linear.residual(lam), "--", color=COLOURS["beta"], label="covariance alone, no call")
    axis.semilogy(lam, np.full_like(lam, linear.spectrum.mean()), ":", color="0.3", label="mean of the data")
    axis.set(xlabel="log-SNR", ylabel=r"error of $\hat x_0$ per pixel", ylim=(1e-4, 1.0))
    axis.legend(frameon=False)
    return save(figure, path)


def best_on_poles(spectrum: np.ndarray, log_snrs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """r(c) of least relative error on a spectrum, of degree K with its poles at -exp(-log-SNR) of K calls."""

    def functions(c: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones_like(c), *(c / (c + np.exp(-lam)) for lam in log_snrs)])

    weights = np.linalg.lstsq(functions(spectrum) / np.sqrt(spectrum)[:, None], np.ones_like(spectrum), rcond=None)[0]
    return functions(at) @ weights


@plt.rc_context(PLAIN)
def rational(path: Path, model: ScoreModel, linear: LinearDenoiser) -> Path:
    """Relative error of samples of Gaussian data, as a function of the variance of a component."""
    low, high = ends(linear.spectrum)
    c = np.geomspace(low, high, 400)
    spectrum = linear.spectrum[linear.spectrum >= low]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True)
    for axis, k in zip(axes, (3, 5), strict=True):
        grid = even_log_snr(model.schedule, k, model.schedule.time(PUBLIC_LAST))
        found = {name: transfer(table_of(DPMSolverPP(model, order), grid), c) for name, order in PUBLIC.items()}
        found["Zolotarev's poles"] = best_on_poles(c, zolotarev(low, high, k), c)
        for (name, r), colour in zip(found.items(), THREE, strict=True):
            axis.loglog(c, np.abs(np.abs(r) / np.sqrt(c) - 1.0) + 1e-9, color=colour, label=name)
        axis.plot(spectrum, np.full(spectrum.shape, 3e-6), "|", color="0.5", ms=6)
        axis.set(xlabel="variance $c$ of a component", title=f"{k} calls", ylim=(1e-6, 3.0))
    axes[0].set_ylabel(r"$|r(c)-\sqrt{c}|\,/\sqrt{c}$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/figures"))
    folder = parser.parse_args().output
    digits, emoji = experiment("digits_vp"), experiment("emoji")
    train, validation, declared = digits.splits.train, digits.splits.validation, digits.splits.data_range
    study = analyse(digits.model, validation, declared, record=["pca"], train=train, progress=False)
    linear = LinearDenoiser.of(train)
    shown = emoji.model.given(class_labels=NO_CLASS)
    print(forward(folder / "explained_forward.png", shown, emoji.splits.held("test", FORWARD + 1)[FORWARD:]))
    print(curve(folder / "explained_curve.png", study))
    print(steps(folder / "explained_steps.png", study))
    print(density(folder / "explained_density.png", study))
    print(coordinates(folder / "explained_coordinates.png", study))
    print(free(folder / "explained_free.png", study, linear))
    print(rational(folder / "explained_rational.png", digits.model, linear))


if __name__ == "__main__":
    main()
