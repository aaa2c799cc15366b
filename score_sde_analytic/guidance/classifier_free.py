"""Classifier-free guidance: eps_w = eps_c + w (eps_c - eps_u), w = scale - 1 (Ho & Salimans, 2022); scale 1 is no guidance.

With exact scores grad log p(c | x_t) = (eps_u - eps_c) / sigma and E eps_c = eps_u given x_t. With
G = E||eps_c - eps_u||^2 / d = R_u - R_c:

    E||eps - eps_w||^2 / d = R_c + w^2 G        what guidance costs a bound (`guidance_price`), and no variance to add:
                                                that of a guided chain is R_c, the conditional model's own, at every scale
    1 - E||eps_w||^2 / d = R_c - (2 w + w^2) G  below zero for large w: no variance either

so analyse the conditional model and sample with the guided one (`Study.guided`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance.strength import Scaled
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.conditions import WAYS, Conditions
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level


class ClassifierFree(Scaled):
    """eps_c + (scale - 1) (eps_c - eps_u): classifier-free guidance, both branches in one network call, two evaluations.

    Outside the interval it is the conditional model, and one evaluation. The model's clamp is applied to what comes out.

    Args:
        model: of a network that was trained with conditions dropped now and then.
        scale: as usual: 1 is no guidance, 0 the unconditional model, above 1 stronger than the condition alone.
        null: by name, the conditions that stand for "not given": a class, or `Constant(tensor)` such as an empty prompt's.
        interval: (lo, hi) of the log-SNR within which it is guided (Kynkaanniemi et al., NeurIPS 2024); None for all.

    Raises:
        InputError: no null, or one that the model does not take; a bad scale or interval.

    >>> classes, x_t = mixture.conditional(model.schedule), torch.ones(3, 2)
    >>> guided = ClassifierFree(classes, scale=2.0, null={"component": 3})
    >>> with guided.metered() as cost:
    ...     prediction = guided(x_t, 0.5, component=1)
    >>> torch.allclose(prediction.eps, 2.0 * classes(x_t, 0.5, component=1).eps - model(x_t, 0.5).eps), cost.evaluations
    (True, 6)
    """

    def __init__(
        self, model: ScoreModel, scale: float, null: Mapping[str, Any], interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__(model, scale, interval)
        self.null = Conditions.of(null)
        if not null or self.null.rows:
            raise InputError("null names the conditions that stand for none: a number each, or Constant(tensor)")
        model.conditioned(self.null)  # refuses names that it does not take

    @property
    def guidance(self) -> str:
        return f"guided with scale {self.scale:g}"

    @property
    def branches(self) -> int:
        return (1 if self.scale == 1.0 else 2) * self.model.branches

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        with self.model.metered() as cost:
            prediction = self._mixed(x_t, level, self.strength(level, self.scale - 1.0, 0.0))
        charge(self, **vars(cost))
        return confined(prediction, self.clamp)

    def _mixed(self, x_t: Tensor, level: Level, w: float | Tensor) -> Prediction:
        if not isinstance(w, Tensor) and w == 0.0:
            return self.inner.unclamped().predict(x_t, level)
        own, null = self.apart(x_t, level)
        # Right in any quantity: the weights of the two add up to one.
        return replace(own, value=axpy(own.value, own.value - null.value, w))

    def apart(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> tuple[Prediction, Prediction]:
        """(conditional, unconditional) predictions of the same states, not clamped, in one call of the network."""
        n = len(x_t)
        found = self.inner.unclamped().on(self._both(n)).predict(torch.cat([x_t, x_t]), _twice(level))
        halves = slice(None, n), slice(n, None)
        own, null = (_part(found, half, x_t, level) for half in halves)
        return own, null

    def _both(self, n: int) -> Conditions:
        """The conditions of the batch, then those that stand for none."""
        given = self.bound.arguments(n)
        missing = next((name for name in self.null.names if name not in given), None)
        if missing is not None:
            raise InputError(f"guidance needs the condition {missing}: {WAYS.format(missing)}")
        null = self.null.arguments(n)
        rows = {name: torch.cat([value, null[name].to(value) if name in null else value]) for name, value in given.items()}
        return Conditions(rows)

    def fingerprint(self) -> dict[str, Any]:
        return self.inner.fingerprint() | {"guided": self.config() | {"null": self.null.fingerprint()}}


def _part(found: Prediction, half: slice, x_t: Tensor, level: Level) -> Prediction:
    """One of the two branches, about the states and their level."""
    extra, learned = (None if part is None else part[half] for part in (found.extra, found.learned_range))
    return replace(found, x_t=x_t, level=level, value=found.value[half], extra=extra, learned_range=learned)


def _twice(level: Level) -> Level:
    """The levels of a batch that is there twice."""
    names = [name for name in ("t", "alpha", "sigma", "log_snr") if getattr(getattr(level, name), "ndim", 0)]
    return level._replace(**{name: torch.cat([getattr(level, name)] * 2) for name in names})
