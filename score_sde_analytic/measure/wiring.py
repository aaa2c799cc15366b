"""Which wiring fits a network: what each costs, on the same examples with the same noise.

A network that is fed wrongly (its time, the scaling of its input, the range of the data) or read wrongly (as eps, x_0, v) is
some denoiser still, of a larger R. So of several wirings the one of least

    cost = 1/2 int R dlam     nats per dimension, lam between two levels

is right, as far as examples tell. Data of another range are compared at levels at which they are equally hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Float64, Shaped
from numpy.typing import ArrayLike
from torch import Tensor, nn

from score_sde_analytic.arrays import Array, numbers, wide
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.models.identity import Wrapper, weights_digest
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.uncertainty import Estimate

#: Log-SNRs of data in [-1, 1], from nearly nothing known to nearly all.
LEVELS = (-8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
#: Of a difference that counts, in standard errors.
BEYOND = 3.0
#: What a network that is called wrongly may raise.
REFUSED = (UserError, RuntimeError, IndexError, TypeError, ValueError, AssertionError)


@dataclass(frozen=True)
class Wiring:
    """One way to feed and read a network.

    Attributes:
        model: of it; the networks of several may be one `Remembering`.
        data_range: of the data it was trained on.
    """

    name: str
    model: ScoreModel
    data_range: DataRange


class Remembering(Wrapper):
    """A network that is asked once for what several wirings ask; `forget` what it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._known: dict[str, Any] = {}

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Any) -> Any:
        asked = weights_digest({"x": x, "labels": labels} | conditions)
        if asked not in self._known:
            self._known[asked] = self.wrapped(x, labels, **conditions)
        return self._known[asked]

    def forget(self) -> None:
        self._known.clear()


@dataclass
class WiringCost:
    """What a wiring costs.

    Attributes:
        log_snr: of the levels.
        residuals: R of every example at every level.
        failure: what the network said where it cannot be called so; empty otherwise.
    """

    wiring: Wiring
    log_snr: Float64[Array, " m"]
    residuals: Float64[Array, "n m"] = field(default_factory=lambda: np.empty((0, 0)))
    failure: str = ""

    @property
    def per_example(self) -> Float64[Array, " n"]:
        """Nats per dimension."""
        return 0.5 * scipy.integrate.trapezoid(self.residuals, self.log_snr, axis=1)

    @property
    def nats(self) -> Estimate:
        """Nats per dimension; infinite where the network cannot be called so."""
        return Estimate(math.inf, 0.0) if self.failure else Estimate.of(self.per_example)

    def above(self, best: WiringCost) -> Estimate:
        """By how much it costs more than another, on the same examples."""
        return Estimate(math.inf, 0.0) if self.failure else Estimate.of(self.per_example - best.per_example)

    def tied(self, best: WiringCost) -> bool:
        """Whether examples do not tell it from another."""
        gap = self.above(best)
        return gap.value <= BEYOND * gap.stderr

    @property
    def residual(self) -> Float64[Array, " m"]:
        """R by level."""
        return self.residuals.mean(0)


@torch.no_grad()
def wiring_costs(
    wirings: Sequence[Wiring],
    x_0: Float[Tensor, " batch *dims"],
    data_range: DataRange,
    log_snr: ArrayLike = LEVELS,
    seed: int = 0,
    conditions: Mapping[str, Shaped[Tensor, " batch ..."]] | None = None,
) -> list[WiringCost]:
    """The cost of every wiring, the best first; those that the network refuses last, with what it said.

    Args:
        x_0: some tens of examples, in `data_range`.
        log_snr: levels of the data in `data_range`; a schedule that does not reach one is asked at its end.
        conditions: of the examples, for a network that takes them.

    Raises:
        InputError: no wirings, or the network refuses all.

    >>> models = [ScoreModel(model.net, model.schedule, predicts, model.times) for predicts in ("x_0", "eps")]
    >>> wirings = [Wiring(each.predicts, each, DataRange()) for each in models]
    >>> [cost.wiring.name for cost in wiring_costs(wirings, data, DataRange())]
    ['eps', 'x_0']
    """
    levels = numbers("log_snr", log_snr)
    found = [WiringCost(wiring, levels, np.full((len(x_0), len(levels)), np.nan)) for wiring in wirings]
    eps = SampleNoise(seed, range(len(x_0))).draw(torch.empty(x_0.shape)).to(x_0.device)
    for column, level in enumerate(levels):
        for cost in found:
            if not cost.failure:
                _measure(cost, column, float(level), x_0, eps, data_range, conditions or {})
        for net in {id(cost.wiring.model.net): cost.wiring.model.net for cost in found}.values():
            if isinstance(net, Remembering):
                net.forget()
    if all(cost.failure for cost in found):
        raise InputError(f"the network refuses every wiring; the first: {found[0].failure if found else 'none was given'}")
    return sorted(found, key=lambda cost: cost.nats.value)


def _measure(
    cost: WiringCost,
    column: int,
    log_snr: float,
    x_0: Tensor,
    eps: Tensor,
    data_range: DataRange,
    conditions: Mapping[str, Tensor],
) -> None:
    """R of every example at a level, or why there is none."""
    own, model = cost.wiring.data_range, cost.wiring.model
    width = (own.hi - own.lo) / (data_range.hi - data_range.lo)
    low, high = model.schedule.log_snr_range
    lam = float(np.clip(log_snr - 2.0 * math.log(width), max(low, -40.0), min(high, 40.0)))
    x = own.lo + width * (x_0 - data_range.lo)
    level = model.schedule.level_at(lam)
    try:
        prediction = model.predict(level.diffuse(x, eps), level, **conditions)
    except REFUSED as error:
        cost.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return
    residual = (wide(prediction.eps) - wide(eps)).square().flatten(1).mean(1)
    cost.residuals[:, column] = residual.cpu().numpy()
    if not bool(torch.isfinite(residual).all()):
        cost.failure = f"what it predicts at log-SNR {lam:.1f} is not finite"


def told(costs: Sequence[WiringCost]) -> Iterator[str]:
    """What the costs say, in sentences."""
    best, *others = costs
    ties = [cost.wiring.name for cost in others if cost.tied(best)]
    yield f"{best.wiring.name} fits best: {best.nats:.3f} nats/dim between log-SNR {best.log_snr[0]:g} and {best.log_snr[-1]:g}"
    if ties:
        yield f"these examples do not tell it from {', '.join(ties)}"
    if best.residual[len(best.residual) // 2 :].min() > 0.9:
        yield "but no wiring denoises: R is near or above 1 at all low noise; is this network trained, and of these data?"
