"""Pictures of schedules: where times lie, what they are weighed by, and how little the choice matters to the bound itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.process.density import Density
from score_sde_analytic.process.learned import Learned
from score_sde_analytic.report.style import GRID_COLOURS, STYLE, save
from score_sde_analytic.uncertainty import Estimate

#: So that curves which coincide stay visible.
DASHES: Sequence[tuple[int, tuple[int, ...]]] = [(0, ()), (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (5, 3)), (0, (2, 3))]


@plt.rc_context(STYLE)
def densities(path: Path, by_name: Mapping[str, Density], moments: Moments) -> Path:
    """The squared error of a draw, the densities of times, and log-SNR at uniform t."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    low, high = (getattr(next(iter(by_name.values())), end) for end in ("low", "high"))
    lam, error = np.linspace(low, high, 400), moments.squared_error
    axes[0].plot(lam, error.mean(lam), color="0.1", label="mean: R")
    axes[0].fill_between(
        lam, np.maximum(error.mean(lam) - error.std(lam), 1e-9), error.mean(lam) + error.std(lam), color="0.8", label="± sd"
    )
    axes[0].set(title="Squared error of one draw", xlabel="log-SNR", ylabel="r", yscale="log", ylim=(1e-4, 2.0))
    for i, (name, density) in enumerate(by_name.items()):
        style = {"color": GRID_COLOURS[i % len(GRID_COLOURS)], "ls": DASHES[i % len(DASHES)], "lw": 1.4, "label": name}
        axes[1].plot(density.middles, density.values, **style)
        t = np.linspace(0.0, 1.0, 401)[1:]
        axes[2].plot(t, Learned(density).log_snr(t), **style)
    axes[1].set(title="Where times are drawn", xlabel="log-SNR", ylabel="density", ylim=(0.0, None))
    axes[2].set(title="The same as a schedule", xlabel="t", ylabel="log-SNR")
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=7, framealpha=0.9)
    return save(figure, path)


@plt.rc_context(STYLE)
def invariance(
    path: Path, continuous: Mapping[str, Estimate], discrete: Mapping[str, Sequence[float]], steps: Sequence[int], limit: float
) -> Path:
    """Continuous bounds of several schedules with the same ends, and discrete ones on their way to the limit, in bits/dim."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    colours = dict(zip({**continuous, **discrete}, GRID_COLOURS, strict=False))
    for i, (name, bound) in enumerate(continuous.items()):
        axes[0].errorbar([i], [bound.value], [2.0 * bound.stderr], fmt="o", ms=5, capsize=4, color=colours[name])
    axes[0].set_xticks(range(len(continuous)), [name.replace(", ", "\n") for name in continuous])
    axes[0].set(title="Continuous time: the same bound ± 2 SE", ylabel="bits/dim", xlim=(-0.6, len(continuous) - 0.4))
    for name, values in discrete.items():
        axes[1].plot(steps, np.array(values) - limit, "o-", ms=3.5, lw=1.2, color=colours[name], label=name)
    axes[1].plot(
        steps,
        (np.array(discrete[next(iter(discrete))][-1]) - limit) * steps[-1] / np.array(steps),
        ":",
        color="0.4",
        label="1 / T",
    )
    axes[1].set(title="T steps, even in t", xlabel="T", ylabel="bits/dim above the limit", xscale="log", yscale="log")
    axes[1].legend(fontsize=8)
    return save(figure, path)
