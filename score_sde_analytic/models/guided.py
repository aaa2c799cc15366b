"""Guidance: models around a model that push its samples toward a condition, as it is or by a classifier.

    eps_w = eps_c + w (eps_c - eps_u),   w = scale - 1           classifier-free (Ho & Salimans, 2022)
    eps_s = eps - s sigma grad log p(c | x_t)                    by a classifier (Dhariwal & Nichol, 2021)

Scale 1 is the conditional model. With exact scores grad log p(c | x_t) = (eps_u - eps_c) / sigma, so that a classifier with the
scale s on the unconditional model is w = s - 1, and E eps_c = eps_u given x_t. With G = E||eps_c - eps_u||^2 / d = R_u - R_c:

    E||eps - eps_w||^2 / d = R_c + w^2 G        what guidance costs a bound (`measure.guidance_price`), and no variance to add:
                                                that of a guided chain is R_c, the conditional model's own, at every scale
    1 - E||eps_w||^2 / d = R_c - (2 w + w^2) G  below zero for large w: no variance either

so analyse the conditional model and sample with the guided one (`Study.guided`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.checks import LOG_SNR, each, number
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.around import Around
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.conditions import WAYS, Conditions
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level


class _Scaled(Around):
    """A model with guidance of some strength between two noise levels."""

    def __init__(self, model: ScoreModel, scale: float, interval: tuple[float, float] | None) -> None:
        super().__init__(model)
        self.scale = number()("scale", scale)
        self.interval = None if interval is None else tuple(each(LOG_SNR, 2, 2)("interval", interval))
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise InputError(f"the interval needs a log-SNR lo < hi, got {interval}")

    def _strength(self, level: Level, inside: float, outside: float) -> float | Tensor:
        """`inside` the interval, one number per sample where levels differ."""
        if self.interval is None:
            return inside
        low, high = self.interval
        if isinstance(level.log_snr, Tensor) and level.log_snr.ndim:
            held = (level.log_snr >= low) & (level.log_snr <= high)
            return torch.where(held, inside, outside).to(level.log_snr)
        return inside if low <= float(level.log_snr) <= high else outside

    def _config(self) -> dict[str, Any]:
        return {"scale": self.scale, "interval": None if self.interval is None else list(self.interval)}


class Guided(_Scaled):
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
    >>> guided = Guided(classes, scale=2.0, null={"component": 3})
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
            prediction = self._mixed(x_t, level, self._strength(level, self.scale - 1.0, 0.0))
        charge(self, **vars(cost))
        return confined(prediction, self.clamp)

    def _mixed(self, x_t: Tensor, level: Level, w: float | Tensor) -> Prediction:
        model = self.inner.unclamped()
        if not isinstance(w, Tensor) and w == 0.0:
            return model.predict(x_t, level)
        n = len(x_t)
        found = model.on(self._both(n)).predict(torch.cat([x_t, x_t]), _twice(level))
        own, null = found.value[:n], found.value[n:]
        value = axpy(own, own - null, w)  # right in any quantity: the weights of the two add up to one
        extra, learned = (None if part is None else part[:n] for part in (found.extra, found.learned_range))
        return replace(found, x_t=x_t, level=level, value=value, extra=extra, learned_range=learned)

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
        return self.inner.fingerprint() | {"guided": self._config() | {"null": self.null.fingerprint()}}


class ClassifierGuided(_Scaled):
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
    >>> guided = ClassifierGuided(model, log_prob, scale=1.0)
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
        s = self._strength(level, self.scale, 0.0)
        if isinstance(s, Tensor) or s != 0.0:
            found = replace(found, value=axpy(found.eps, self._gradient(x_t, level), -s * level.sigma), kind="eps")
        return confined(found, self.clamp)

    def _gradient(self, x_t: Tensor, level: Level) -> Float[Tensor, " batch *dims"]:
        """grad log p(c | x_t), of every sample its own."""
        recorded = torch.is_grad_enabled() and x_t.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t if recorded else x_t.detach().clone().requires_grad_()
            log_prob = self.log_prob(x, level, **self.bound.arguments(len(x)))
            if not isinstance(log_prob, Tensor) or log_prob.shape != (len(x),):
                raise InputError(f"log_prob must return one number per sample, ({len(x)},): log p of its condition")
            (gradient,) = torch.autograd.grad(log_prob.sum(), x, create_graph=recorded)
        return gradient

    def fingerprint(self) -> dict[str, Any]:
        classifier = self._classifier
        if classifier is None:
            if not isinstance(self.log_prob, nn.Module):
                raise InputError("a classifier that is no nn.Module has no weights to identify it: pass fingerprint='...'")
            classifier = digest_of(self.log_prob)
        return self.inner.fingerprint() | {"guided": self._config() | {"classifier": classifier}}


def _twice(level: Level) -> Level:
    """The levels of a batch that is there twice."""
    names = [name for name in ("t", "alpha", "sigma", "log_snr") if getattr(getattr(level, name), "ndim", 0)]
    return replace(level, **{name: torch.cat([getattr(level, name)] * 2) for name in names})
