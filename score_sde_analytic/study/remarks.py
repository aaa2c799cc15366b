"""What to know before a study is trusted, in words: assumptions that data contradict, optima on the edge of a search."""

from __future__ import annotations

import math

import numpy as np

from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.measure.answers import relative_tolerance
from score_sde_analytic.measure.knots import doubt_between
from score_sde_analytic.study.measured import Measured
from score_sde_analytic.study.record import Record
from score_sde_analytic.study.search import GridSearch
from score_sde_analytic.study.structures import Structures

#: Bits/dim that another unit of log-SNR must promise, and doubt between knots over that at them, before they are worth a word.
GAIN, DOUBT = 0.02, 1.5
#: Share of R, and standard errors, by which a network must be worse than a linear denoiser.
MARGIN, SURE = 0.05, 4.0


def remarks(record: Measured, search: GridSearch, structures: Structures) -> tuple[str, ...]:
    """Sentences, none where all is well.

    >>> remarks(study, study.search, study.structures)[0][:60]
    "R from 'residual' is outside (0, 1) at log-SNR 7.4, 7.7, 8.1"
    """
    return (
        *_guided(record),
        *_space(record),
        *search.curve.remarks,
        *_linear(record),
        *_between(record),
        *_first(search),
        *_bins(structures),
    )


def _guided(record: Record) -> list[str]:
    """Whether the pass measured a guided model, whose R no chain should add."""
    guidance = record.moments.fingerprint["model"].get("guided")
    if guidance is None:
        return []
    return [
        "the pass measured a guided model: its R prices chains and is no variance to sample with, which is the conditional"
        " model's at every scale; analyse that one, and sample with study.guided(scale, null)"
    ]


def _space(record: Record) -> list[str]:
    """Whether the examples stand for something else."""
    if not record.space:
        return []
    space = record.space
    return [f"the examples are {space}: bits/dim are those of {space} as a density, and not of what they stand for"]


def _linear(record: Measured) -> list[str]:
    """Whether the network knows less than a covariance, from where on, and by how much."""
    moments, linear = record.moments, record.linear(record.moments.log_snr)
    if linear is None:
        return []
    beaten = moments.residual - SURE * moments.stderr("residual") > (1.0 + MARGIN) * linear
    if not beaten[:2].any() or not (beaten.sum() > 1):
        return []
    last = int(np.flatnonzero(beaten)[-1])
    below = slice(0, last + 1)
    lost = np.trapezoid((moments.residual - linear)[below], moments.log_snr[below])
    return [
        f"below log-SNR {moments.log_snr[last]:.1f} this network knows less than a covariance: R is up to"
        f" {(moments.residual / linear)[below].max():.1f} times that of the best linear denoiser, which costs"
        f" {0.5 * BITS * lost:.3f} bits/dim and the samples their large scales; begin above it, from the Gaussian that costs no"
        " call (prior='gaussian'), or repair its mean (`recalibrate`, config.network.recalibrate)"
    ]


def _between(record: Record) -> list[str]:
    """Whether the curve is less certain between knots than at them."""
    moments = record.moments
    tolerance = relative_tolerance(moments.fingerprint["settings"])
    cells, doubt, ends = doubt_between(moments, tolerance)
    if not len(cells) or (doubt <= DOUBT * ends).all():
        return []
    worst = int((doubt / ends).argmax())
    low, high = moments.log_snr[cells[worst] : cells[worst] + 2]
    return [
        f"between its {len(moments.log_snr)} knots the curve is less certain than at them, most between log-SNR {low:.1f} and"
        f" {high:.1f}: R is known there to {100.0 * doubt[worst]:.1f} %, at the knots to {100.0 * ends[worst]:.1f} %; errors of"
        " prices hold that, and more knots (`Knots.most`, config.estimate.most_knots) make them smaller"
    ]


def _first(search: GridSearch) -> list[str]:
    """Whether the first time that is best lies on the edge of what was searched."""
    objective = search.objective
    if objective.reconstruction is None:
        return []
    total = objective.limit + objective.last(objective.levels)
    best = objective.best_first(math.inf)
    unit = int((objective.levels <= objective.high - 1.0).sum()) - 1
    if best < len(total) - 1 or unit < 0 or BITS * (total[unit] - total[best]) < GAIN:
        return []
    return [
        f"the first time that is best lies on the edge of the search, log-SNR {objective.high:.1f}; the last unit of log-SNR"
        f" saves {BITS * (total[unit] - total[best]):.3f} bits/dim, so search (and measure) higher ones:"
        " `Search.log_snr_max` and `Knots.high`, config.grid.log_snr_max and config.estimate.log_snr_max"
    ]


def _bins(structures: Structures) -> list[str]:
    """Whether the most bins that were tried are the best."""
    most = max(structures.settings.bins)
    names = [str(name) for name, choice in structures.chosen.items() if choice.bins == most > 1]
    if not names:
        return []
    return [f"{', '.join(names)}: the most bins that were tried, {most}, are the best; try more (`Structure.bins`)"]
