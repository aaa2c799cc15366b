"""A curve per class: one pass over the examples of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.model import ScoreModel


def estimate_by(
    model: ScoreModel,
    data: Data,
    by: str,
    log_snr: ArrayLike,
    budget: Budget | None = None,
    data_range: DataRange | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> dict[int, Moments]:
    """The moments of every class, each to the precision of the budget: R of all is their mean by the share of the classes.

    Args:
        by: the condition that is the class.
        path: folder that keeps a file per class.
        options: of `estimate`: seed, device, progress, ..

    Raises:
        InputError: the data have no such condition, or it is no class; and as `estimate`.

    >>> from score_sde_analytic.data import Examples
    >>> classes = Examples(data, conditions={"component": mixture.labelled(400)[1]})
    >>> known = mixture.conditional(model.schedule)
    >>> found = estimate_by(known, classes, "component", [0.0], Budget(max_draws=300), progress=False)
    >>> [f"{float(moments.residual[0]):.1f}" for moments in found.values()]
    ['0.0', '0.2', '0.1']
    """
    folder = None if path is None else Path(path)
    parts = as_dataset(data, data_range).divided(by)
    files = {label: None if folder is None else folder / f"moments_{by}_{label}.safetensors" for label in parts}
    return {
        label: estimate(model, part, log_snr, budget or Budget(), data_range=data_range, path=files[label], **options)
        for label, part in parts.items()
    }
