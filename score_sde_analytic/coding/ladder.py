"""The latents of a chain as lattices, and the laws that they and the pixels are drawn and coded with.

    x_{t_k} = U_k^T w_k,   w_k = whole numbers times a width          U_k: the basis of the covariance of the step to t_k

    q(w_1 | x_0)     = N(alpha_1 U_1 x_0, sigma_1^2 I)
    q(w_{k+1} | w_k) = N(alpha_{k+1} / alpha_k U_{k+1} U_k^T w_k, sigma_{k+1|k}^2 I)      isotropic: the same in every basis
    p(w_k | w_{k+1}) = N(U_k (a x_{t_{k+1}} + b x0_hat), diag)                            diagonal in its own
    p(w_K)           = N(0, prior_variance I), or a free model's in its own coordinates
    p(x_0 | x_{t_1})   the decoder's, pixel by pixel

A width is the ratio times the smaller of two deviations: of the draw into its level, and of the step to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import Array, slices
from score_sde_analytic.coding.laws import Table, Truncated, Windowed
from score_sde_analytic.coding.stack import Symbols
from score_sde_analytic.coding.turns import Around, Turn
from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.data.basis import Basis, Scalar
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood.chain import Chain
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.process.kernel import Kernel, kernels
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

#: Most numbers of a part of a table of probabilities.
PART = 2**21
#: A width has so many bits, so that latents are numbers of few bits too.
WIDTH_BITS = 4


@dataclass(frozen=True, eq=False)
class Ladder:
    """Latents by position: 0 at t_K, K - 1 at t_1; in flat arrays of a batch.

    Attributes:
        shape: of an image.
        levels, turns, widths: of every position.
        kernels, covariances: of the step from each position to the next.
        top: mean and deviation of the coefficients at t_K.
        around: in which all but the network is worked out.
    """

    model: ScoreModel
    shape: tuple[int, ...]
    levels: list[Level]
    turns: list[Turn]
    widths: list[float]
    kernels: list[Kernel]
    covariances: list[StepCovariance]
    top: tuple[Array, Array]
    decoder: Decoder
    data_range: DataRange
    around: Around
    device: torch.device

    @classmethod
    def of(
        cls,
        model: ScoreModel,
        chain: Chain,
        data_range: DataRange,
        shape: tuple[int, ...],
        ratio: float,
        around: Around,
        device: torch.device,
    ) -> Ladder:
        """The latents of a chain.

        Raises:
            UnsupportedError: a covariance that is not diagonal in a basis, or a prior that is not normal.
        """
        levels = chain.grid.levels(model.schedule)[:-1]
        steps = kernels(levels)
        covariances = chain.covariance.steps(steps, levels[:-1])
        with around():
            basis, mean, variance = _top(chain, model, levels[0], shape)
        turns = [Turn(each, around) for each in (basis, *(covariance.basis for covariance in covariances))]
        drawn = [*(step.beta for step in steps), levels[-1].sigma ** 2]
        coded = [float(variance.min()), *(step.rho2 for step in steps)]
        widths = [_width(ratio * math.sqrt(min(pair))) for pair in zip(drawn, coded, strict=True)]
        top = mean.ravel(), np.sqrt(variance).ravel()
        return cls(model, shape, levels, turns, widths, steps, covariances, top, chain.decoder, data_range, around, device)

    @property
    def last(self) -> int:
        """The position at t_1."""
        return len(self.levels) - 1

    @property
    def dim(self) -> int:
        """Numbers of an image."""
        return math.prod(self.shape)

    def _values(self, k: int, symbols: Symbols) -> Array:
        """w of symbols."""
        return symbols.reshape(-1, *self.shape).astype(np.float64) * self.widths[k]

    def state(self, k: int, symbols: Symbols) -> Float[Tensor, " batch *dims"]:
        """x_t, as the network is fed it."""
        return torch.from_numpy(self.turns[k].back(self._values(k, symbols))).to(self.device, torch.float32)

    def predict(self, k: int, symbols: Symbols) -> Prediction:
        """What the network says at latents; at the last level nothing of use where the decoder asks for nothing."""
        return self.model.predict(self.state(k, symbols), self.levels[k])

    def drawn_first(self, x_0: Float[Tensor, " batch *dims"]) -> Truncated:
        """q(w_1 | x_0)."""
        k, level = self.last, self.levels[self.last]
        return self._drawn(k, level.alpha * self.turns[k].there(x_0.double().numpy()), level.sigma)

    def drawn(self, k: int, symbols: Symbols) -> Truncated:
        """q of the latent at k given that at k + 1."""
        share = self.levels[k].alpha / self.levels[k + 1].alpha
        below = self._values(k + 1, symbols)
        if not self.turns[k].same(self.turns[k + 1]):
            below = self.turns[k].there(self.turns[k + 1].back(below))
        return self._drawn(k, share * below, math.sqrt(self.kernels[k].beta))

    def _drawn(self, k: int, mean: Array, std: float) -> Truncated:
        return Truncated(mean.ravel() / self.widths[k], std / self.widths[k])

    def coded_top(self, count: int) -> Windowed:
        """p(w_K) of a batch."""
        mean, std = (np.tile(of_one / self.widths[0], count) for of_one in self.top)
        return Windowed(mean, std)

    def coded(self, k: int, symbols: Symbols) -> Windowed:
        """p of the latent at k + 1 given that at k."""
        prediction = self.predict(k, symbols)
        a, b = self.kernels[k].a, self.kernels[k].b
        x_t, x_0 = (x.double().cpu().numpy() for x in (prediction.x_t, prediction.x_0))
        mean = self.turns[k + 1].there(a * x_t + b * x_0)
        with self.around():
            variances = self.covariances[k].variances(prediction)
        std = np.sqrt(variances.cpu().numpy())
        return Windowed(mean.ravel() / self.widths[k + 1], std.ravel() / self.widths[k + 1])

    def coded_data(self, symbols: Symbols) -> Table:
        """p(x_0 | x_{t_1})."""
        k, levels = self.last, self.data_range.levels or 0
        if self.decoder.needs_network:
            prediction = self.predict(k, symbols)
            x_t, x_0 = prediction.x_t.cpu(), prediction.x_0.cpu()
        else:
            x_t = x_0 = self.state(k, symbols).cpu()
        parts = [
            self.decoder.probabilities(x_t[part], x_0[part], self.levels[k], self.data_range).reshape(-1, levels)
            for part in slices(len(x_t), max(1, PART // (self.dim * levels)))
        ]
        return Table(parts)


def require_diagonal(covariance: Covariance, schedule: Schedule) -> None:
    """Refuse a covariance that latents cannot be coded by, whatever the grid.

    Raises:
        UnsupportedError: it is diagonal in no basis.
    """
    levels = Grid((1.0, 0.5, 0.0)).levels(schedule)[:-1]
    for step in covariance.steps(kernels(levels), levels[:-1]):
        _ = step.basis


def _top(chain: Chain, model: ScoreModel, level: Level, shape: tuple[int, ...]) -> tuple[Basis, Array, Array]:
    """(basis, means, variances) of the prior."""
    if chain.prior is None:
        return Scalar(), np.zeros(shape), np.full(shape, float(model.schedule.prior_variance))
    basis, mean, variance = chain.prior.normal(level)
    return basis, mean.numpy(), variance.numpy()


def _width(exact: float) -> float:
    """The largest number of few bits that is not above it.

    >>> _width(0.3), _width(1.0)
    (0.28125, 1.0)
    """
    fraction, exponent = math.frexp(exact)
    return math.ldexp(math.floor(math.ldexp(fraction, WIDTH_BITS)), exponent - WIDTH_BITS)
