"""The curves of training: bits/dim of the bound on its own batches and on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from score_sde_analytic.report.style import COLOURS, STYLE, save


@plt.rc_context(STYLE)
def training(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """1/2 integral of R in bits/dim against steps: training batches with a band, held-out data with bars, of 2 SE."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    steps, bits, error = _columns(rows, "train")
    axis.plot(steps, bits, color=COLOURS["residual"], lw=1.2, label="training batches ± 2 SE")
    axis.fill_between(steps, bits - 2 * error, bits + 2 * error, color=COLOURS["residual"], alpha=0.25, lw=0)
    steps, bits, error = _columns([row for row in rows if "validation_bits" in row], "validation")
    if len(steps):
        axis.errorbar(
            steps, bits, 2 * error, fmt="o", ms=3, lw=0.8, color=COLOURS["beta"], label="held-out data, averaged network ± 2 SE"
        )
    axis.set(title="Transitions of the bound", xlabel="step", ylabel="bits/dim", yscale="log")
    axis.legend(fontsize=8, framealpha=0.9)
    return save(figure, path)


def _columns(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Steps, bits/dim and standard errors; 0 for an error that is not known."""
    values = [(row["step"], row[f"{name}_bits"], row[f"{name}_stderr"] or 0.0) for row in rows]
    return np.array(values, dtype=np.float64).reshape(-1, 3).T
