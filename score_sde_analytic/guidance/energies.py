"""Guidance by energies that compare a state with a reference (EGSDE: Zhao et al., NeurIPS 2022).

    eps_E = eps + sigma grad E(y, x_t),   x0_E = x0_hat - (sigma^2 / alpha) grad E,   E = sum_i w_i E_i

so that score_E = score - grad E. A DDPM step of it is the published update, 1/sqrt(1 - beta) (y + beta (s - grad E)) + noise;
their code takes its variance in place of beta / sqrt(1 - beta) before the gradient, the same in the limit of small steps. The
variance of such a chain is the unguided model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.checks import number, one_of
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance.experts import Energy, config_of
from score_sde_analytic.guidance.reference import REFERENCE, STREAM, shown, streams
from score_sde_analytic.guidance.strength import gradient
from score_sde_analytic.models.around import Around
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level

WEIGHT = number()
DRAWN = one_of(("fresh", "shared"))


class Energies(Around):
    """eps + sigma grad sum_i w_i E_i(y, x_t, level), the reference x_t ~ q(x_t | reference x_0).

    References are the condition `reference`, an image per sample: `generate(conditions={"reference": x_0})`. Receipts count the
    model's calls; a pass forth and back through each energy, that a call takes besides, is no call of the network.

    Args:
        model: as it is; of the domain that samples are to be of.
        energies: (energy, weight); energies are E(y, reference x_t, level) -> (batch,), to be small for positive weights.
            Those of weight 0 are not asked.
        reference: noise of the reference states, "fresh" at every level, or one draw "shared" by all levels, the one that the
            sample starts from, as in the public EGSDE code (and for solvers of ODEs, to which fresh noise is rough).
        fingerprint: identity of energies that are neither networks nor have a `config()`; saved results refer to it.

    Raises:
        InputError: something else than pairs of an energy and a finite weight; an energy that is not one number per sample.

    >>> toward = Energies(model, [(lambda y, reference, level: 0.5 * (y - reference).square().sum(1), 2.0)])
    >>> x_t, level = torch.zeros(1, 2), model.schedule.level(0.01)
    >>> bool((toward.predict(x_t, level, reference=torch.ones(1, 2)).x_0 > model.predict(x_t, level).x_0).all())
    True
    """

    def __init__(
        self,
        model: ScoreModel,
        energies: Sequence[tuple[Energy, float]],
        reference: Literal["fresh", "shared"] = "fresh",
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(model)
        self.energies = [_pair(given) for given in energies]
        self.shared = DRAWN("reference", reference) == "shared"
        self.takes = None if model.takes is None else (*model.takes, REFERENCE, STREAM)
        self._identity = fingerprint

    @property
    def guidance(self) -> str:
        weights = ", ".join(f"{weight:g}" for _, weight in self.energies)
        return f"guided by energies of weights {weights}" if self._active else self.model.guidance

    @property
    def _active(self) -> list[tuple[Energy, float]]:
        return [(energy, weight) for energy, weight in self.energies if weight != 0.0]

    @property
    def inner(self) -> ScoreModel:
        """The model on all conditions but the reference."""
        names = self.model.wanted(self.bound.names)
        if self.model.takes is None:
            names = [name for name in names if name not in (REFERENCE, STREAM)]
        return self.model.conditioned(self.bound.only(names))

    def drawn(self, seed: int, indices: Iterable[int]) -> dict[str, Shaped[Tensor, " batch ..."]]:
        return {**self.model.drawn(seed, indices), STREAM: streams(seed, indices)}

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        with self.model.metered() as cost:
            found = self.inner.unclamped().predict(x_t, level)
        charge(self, **vars(cost))
        if self._active:
            found = replace(found, value=axpy(found.eps, self._gradient(x_t, level), level.sigma), kind="eps")
        return confined(found, self.clamp)

    def _gradient(self, x_t: Tensor, level: Level) -> Tensor:
        """Of the energies' sum, of every sample its own."""
        reference = shown(self.bound, x_t, level, self.shared)

        def total(y: Float[Tensor, " batch *dims"]) -> Any:
            return sum(weight * _one_each(energy(y, reference, level), len(y)) for energy, weight in self._active)

        return gradient(total, x_t, "the sum of the energies")

    def fingerprint(self) -> dict[str, Any]:
        if not self._active:
            return self.inner.fingerprint()
        energies = self._identity or [config_of(energy) for energy, _ in self._active]
        said = {"energies": energies, "weights": [weight for _, weight in self._active], "shared": self.shared}
        return self.inner.fingerprint() | {"guided": said | self.bound.only([REFERENCE]).fingerprint()}


def _pair(given: Any) -> tuple[Energy, float]:
    if not isinstance(given, tuple | list) or len(given) != 2 or not callable(given[0]):
        raise InputError(f"energies are pairs (energy, weight) of a callable and a number, got {given!r}")
    return given[0], WEIGHT("the weight of an energy", given[1])


def _one_each(values: Any, count: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (count,):
        raise InputError(f"an energy must return one number per sample, ({count},)")
    return values
