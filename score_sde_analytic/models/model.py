"""Score models: any pretrained network as a source of `Prediction`s, consistent views of one network output.

    x_t = alpha x_0 + sigma eps,   score = -eps / sigma,   v = alpha eps - sigma x_0,   velocity = eps - x_0

Knowing x_t, each of eps, x_0, v, velocity and score determines the others: a network that outputs one of them answers for all.
EDM's raw networks F give x_0 = c^2 alpha x_t / N^2 + c sigma F / N, N^2 = sigma^2 + c^2 alpha^2, c = sigma_data.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.arrays import all_finite, precise, readable, sent
from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.models.clamps import Clamp, checked_clamp, config_of, confined
from score_sde_analytic.models.conditions import WAYS, Conditions, refuse_bound_rows, told
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.prediction import Kind, Prediction
from score_sde_analytic.models.receipt import Receipt, charge, metered, show, watched
from score_sde_analytic.models.times import Continuous, Number, Times
from score_sde_analytic.models.views import Views
from score_sde_analytic.process.gaussian import axpy, expand
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

Quantity = Literal["eps", "x_0", "v", "velocity", "score", "edm"]
Coordinates = Literal["schedule", "vp", "ve", "interpolant", "edm"]
#: Layers whose output depends on the mode of the network.
RANDOM_WHEN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
#: Precisions that torch.autocast runs float32 weights in.
HALF = (torch.float16, torch.bfloat16)
#: What torch says where a table of embeddings is asked for fractions.
LOOKS_UP = "scalar types: Long, Int"
#: What a network says of time labels that it cannot take -> what to do.
REFUSALS = {
    LOOKS_UP: "the network looks its time up in a table: set times=ZeroBased(N, integer=True)",
    "index out of range": "the network knows no such index: set times=ZeroBased(N) or OneBased(N) as in its training, and give"
    " classes that it has",
    "same dtype": "the network mixes precisions: cast the float32 time labels to the weights' dtype inside it",
    "channels, but got": "the network takes another number of channels than the examples have: convert them (channels= of"
    " images, config.data.channels)",
    "unexpected keyword argument": "the network takes no such condition: name those that it takes, ScoreModel(conditions=...)",
    "class_embedding needs": "the network takes no classes: say so, ScoreModel(conditions=())",
    "required positional argument": f"the network needs a condition: {WAYS.format('name')}",
    "required keyword-only argument": f"the network needs a condition: {WAYS.format('name')}",
    "class_labels should be": f"the network needs classes: {WAYS.format('class_labels')}",
    "Class values must be": "the network has no such class: give classes from 0 on, as many as it was trained with",
    "one_hot is only applicable": "the network takes classes as whole numbers: give them as torch.long",
}


class ScoreModel(Views):
    """A network and the schedule it is used with: `model(x_t, t) -> Prediction`.

    >>> linear = ScoreModel(lambda x, labels: x, model.schedule, predicts="eps")
    >>> torch.allclose(linear(torch.ones(1, 2), 0.5).score, torch.tensor(-1.0 / model.schedule.sigma(0.5)))
    True

    Args:
        net: called as `net(x, labels, **conditions)`, with the channels last if `net.to(memory_format=torch.channels_last)`;
            returns a tensor, or an object with `.sample` as diffusers' networks do,
            whose `.extra` and `.learned_range`, if it has them, predictions carry along.
        schedule: the forward process of x_t. It may differ from the one the network was trained with if `times` and
            `coordinates` speak the network's language (a network fed log-SNR in "vp" coordinates serves every schedule).
        predicts: what the network outputs: "eps", "x_0", "v", "score", "velocity" (eps - x_0; where it is data minus noise,
            negate it) or "edm" (the raw F of Karras et al., 2022; objects that return the denoised image predict "x_0").
        times: what it is fed for time: `Continuous`, `ZeroBased`, `OneBased`, `DescendingIndex`, `Interpolant`, `Sigma` or
            `LogSNR`. Indices are rounded, with a warning, where the network turns out to look them up in a table.
        coordinates: the scaling of its input: "schedule" feeds x_t; "vp" divides by sqrt(alpha^2 + sigma^2); "ve" by alpha;
            "interpolant" by alpha + sigma; "edm" by sqrt(sigma^2 + sigma_data^2 alpha^2).
        clamp: None, (lo, hi) of the data, or a `DynamicThreshold`: x_0 is confined by it in every prediction.
        fingerprint: identity of a network without a state dict; saved results refer to it.
        sigma_data: c of "edm".
        dtype: what the network is fed, and runs in (float32 weights by autocast); the state keeps its own. None for that of
            its weights.
        conditions: names of all keyword arguments that the network needs, () for none; None passes on what is given.

    Raises:
        InputError: a schedule that ends in pure noise, where a network of eps or score, or one fed x_t / alpha, has nothing to
            go by; or rows of a batch that functools.partial has bound to the network.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        schedule: Schedule,
        predicts: Quantity = "eps",
        times: Times | None = None,
        coordinates: Coordinates = "schedule",
        clamp: Clamp | None = None,
        fingerprint: str | None = None,
        sigma_data: float = 0.5,
        dtype: torch.dtype | None = None,
        conditions: Iterable[str] | None = None,
    ) -> None:
        if predicts not in get_args(Quantity):
            raise InputError(f"predicts must be one of {get_args(Quantity)}, got {predicts!r}")
        if coordinates not in get_args(Coordinates):
            raise InputError(f"coordinates must be one of {get_args(Coordinates)}, got {coordinates!r}")
        if schedule.ends_in_noise:
            _check_noise(predicts, coordinates)
        if isinstance(net, nn.Module) and any(m.training and isinstance(m, RANDOM_WHEN_TRAINING) for m in net.modules()):
            warnings.warn("the network is in training mode, its predictions are random or drift; call net.eval()", stacklevel=2)
        refuse_bound_rows(net)
        self.net = net
        self.schedule = schedule
        self.predicts = predicts
        self.times: Times = Continuous() if times is None else _checked_times(times)
        self.coordinates = coordinates
        super().__init__(conditions)
        self.clamp = checked_clamp(clamp)
        self.sigma_data = number(above=0)("sigma_data", sigma_data)
        self.dtype = _checked_dtype(dtype, net)
        self._channels_last = _channels_last(net)
        self._fingerprint = fingerprint
        self._found: dict[str, Times] = {}  # shared by all copies of the model

    def __call__(self, x_t: Float[Tensor, " batch *dims"], t: float | Float[Tensor, " ..."], **conditions: Any) -> Prediction:
        """Predict at time t: a number, or a tensor of shape () or (batch,).

        >>> model(torch.zeros(3, 2), torch.tensor([0.1, 0.5, 0.9])).eps.shape
        torch.Size([3, 2])

        Args:
            conditions: as of `given`.

        Raises:
            InputError: t outside the schedule, t = 0 (the data need no prediction), or neither one time nor one per example;
                conditions that the model does not take, or that are fixed for all examples.
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
            return self.asked(Conditions.of(conditions)).predict(x_t, level)
        prediction = self._predicted(x_t, level)
        if prediction.conditions is not self.bound:
            prediction = replace(prediction, conditions=self.bound)
        show(self, prediction)
        return prediction

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        """What the network says, on the receipts."""
        norm = self._norm(level)
        state = precise(x_t)
        x = state if _is_one(norm) else state / expand(norm, state)
        charge(self, calls=1, evaluations=x_t.shape[0])
        out, extra, learned = _parts(self.called(x, level))
        value, kind = self._read(self._checked(out, state), x, x_t, level, norm)
        return confined(Prediction(x_t, level, value, kind, extra, learned, self.bound), self.clamp)

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

    def pay(self, cost: Receipt) -> None:
        """Enter a whole receipt on the open ones, for work that is known to be that of before."""
        charge(self, **vars(cost))

    def called(self, x: Float[Tensor, " batch *dims"], level: Level) -> Any:
        """What the network returns of x in its coordinates, fed in its dtype and on its device; no receipt knows of it."""
        like = _weight(self.net)
        fed = x if like is None else x.to(like)
        if self._channels_last and x.ndim == 4:
            fed = fed.contiguous(memory_format=torch.channels_last)
        if self.dtype is None:
            return self._asked(fed, level)
        fed = fed.to(self.dtype)
        cast = like is not None and like.dtype != self.dtype
        with torch.autocast(fed.device.type, self.dtype) if cast else nullcontext():
            return self._asked(fed, level)

    def _asked(self, fed: Tensor, level: Level) -> Any:
        """The network's answer, by whole indices if it accepts nothing else."""
        labels = self._labels(level, fed)
        conditions = self.arguments(fed)
        try:
            return self.net(fed, labels, **conditions)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if LOOKS_UP in str(error) and self._round_labels(labels):
                return self._asked(fed, level)
            cause = next((cause for mark, cause in REFUSALS.items() if mark in str(error)), None)
            if cause is None:
                raise
            fractions = [name for name, value in conditions.items() if value.is_floating_point()]
            if fractions and LOOKS_UP in str(error):
                self._found.clear()  # it need not be the time
                cause += f"; or it looks {' or '.join(fractions)} up: give whole numbers, as torch.long"
            given = f"{self.times} feeds it {labels.dtype}, {labels.min():g} to {labels.max():g}"
            given += "".join(f", {told(name, value)}" for name, value in conditions.items())
            raise RunError(f"{cause}; {given}. It said: {error}") from error

    def _round_labels(self, refused: Tensor) -> bool:
        """Feed whole indices from now on; whether there are any, and they were not what was refused."""
        rounded = getattr(self.times, "rounded", None)
        if rounded is None or not refused.is_floating_point():
            return False
        if not self._found:
            self._found["times"] = times = rounded()
            warnings.warn(f"the network looks its time up in a table: it is fed whole indices, times={times}", stacklevel=2)
        return True

    def _read(self, out: Tensor, x: Tensor, x_t: Tensor, level: Level, norm: Number) -> tuple[Tensor, Kind]:
        """(value, kind) of the prediction."""
        if self.predicts == "eps" or self.predicts == "x_0" or self.predicts == "velocity":  # the same in any coordinates
            return out, self.predicts
        if self.predicts == "score":
            return out * expand(-level.sigma / norm, x), "eps"
        if self.predicts == "v":  # the network's is v / norm
            return out if _is_one(norm) else out * expand(norm, out), "v"
        alpha, sigma, c = level.alpha, level.sigma, self.sigma_data
        scale = self._edm_norm(level)
        state = precise(x_t)
        v = axpy(state * expand(alpha * sigma * (1.0 - c**2) / scale**2, state), out, -c * (alpha**2 + sigma**2) / scale)
        return v, "v"

    def _norm(self, level: Level) -> Number:
        if self.coordinates == "schedule":
            return 1.0
        if self.coordinates == "ve":
            return level.alpha
        if self.coordinates == "interpolant":
            return level.alpha + level.sigma
        return self._edm_norm(level) if self.coordinates == "edm" else level.norm

    def _edm_norm(self, level: Level) -> Number:
        """Of an input of unit variance where the data's is sigma_data^2."""
        return (level.sigma**2 + (self.sigma_data * level.alpha) ** 2) ** 0.5

    def _labels(self, level: Level, x: Tensor) -> Tensor:
        label = self._found.get("times", self.times).label(level)
        if isinstance(label, int):
            return x.new_full((x.shape[0],), label, dtype=torch.long)
        # Half precision cannot tell neighbouring labels apart.
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if not isinstance(label, Tensor):
            return x.new_full((x.shape[0],), label, dtype=dtype)
        return sent(label, x.device, torch.long if label.dtype == torch.long else dtype)

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
        # Elsewhere this would wait for the device at every step: there, callers check what they return.
        if readable(out) and not all_finite(out):
            raise RunError(
                f"the network '{self.predicts}' output holds NaN or inf; check the weights, the input scaling"
                f" (coordinates={self.coordinates!r}) and the time labels ({self.times})"
            )
        return out if out.dtype == x_t.dtype and out.device == x_t.device else out.to(x_t)

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
            "clamp": None if self.clamp is None else config_of(self.clamp),
        } | self._extras()

    def _extras(self) -> dict[str, Any]:
        """What identifies a model beyond what every one has."""
        said: dict[str, Any] = {"sigma_data": self.sigma_data} if "edm" in (self.predicts, self.coordinates) else {}
        said |= {} if self.dtype is None else {"dtype": str(self.dtype)}
        return said | ({"conditions": self.bound.fingerprint()} if self.bound.constants else {})


def _is_one(norm: Number) -> bool:
    return isinstance(norm, float) and norm == 1.0


def _parts(answer: Any) -> tuple[Any, Any, Any]:
    """(prediction, features, learned range) of what a network returned."""
    if isinstance(answer, Tensor):
        return answer, None, None
    return getattr(answer, "sample", answer), getattr(answer, "extra", None), getattr(answer, "learned_range", None)


def _weight(net: Any) -> Tensor | None:
    """A weight of the network, of whose kind its input is to be."""
    like = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    return None if like is None or not like.is_floating_point() else like


def _channels_last(net: Any) -> bool:
    """Whether the network's convolutions hold their weights with the channels last, and so want their input."""
    kernels = (p for p in net.parameters() if p.ndim == 4) if isinstance(net, nn.Module) else ()
    return any(kernel.stride(1) == 1 and not kernel.is_contiguous() for kernel in kernels)


def _checked_times(times: Times) -> Times:
    if isinstance(times, type) or not callable(getattr(times, "label", None)):
        raise InputError(f"times must say what the network is fed for time, as ZeroBased(1000) or LogSNR(), got {times!r}")
    return times


def _checked_dtype(dtype: torch.dtype | None, net: Any) -> torch.dtype | None:
    if dtype is None:
        return None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype must be None or a floating-point dtype such as torch.bfloat16, got {dtype!r}")
    like = _weight(net)
    if like is not None and like.dtype != dtype and (like.dtype != torch.float32 or dtype not in HALF):
        raise InputError(
            f"weights of {like.dtype} do not run in {dtype} by themselves, float32 ones do in half precision: use net.to(...)"
        )
    return dtype


def _check_noise(predicts: Quantity, coordinates: Coordinates) -> None:
    """Refuse what needs a division by alpha = 0."""
    way_out = "use a schedule that ends above it (CosineVP(log_snr_min=-12), or betas below 1)"
    if predicts in ("eps", "score"):
        raise InputError(
            f"this schedule ends in pure noise, alpha = 0, of which a network of {predicts} says nothing about x_0; {way_out},"
            " or a network that predicts x_0, v, velocity or EDM's F"
        )
    if coordinates == "ve":
        raise InputError(f"this schedule ends in pure noise, alpha = 0, where x_t / alpha is infinite; {way_out}")
