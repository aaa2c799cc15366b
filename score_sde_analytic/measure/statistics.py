"""Free statistics of a state: functions of (x_t, x0_hat) that cost no network call, on which a covariance may depend.

Variances from R_k(lam, phi) = E[(U (eps - eps_hat))_k^2 | phi] are KL-optimal among those that may look at phi, for any phi.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from score_sde_analytic.arrays import readable, square_norm
from score_sde_analytic.checks import settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import differences
from score_sde_analytic.models.prediction import Prediction

#: Added to energies before their logarithm, in squared data units.
FLOOR = 1e-8


class Statistic(ABC):
    """phi(x_t, x0_hat): one number per sample, or, if `local`, one per pixel (for the basis Pixel)."""

    local: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, prediction: Prediction) -> Float[Tensor, " batch"] | Float[Tensor, "batch h w"]:
        """phi of every sample; or, for a local statistic, of every pixel."""

    def config(self) -> dict[str, Any]:
        """Plain data that identifies it."""
        settings = asdict(self) if hasattr(self, "__dataclass_fields__") else {}  # type: ignore[call-overload]
        return {"name": type(self).__name__} | settings


@dataclass(frozen=True)
class HighFrequency(Statistic):
    """log of the energy of x0_hat that 2x2 averages miss: flat against textured images."""

    def __call__(self, prediction: Prediction) -> Float[Tensor, " batch"]:
        x = _images(prediction)
        down, sums = _pairs(x, -2)
        across, _ = _pairs(sums, -1)
        missed = 0.5 * square_norm(down) + 0.25 * square_norm(across)
        return (missed / math.prod(x.shape[1:]) + FLOOR).log().to(x)


@dataclass(frozen=True)
class Energy(Statistic):
    """log ||x0_hat||^2 / d.

    >>> Energy()(model(torch.zeros(3, 2), 0.5)).shape
    torch.Size([3])
    """

    def __call__(self, prediction: Prediction) -> Float[Tensor, " batch"]:
        return (prediction.x_0.float().square().flatten(1).mean(1) + FLOOR).log()


@dataclass(frozen=True)
class MeanLevel(Statistic):
    """Mean of x0_hat.

    >>> MeanLevel()(model(torch.zeros(2, 2), 0.5))
    tensor([-0.1325, -0.1325])
    """

    def __call__(self, prediction: Prediction) -> Float[Tensor, " batch"]:
        return prediction.x_0.float().flatten(1).mean(1)


@dataclass(frozen=True)
class GradientEnergy(Statistic):
    """Per pixel: log of the squared differences of x0_hat to its neighbours, averaged over a window and the channels.

    Attributes:
        window: odd side of the square window.
    """

    local: ClassVar[bool] = True
    window: Annotated[int, whole(1)] = 3

    def __post_init__(self) -> None:
        settle(self)
        if self.window % 2 == 0:
            raise InputError(f"window must be odd and positive, got {self.window}")

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch h w"]:
        x = _images(prediction)
        across, down = (x.diff(dim=-1).square(), x.diff(dim=-2).square())
        energy = pad(across, (0, 1)) + pad(across, (1, 0)) + pad(down, (0, 0, 0, 1)) + pad(down, (0, 0, 1, 0))
        local = avg_pool2d(energy.mean(1, keepdim=True), self.window, 1, self.window // 2, count_include_pad=False)
        return (local[:, 0] + FLOOR).log()


#: name -> () -> Statistic, with its own settings.
STATISTICS: dict[str, Callable[[], Statistic]] = {
    "high_frequency": HighFrequency,
    "gradient": GradientEnergy,
    "energy": Energy,
    "mean": MeanLevel,
}


def from_config(config: Mapping[str, Any], statistic: Statistic | None = None) -> Statistic:
    """The statistic with this `config()`.

    Args:
        statistic: the statistic itself, needed for one that is not built in.

    Raises:
        InputError: one that is not built in was not passed, or the one passed has another config.

    >>> from_config(GradientEnergy(window=5).config())
    GradientEnergy(window=5)
    """
    settings = dict(config)
    built_in = {cls.__name__: cls for cls in (HighFrequency, Energy, MeanLevel, GradientEnergy)}.get(settings.pop("name", ""))
    if statistic is None:
        if built_in is None:
            raise InputError(f"the statistic {config.get('name')!r} is not built in; pass the object it was fitted with")
        try:
            return built_in(**settings)
        except TypeError as error:
            raise InputError(f"the statistic {config!r} is of another version ({error}); fit it again") from error
    lines = differences(config, statistic.config())
    if lines:
        raise InputError(f"the statistic is not the one it was saved as ({'; '.join(lines)}); use the one it was fitted with")
    return statistic


def _pairs(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(differences, sums) of neighbours, two by two; of a last one that is alone the sum is sqrt(2) of it."""
    pairs, alone = x.tensor_split([x.shape[dim] // 2 * 2], dim)
    first, second = pairs.unflatten(dim, (-1, 2)).unbind(dim)
    sums = first + second
    return first - second, torch.cat([sums, math.sqrt(2.0) * alone], dim) if alone.numel() else sums


def _images(prediction: Prediction) -> Tensor:
    if prediction.x_0.ndim != 4:
        raise InputError(
            f"this statistic is for images (batch, channels, height, width), got {tuple(prediction.x_0.shape)}; use Energy or"
            " MeanLevel for vectors"
        )
    return prediction.x_0.float()


def checked(values: Shaped[Tensor, " ..."], prediction: Prediction) -> Float[Tensor, "batch values"]:
    """The values of a statistic in rows: one of every sample, or one of every pixel.

    Raises:
        InputError: another shape, or values that are not finite, where the host can read them.
    """
    batch = len(prediction.x_t)
    shape = prediction.x_t.shape
    if values.shape != (batch,) and values.shape != (batch, *shape[-2:]):
        raise InputError(
            f"a statistic must return one number per sample, ({batch},), or per pixel, {(batch, *shape[-2:])};"
            f" got {tuple(values.shape)}"
        )
    values = values.float().reshape(batch, -1)
    return finite(values) if readable(values) else values


def finite(values: Float[Tensor, "batch values"]) -> Float[Tensor, "batch values"]:
    """The values of a statistic.

    Raises:
        InputError: some are not finite.
    """
    if not torch.isfinite(values).all():
        raise InputError("a statistic returned NaN or inf; add a floor before logarithms and divisions")
    return values
