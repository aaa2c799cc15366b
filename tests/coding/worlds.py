"""Small worlds for codecs: images whose denoiser is known, and a study of it."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic import Budget, DataRange, LinearVP, Settings, analyse
from score_sde_analytic.coding import Codec
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.study.settings import Knots, Search, Structure

DECLARED = DataRange(levels=17)
SHAPE = (3, 4, 4)
NAMES = ("isotropic", "pixel", "pca", "colour_dct|high_frequency")


def smooth(count: int, seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Images of correlated pixels, on the levels; some are flat, others rough."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(count, 1, 1, 1)) + 0.5 * rng.normal(size=(count, shape[0], 1, 1))
    slopes = np.linspace(-1, 1, shape[1])[:, None] * rng.normal(size=(count, 1, 1, 1))
    rough = rng.choice([0.1, 0.5], size=(count, 1, 1, 1)) * rng.normal(size=(count, *shape))
    return DECLARED.encode(np.clip(np.rint(8 + 3 * (base + slopes + rough)), 0, 16).astype(int))


@cache
def study() -> Any:
    """The best linear denoiser of such images, measured."""
    model = LinearDenoiser.of(smooth(400, 0)).score_model(LinearVP())
    settings = Settings(
        knots=Knots(count=12, most=0, high=8.0),
        structure=Structure(bins=(2,), shrinkage=(30.0,), smooth=(True,)),
        search=Search(points=120, most=25, log_snr_max=8.0),
    )
    budget = Budget(min_draws=120, max_draws=120, batch_size=120)
    return analyse(model, smooth(300, 1), DECLARED, record=NAMES, settings=settings, budget=budget, progress=False)


@cache
def codec(name: str = "isotropic", steps: int = 3, **settings: Any) -> Codec:
    """Of a covariance and a number of steps."""
    prior = settings.pop("prior", None)
    return Codec(study().model, study().chain(steps, "dp", name, prior), DECLARED, **settings)


def odd(kind: str) -> Tensor:
    """Images unlike those that the denoiser is of."""
    count = 5
    pixels = {
        "noise": np.random.default_rng(9).integers(0, 17, (count, *SHAPE)),
        "black": np.zeros((count, *SHAPE), int),
        "white": np.full((count, *SHAPE), 16),
        "checkerboard": 16 * (np.indices((count, *SHAPE))[2:].sum(0) % 2),
    }[kind]
    return DECLARED.encode(pixels)


def exact(one: Codec, images: Tensor) -> bool:
    """Whether images come back, to the bit."""
    return torch.equal(one.decode(one.encode(images)), images)
