"""Guidance by a classifier of noisy states: eps_s = eps - s sigma grad log p(c | x_t) (Dhariwal & Nichol, 2021).

With exact scores the scale s on the unconditional model is classifier-free guidance of w = s - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance.strength import Scaled, gradient
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level


class Classifier(Scaled):
    """eps - scale sigma grad log p(c | x_t): guidance by the gradient of a classifier of noisy states.

    Args:
        model: as it is; unconditional for w = scale - 1, conditional for w = scale. Where its network takes none of the
            conditions that the classifier takes, say so with ScoreModel(conditions=()).
        log_prob: called as log_prob(x_t, level, **conditions), log p(c | x_t) of every sample, (batch,).
        scale: of the gradient; 0 is the model.
        interval: (lo, hi) of the log-SNR within which it is guided; None for all.
        fingerprint: identity of a classifier that is no nn.Module; saved results refer to it.

    >>> def log_prob(x, level, component):
    ...     return mixture.responsibilities(x, level).log().gather(1, component[:, None])[:, 0]
    >>> x_t = torch.ones(3, 2, dtype=torch.float64)
    >>> guided = Classifier(model, log_prob, scale=1.0)
    >>> torch.allclose(guided(x_t, 0.5, component=1).eps, mixture.conditional(model.schedule)(x_t, 0.5, component=1).eps)
    True
    """

    def __init__(
        self,
        model: ScoreModel,
        log_prob: Callable[..., Any],
        scale: float,
        interval: tuple[float, float] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(model, scale, interval)
        self.takes = None  # what the model takes, and what the classifier takes besides
        self.log_prob = log_prob
        self._classifier = fingerprint

    @property
    def guidance(self) -> str:
        return f"guided by a classifier with scale {self.scale:g}"

    @property
    def inner(self) -> ScoreModel:
        """The model on those of the conditions that it takes."""
        return self.model.conditioned(self.bound.only(self.model.wanted(self.bound.names)))

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        with self.model.metered() as cost:
            found = self.inner.unclamped().predict(x_t, level)
        charge(self, **vars(cost))
        s = self.strength(level, self.scale, 0.0)
        if isinstance(s, Tensor) or s != 0.0:
            found = replace(found, value=axpy(found.eps, self._gradient(x_t, level), -s * level.sigma), kind="eps")
        return confined(found, self.clamp)

    def _gradient(self, x_t: Tensor, level: Level) -> Float[Tensor, " batch *dims"]:
        """grad log p(c | x_t), of every sample its own."""
        return gradient(
            lambda x: self.log_prob(x, level, **self.bound.arguments(len(x))), x_t, "log_prob, log p of its condition,"
        )

    def fingerprint(self) -> dict[str, Any]:
        classifier = self._classifier
        if classifier is None:
            if not isinstance(self.log_prob, nn.Module):
                raise InputError("a classifier that is no nn.Module has no weights to identify it: pass fingerprint='...'")
            classifier = digest_of(self.log_prob)
        return self.inner.fingerprint() | {"guided": self.config() | {"classifier": classifier}}
