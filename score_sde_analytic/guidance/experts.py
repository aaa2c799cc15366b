"""Energies that compare a state with a reference state, the experts of EGSDE (Zhao et al., NeurIPS 2022), both to be small.

    realism        mean over positions of cos(f(y), f(x_t))     features of domains, alike where y still looks like its source
    faithfulness   ||P y - P x_t||^2                            P the low-pass image that a translation is to keep

An energy is any E(y, reference x_t, level) -> (batch,); these are two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.checks import settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.process.level import Level


@runtime_checkable
class Energy(Protocol):
    """What samples should have little of."""

    def __call__(
        self, y: Float[Tensor, " batch *dims"], reference: Float[Tensor, " batch *dims"], level: Level
    ) -> Float[Tensor, " batch"]:
        """E of every state y beside its reference state at the same noise level."""
        ...


@dataclass(frozen=True, eq=False)
class CosineFeatures:
    """Mean over positions of the cosine between the features of a state and of its reference.

    >>> energy, level = CosineFeatures(lambda x, level: x[:, :, None], fingerprint="coordinates"), model.schedule.level(0.5)
    >>> energy(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 3.0]]), level)
    tensor([0., 1.])

    Args:
        extractor: (x, level) -> (batch, features, *positions), such as an inner layer of a classifier of domains that was
            trained on noisy states.
        fingerprint: identity of an extractor that is no nn.Module; saved results refer to it.
    """

    extractor: Callable[[Float[Tensor, " batch *dims"], Level], Float[Tensor, " batch features *positions"]]
    fingerprint: str | None = None

    def __call__(
        self, y: Float[Tensor, " batch *dims"], reference: Float[Tensor, " batch *dims"], level: Level
    ) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            theirs = self.extractor(reference, level)
        own = self.extractor(y, level)
        if own.ndim < 2 or len(own) != len(y):
            raise InputError(f"an extractor returns (batch, features, *positions), got {tuple(own.shape)}")
        return nn.functional.cosine_similarity(own, theirs, dim=1).reshape(len(y), -1).mean(1)

    def config(self) -> dict[str, Any]:
        """Identity, as plain data."""
        return {"name": "cosine_features", "extractor": self.fingerprint or _digest(self.extractor, "extractor")}


@dataclass(frozen=True)
class LowPass:
    """||P y - P x_t||^2, P the means over blocks of `factor` x `factor` pixels, as large as the image again (as in ILVR).

    >>> energy, level = LowPass(2), model.schedule.level(0.5)
    >>> y = torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]])
    >>> energy.image(y), energy(y, torch.zeros(1, 1, 2, 2), level)
    (tensor([[[[1., 1.], [1., 1.]]]]), tensor([4.]))

    Args:
        factor: pixels of a side of a block.

    Raises:
        InputError: states that are no images (batch, channels, height, width), or of sides that are no multiples of it.
    """

    factor: Annotated[int, whole(1)]

    def __post_init__(self) -> None:
        settle(self)

    def __call__(
        self, y: Float[Tensor, " batch *dims"], reference: Float[Tensor, " batch *dims"], level: Level
    ) -> Float[Tensor, " batch"]:
        return self.image(y - reference).square().flatten(1).sum(1)

    def image(self, x: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """P x: an orthogonal projection."""
        if x.ndim != 4 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise InputError(
                f"LowPass({self.factor}) is for images whose sides are multiples of {self.factor}, got {tuple(x.shape)}"
            )
        means = nn.functional.avg_pool2d(x, self.factor)
        return means.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def config(self) -> dict[str, Any]:
        """Identity, as plain data."""
        return {"name": "low_pass", "factor": self.factor}


def config_of(energy: Any) -> Any:
    """Plain data that identify an energy: its own `config()`, or the weights of a network.

    Raises:
        InputError: it is another callable, which nothing identifies.
    """
    return energy.config() if hasattr(energy, "config") else _digest(energy, "energy")


def _digest(called: Any, what: str) -> str:
    if not isinstance(called, nn.Module):
        raise InputError(f"an {what} that is no nn.Module has no weights to identify it: pass fingerprint='...'")
    return digest_of(called)
