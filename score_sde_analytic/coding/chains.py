"""A chain as plain data, so that a file and a network are all that a decoder needs.

Times, decoder, prior and covariance, every bit of them; of an isotropic covariance no more than its steps' variances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from score_sde_analytic.covariance import StepVariances, of_content
from score_sde_analytic.declared import reading, require_shape
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood.chain import Chain
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import decoder_of
from score_sde_analytic.process.kernel import kernels

CURE = "take an undamaged copy"
SHAPE = {"times": [float], "decoder": {"decoder": str}, "covariance": {"name": str}, "prior": (dict, None)}


def chain_content(chain: Chain, model: ScoreModel) -> dict[str, Any]:
    """A chain as JSON has it. Encode with `chain_of` it: the two may differ in the last bit of a variance.

    Raises:
        UnsupportedError: its covariance or its prior has no form of plain data.

    >>> content = chain_content(study.chain(3), model)
    >>> chain_of(content).config(model) == study.chain(3).config(model)
    True
    """
    covariance = chain.covariance
    if covariance.isotropic:
        levels = chain.grid.levels(model.schedule)[:-1]
        pairs = zip(kernels(levels), levels[:-1], strict=True)
        covariance = StepVariances(tuple(float(covariance.variance(kernel, t)) for kernel, t in pairs))
    return {
        "times": list(chain.grid.times),
        "decoder": chain.decoder.config(),
        "covariance": covariance.content(),
        "prior": None if chain.prior is None else chain.prior.content(),
    }


def chain_of(content: Mapping[str, Any], path: str = "a chain") -> Chain:
    """The chain of a `chain_content` that was read from `path`.

    Raises:
        InputError: it is none.
    """
    require_shape(content, SHAPE, path, CURE)
    with reading(path, CURE):
        prior = None if content["prior"] is None else LinearDenoiser.of_content(content["prior"], path)
        covariance = of_content(content["covariance"], path)
        return Chain(Grid(tuple(content["times"])), covariance, decoder_of(content["decoder"]), prior=prior)
