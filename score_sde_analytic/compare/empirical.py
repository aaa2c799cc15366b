"""DPM-Solver-v3's statistics of a study's network, measured once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.models.identity import weights_digest
from score_sde_analytic.study import Study

#: Knots, even in log-SNR, draws at each, and the width of the differences between levels.
KNOTS, DRAWS, SPAN = 64, 256, 0.1


def statistics(study: Study, examples: Examples, folder: Path) -> EmpiricalStatistics:
    """Read where they are kept in the folder; else measured by 3 DRAWS KNOTS network calls."""
    x_0, conditions = examples.batch(range(len(examples)))
    given = [weights_digest(conditions)] if conditions else []
    low, high = study.schedule.finite_range[0] + 0.5 * SPAN, float(study.moments.log_snr[-1])
    known = digest(study.model.fingerprint(), float(x_0.double().sum()), tuple(x_0.shape), study.seed, low, high, *given)
    path = folder / f"statistics-{known[:12]}.safetensors"
    if path.exists():
        return EmpiricalStatistics.load(path)
    knots = np.linspace(low, high, KNOTS)
    measured = EmpiricalStatistics.of(study.model, examples, knots, DRAWS, seed=study.seed, span=SPAN, device=study.device)
    measured.save(path)
    return measured
