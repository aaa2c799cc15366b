"""What each recorded covariance promises before a step is taken: held-out bits, the integral I, and the steps it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import BITS
from score_sde_analytic.report import tables

from .experiment import Experiment


def write(experiment: Experiment) -> list[Path]:
    """Fit, judge and save every recorded covariance; nothing where none was recorded."""
    if not experiment.study.recorders:
        return []
    work, settings = experiment.workdir, experiment.config.covariance
    low, high = experiment.study.search.objective.low, experiment.schedule.log_snr(experiment.study.first()[0])
    scalar = experiment.study.search.objective.root_integral[experiment.study.search.objective.best_first(np.inf)]
    rows = {"residual": {"saved": 0.0, "stderr": 0.0, "I": float(scalar)}}
    written = []
    for name, saved in experiment.study.structures.saved.items():
        diagonal, choice = experiment.study.structures.covariance(name), experiment.study.structures.choice(name)
        path = work / "covariances" / f"{name.label}.safetensors"
        diagonal.save(path, experiment.model.fingerprint())
        written.append(path)
        rows[str(name)] = {
            "saved": BITS * saved.value,
            "stderr": BITS * saved.stderr,
            "I": diagonal.spectrum.root_integral(low, float(high)),
            "bins": choice.bins,
            "shrinkage": choice.shrinkage,
            "smooth": choice.smooth,
            "pooled": choice.pooled,
        }
    text = tables.covariances(rows)
    print(f"\nHeld-out bits/dim saved by {settings.steps} steps even in log-SNR, validation split:\n\n{text}")
    print(f"Best: {experiment.study.resolve('auto')} (config.covariance.name='auto' takes it).")
    write_text(work / "covariances.md", text + "\n")
    experiment.record("covariances", rows)
    return [work / "covariances.md", *written]
