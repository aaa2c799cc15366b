"""Score models: any pretrained network as a source of `Prediction`s, consistent views of one network output.

    x_t = alpha x_0 + sigma eps,   score = -eps / sigma,   v = alpha eps - sigma x_0

Knowing x_t, each of eps, x_0, v and score determines the others, so a network that outputs one of them answers for all.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.arrays import onto
from score_sde_analytic.checks import each, number
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.models.conditions import NONE, WAYS, Conditions, refuse_bound_rows
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt, charge, metered, show, watched
from score_sde_analytic.models.times import Continuous, Number, Times
from score_sde_analytic.process.gaussian import axpy, expand
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

Quantity = Literal["eps", "x_0", "v", "score"]
Coordinates = Literal["schedule", "vp", "ve"]
#: Layers whose output depends on the mode of the network.
RANDOM_WHEN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
#: What a network says of time labels that it cannot take -> what to do.
REFUSALS = {
    "scalar types: Long, Int": "the network looks its time up in a table: set times=ZeroBased(N, integer=True)",
    "index out of range": "the network knows no such index: set times=ZeroBased(N) or OneBased(N) as in its training",
    "same dtype": "the network mixes precisions: cast the float32 time labels to the weights' dtype inside it",
    "unexpected keyword argument": "the network takes no such condition: name those that it takes, ScoreModel(conditions=...)",
    "class_embedding needs": "the network takes no classes: say so, ScoreModel(conditions=())",
    "required positional argument": f"the network needs a condition: {WAYS.format('name')}",
    "required keyword-only argument": f"the network needs a condition: {WAYS.format('name')}",
    "class_labels should be": f"the network needs classes: {WAYS.format('class_labels')}",
}


class ScoreModel:
    """A network and the schedule it is used with: `model(x_t, t) -> Prediction`.

    >>> linear = ScoreModel(lambda x, labels: x, model.schedule, predicts="eps")
    >>> torch.allclose(linear(torch.ones(1, 2), 0.5).score, torch.tensor(-1.0 / model.schedule.sigma(0.5)))
    True

    Args:
        net: called as `net(x, labels, **conditions)`; returns a tensor, or an object with `.sample` as diffusers' networks do,
            whose `.extra` and `.learned_range`, if it has them, predictions carry along.
        schedule: the forward process of x_t. It may differ from the one the network was trained with if `times` and
            `coordinates` speak the network's language (a network fed log-SNR in "vp" coordinates serves every schedule).
        predicts: what the network outputs: "eps", "x_0", "v" or "score".
        times: what it is fed for time: `Continuous`, `ZeroBased`, `OneBased`, `Sigma` or `LogSNR`.
        coordinates: the scaling of its input: "schedule" feeds x_t; "vp" divides by sqrt(alpha^2 + sigma^2); "ve" by alpha.
        clamp: None, or (lo, hi) of the data: x_0 is confined to it in every prediction.
        fingerprint: identity of a network without a state dict; saved results refer to it.
        conditions: names of all keyword arguments that the network needs, () for none; None passes on what is given.

    Attributes:
        bound: the conditions of the batch that this view is for.
        viewed: the model that this one is a view of, whose receipts and observers see it; or None.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        schedule: Schedule,
        predicts: Quantity = "eps",
        times: Times | None = None,
        coordinates: Coordinates = "schedule",
        clamp: tuple[float, float] | None = None,
        fingerprint: str | None = None,
        conditions: Iterable[str] | None = None,
    ) -> None:
        if predicts not in get_args(Quantity):
            raise InputError(f"predicts must be one of {get_args(Quantity)}, got {predicts!r}")
        if coordinates not in get_args(Coordinates):
            raise InputError(f"coordinates must be one of {get_args(Coordinates)}, got {coordinates!r}")
        if clamp is not None:
            lo, hi = clamp = each(number(), 2, 2)("clamp", clamp)  # type: ignore[assignment]
            if not lo < hi:
                raise InputError(f"clamp needs lo < hi, got {clamp}")
        if isinstance(net, nn.Module) and any(m.training and isinstance(m, RANDOM_WHEN_TRAINING) for m in net.modules()):
            warnings.warn("the network is in training mode, its predictions are random or drift; call net.eval()", stacklevel=2)
        refuse_bound_rows(net)
        self.net = net
        self.schedule = schedule
        self.predicts = predicts
        self.times: Times = Continuous() if times is None else times
        self.coordinates = coordinates
        self.clamp = clamp
        self.takes = None if conditions is None else tuple(conditions)
        self.bound = NONE
        self.viewed: ScoreModel | None = None
        self._fingerprint = fingerprint

    # --- conditions ---

    def given(self, **conditions: Any) -> Self:
        """The model on some conditions: a view of it, of the same fingerprint, whose costs its receipts count.

        Args:
            conditions: by the names of the network's arguments. Tensors have one row per example of a batch, and the view is
                for that batch; a number or `Constant(tensor)` holds for all examples, and is part of the fingerprint.

        Raises:
            InputError: a condition that the network does not take, or neither a tensor nor a number.

        >>> classes = mixture.conditional(model.schedule)
        >>> classes.given(component=torch.tensor([0, 2]))(torch.zeros(2, 2), 0.5).eps.shape
        torch.Size([2, 2])
        """
        return self.conditioned(Conditions.of(conditions)) if conditions else self

    def conditioned(self, conditions: Conditions) -> Self:
        """The view on some more conditions, in place of those of the same names.

        Raises:
            InputError: one that the model does not take.
        """
        for name in conditions.names:
            if self.takes is not None and name not in self.takes:
                raise InputError(f"the model takes no condition {name!r} but {', '.join(self.takes) or 'none'}")
        return self.on(self.bound.replaced(conditions))

    def for_batch(self, conditions: Mapping[str, Shaped[Tensor, " batch ..."]]) -> Self:
        """The view for a batch of data, on those of its conditions that are `wanted`.

        >>> model.for_batch({"label": torch.tensor([0, 2])}) is model  # which takes none
        True
        """
        return self.given(**{name: conditions[name] for name in self.wanted(conditions)})

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Of the conditions of data, those that it takes and that are not fixed for all examples."""
        taken = (name for name in names if self.takes is None or name in self.takes)
        return [name for name in taken if name not in self.bound.constants]

    def rows(self, part: slice) -> Self:
        """The view for some examples of the batch that this one is for."""
        return self.on(self.bound.part(part)) if self.bound.rows else self

    def on(self, conditions: Conditions) -> Self:
        """The view on these conditions, in place of all others."""
        view = copy.copy(self)
        view.bound = conditions
        view.viewed = self
        return view

    def unclamped(self) -> Self:
        """The view that leaves x_0 as the network has it."""
        view = self.on(self.bound)
        view.clamp = None
        return view

    # --- predictions ---

    def __call__(self, x_t: Float[Tensor, " batch *dims"], t: float | Float[Tensor, " ..."], **conditions: Any) -> Prediction:
        """Predict at time t: a number, or a tensor of shape () or (batch,).

        >>> model(torch.zeros(3, 2), torch.tensor([0.1, 0.5, 0.9])).eps.shape
        torch.Size([3, 2])

        Args:
            conditions: as of `given`.

        Raises:
            InputError: t outside the schedule, t = 0 (the data need no prediction), or neither one time nor one per example.
            RunError: the network returned another shape than its input's, or non-finite numbers.
        """
        expand(t, x_t)  # one time, or one per example
        if isinstance(t, Tensor) and not (t > 0).all():
            raise InputError("t = 0 is the data itself (and NaN no time): pass times in (0, 1]")
        t = t if isinstance(t, Tensor) else number()("t", t)
        return self.predict(x_t, self.schedule.level(t), **conditions)

    def predict(self, x_t: Float[Tensor, " batch *dims"], level: Level, **conditions: Any) -> Prediction:
        """`__call__` with the scalars of the noise level at hand, as samplers have them.

        >>> model.predict(torch.zeros(3, 2), model.schedule.level(0.0))
        Traceback (most recent call last):
            ...
        score_sde_analytic.errors.InputError: t = 0 is the data itself: there is nothing to predict
        """
        if not isinstance(level.sigma, Tensor) and level.sigma == 0.0:
            raise InputError("t = 0 is the data itself: there is nothing to predict")
        if conditions:
            return self.given(**conditions).predict(x_t, level)
        prediction = replace(self._predicted(x_t, level), conditions=self.bound)
        if self.clamp is not None:
            prediction = prediction.clamp(*self.clamp)
        show(self, prediction)
        return prediction

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        """What the network says, on the receipts."""
        norm = self._norm(level)
        state = onto(x_t, x_t.device)
        x = state if isinstance(norm, float) and norm == 1.0 else state / expand(norm, state)
        charge(self, calls=1, evaluations=len(x_t))
        answer = self._answer(x, level)
        out = self._checked(getattr(answer, "sample", answer), state)
        prediction = self._read(out, x, x_t, level, norm)
        extra, learned = (getattr(answer, name, None) for name in ("extra", "learned_range"))
        return replace(prediction, extra=extra, learned_range=learned)

    def metered(self) -> AbstractContextManager[Receipt]:
        """A receipt of the network calls made inside a block, in this thread.

        >>> with model.metered() as cost:
        ...     _ = model(torch.zeros(3, 2), 0.5)
        >>> cost
        Receipt(calls=1, evaluations=3, vector_products=0)
        """
        return metered(self)

    def watched(self, observer: Callable[[Prediction], object]) -> AbstractContextManager[None]:
        """Show every prediction made inside a block, in this thread, to `observer`; it may raise to end the work.

        >>> with model.watched(lambda prediction: print(prediction.level.t)):
        ...     _ = model(torch.zeros(3, 2), 0.5)
        0.5
        """
        return watched(self, observer)

    def charge(self, vector_products: int) -> None:
        """Enter products with the network's Jacobian, one per sample, on the open receipts.

        >>> with model.metered() as cost:
        ...     model.charge(vector_products=3)
        >>> cost.vector_products
        3
        """
        charge(self, vector_products=vector_products)

    def _answer(self, x: Tensor, level: Level) -> Any:
        """What the network returns, fed in the dtype and on the device of its parameters."""
        like = next(self.net.parameters(), None) if isinstance(self.net, nn.Module) else None
        fed = x if like is None or not like.is_floating_point() else x.to(like)
        labels = self._labels(level, fed)
        conditions = self._arguments(fed)
        try:
            return self.net(fed, labels, **conditions)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            cause = next((cause for mark, cause in REFUSALS.items() if mark in str(error)), None)
            if cause is None:
                raise
            given = f"{self.times} feeds it {labels.dtype}, {labels.min():g} to {labels.max():g}"
            given += "".join(f", {name} {value.dtype} {tuple(value.shape)}" for name, value in conditions.items())
            raise RunError(f"{cause}; {given}. It said: {error}") from error

    def _arguments(self, x: Tensor) -> dict[str, Tensor]:
        """The conditions, a row per example, where the network is and in its precision."""
        missing = next((name for name in self.takes or () if name not in self.bound.names), None)
        if missing is not None:
            raise InputError(f"the network needs the condition {missing}: {WAYS.format(missing)}")
        arguments = self.bound.arguments(len(x)) if self.bound else {}
        return {name: value.to(x.device, x.dtype if value.is_floating_point() else None) for name, value in arguments.items()}

    def _read(self, out: Tensor, x: Tensor, x_t: Tensor, level: Level, norm: Number) -> Prediction:
        if self.predicts == "eps" or self.predicts == "x_0":  # the same numbers in any coordinates
            return Prediction(x_t, level, out, self.predicts)
        alpha = level.alpha / norm
        sigma = level.sigma / norm
        if self.predicts == "score":
            return Prediction(x_t, level, out * expand(-sigma, x), "eps")
        power = alpha**2 + sigma**2  # 1 in "vp" coordinates
        return Prediction(x_t, level, axpy(x * expand(sigma / power, x), out, alpha / power), "eps")

    def _norm(self, level: Level) -> Number:
        if self.coordinates == "schedule":
            return 1.0
        if self.coordinates == "ve":
            return level.alpha
        return level.norm

    def _labels(self, level: Level, x: Tensor) -> Tensor:
        label = self.times.label(level)
        if isinstance(label, int):
            return torch.full((len(x),), label, dtype=torch.long, device=x.device)
        # Half precision cannot tell neighbouring labels apart.
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if not isinstance(label, Tensor):
            return torch.full((len(x),), label, dtype=dtype, device=x.device)
        return label.to(x.device) if label.dtype == torch.long else label.to(x.device, dtype)

    def _checked(self, out: Any, x_t: Tensor) -> Tensor:
        if not isinstance(out, Tensor):
            raise RunError(f"the network returned {type(out).__name__}, not a tensor; wrap it to return its prediction")
        if out.shape != x_t.shape:
            raise RunError(
                f"the network returned shape {tuple(out.shape)} for input {tuple(x_t.shape)}; a network that also outputs"
                " a variance must be wrapped to return the mean's channels as its sample (LearnedRange does)"
            )
        if torch.is_grad_enabled() and x_t.requires_grad and not out.requires_grad:
            raise RunError(
                "the network's output carries no gradient: it runs under no_grad, detaches, or ignores its input; call the"
                " network itself, or use a method that needs no gradient"
            )
        # On an accelerator this would wait for the device at every step: there, callers check what they return.
        if out.is_cpu and not math.isfinite(out.sum().item()) and not torch.isfinite(out).all():
            raise RunError(
                f"the network '{self.predicts}' output holds NaN or inf; check the weights, the input scaling"
                f" (coordinates={self.coordinates!r}) and the time labels ({self.times})"
            )
        return out.to(x_t)

    def with_network(self, net: Callable[..., Any], fingerprint: str) -> ScoreModel:
        """The same model around another form of its network, as a compiled one, known by the fingerprint given."""
        other = copy.copy(self)
        other.net = net
        other.viewed = None
        other._fingerprint = fingerprint
        return other

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that identifies the model: network weights, schedule and how the two are wired.

        Raises:
            InputError: the network has no state dict and no `fingerprint` was given.
        """
        network = self._fingerprint
        if network is None:
            if not isinstance(self.net, nn.Module):
                raise InputError("a network that is not an nn.Module has no weights to identify it: pass fingerprint='...'")
            network = digest_of(self.net)  # each time: weights may have changed
        return {
            "network": network,
            "schedule": self.schedule.config(),
            "predicts": self.predicts,
            "times": {"name": type(self.times).__name__} | {k: str(v) for k, v in asdict(self.times).items()},  # type: ignore[call-overload]
            "coordinates": self.coordinates,
            "clamp": None if self.clamp is None else list(self.clamp),
        } | ({"conditions": self.bound.fingerprint()} if self.bound.constants else {})
