"""The free model of a study: a Gaussian of the training data, judged on the data of the pass.

Without training data it is fitted to the data themselves, and judged on every fold by a fit to the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from score_sde_analytic.data.examples import Data, Examples
from score_sde_analytic.data.portions import PORTION, portion
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.models.free import ARRAYS, FreeModel, LinearDenoiser
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

FILE = "free.safetensors"
KIND = "free model of a study"
#: What a prior or a start is called.
GAUSSIAN = "gaussian"
#: A noise level.
ANY = Level(0.5, 0.6, 0.8, -0.575)
#: Most examples that it is fitted to and judged on.
MOST = 10_000
#: Shares of the data that are judged by a fit to the others.
FOLDS = 5
PRICE = {"log_snr": "float64 m", "nats": "float64 m", "stderr": "float64 m"}


def fitted(examples: Examples, train: Data | None, schedule: Schedule) -> Judged | None:
    """The Gaussian of the training data; None where there are too few examples.

    >>> fitted(Examples(test_set), data, model.schedule).free.spectrum.round(1)
    array([1. , 0.3])
    """
    data = portion(examples, MOST, PORTION)
    others = data if train is None else portion(train, MOST, PORTION)
    if min(len(data), len(others)) < 2 * FOLDS:
        return None
    if train is not None:
        return Judged.on(data, LinearDenoiser.of(others), schedule)
    fold = np.arange(len(data)) % FOLDS
    parts = [[data.part(np.flatnonzero(part)) for part in (fold == k, fold != k)] for k in range(FOLDS)]
    judged = [Judged.on(own, LinearDenoiser.of(rest), schedule) for own, rest in parts]
    return Judged.pooled(LinearDenoiser.of(data), judged)


def named(prior: FreeModel | str | None, own: Judged | None, shape: tuple[int, ...]) -> FreeModel | None:
    """The free model that is meant: itself, or a study's own by its name.

    Raises:
        InputError: another name, a study that has none, or a model of examples of another shape.
    """
    if not isinstance(prior, str):
        if prior is not None:
            prior.x_0(torch.zeros(1, *shape), ANY)  # refuses another shape
        return prior
    if prior != GAUSSIAN:
        raise InputError(f"the prior {prior!r} is unknown; choose {GAUSSIAN!r}, None, or give a free model of the data")
    if own is None:
        raise InputError("this study has no free model: it had too few examples, or was made by hand; fit LinearDenoiser.of")
    return own


def save(judged: Judged, path: str | Path) -> None:
    """Write it, with its price.

    Raises:
        InputError: a model of one's own, which no file describes.
    """
    linear = judged.free
    if not isinstance(linear, LinearDenoiser):
        raise InputError(f"a study keeps a LinearDenoiser as its free model, not {type(linear).__name__}; pass it as the prior")
    price = {"log_snr": judged.log_snr, "nats": judged.nats, "stderr": judged.stderr}
    save_arrays(path, linear.arrays() | price, {"kind": KIND, "basis": linear.basis.config()})


def load(path: str | Path) -> Judged:
    """Read what `save` wrote.

    Raises:
        MissingFileError: no such file.
        InputError: it is damaged.
    """
    arrays, metadata = load_arrays(path, KIND, ARRAYS | PRICE, {"basis": dict}, "delete it and save the study again")
    linear = LinearDenoiser.of_arrays(arrays, metadata["basis"])
    return Judged(linear, arrays["log_snr"], arrays["nats"], arrays["stderr"])
