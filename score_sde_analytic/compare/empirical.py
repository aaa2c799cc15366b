"""DPM-Solver-v3's statistics of a study's network, measured once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.study import Study

#: Knots, even in log-SNR, draws at each, and the width of the differences between levels.
KNOTS, DRAWS, SPAN = 64, 256, 0.1


def statistics(study: Study, examples: Float[Tensor, " n *dims"], folder: Path) -> EmpiricalStatistics:
    """Read where they are kept in the folder; else measured by 3 DRAWS KNOTS network calls."""
    known = digest(study.model.fingerprint(), float(examples.double().sum()), tuple(examples.shape), study.seed)
    path = folder / f"statistics-{known[:12]}.safetensors"
    if path.exists():
        return EmpiricalStatistics.load(path)
    low = study.schedule.finite_range[0] + 0.5 * SPAN
    knots = np.linspace(low, float(study.moments.log_snr[-1]), KNOTS)
    measured = EmpiricalStatistics.of(study.model, examples, knots, DRAWS, seed=study.seed, span=SPAN, device=study.device)
    measured.save(path)
    return measured
