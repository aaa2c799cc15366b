"""Heads: small networks beside a frozen one, with their calibration and their files.

They output y with R = sigmoid(lam - y), so that R stays within (0, 1) and y varies slowly though R is about exp(lam) where
noise is large. Calibration adds a shift, linear between knots in log-SNR, to log(R / (1 - R)), or to v.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialise
from torch import Tensor, nn

from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import differences, read_bytes, read_json, write_bytes, write_json
from score_sde_analytic.models.identity import digest_of, features_of
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.times import LogSNR, Sigma
from score_sde_analytic.process.forward import BLANK
from score_sde_analytic.process.gaussian import expand

AGAIN = "restore it, or train the head again"
#: The layer whose input heads read, if none is named.
USUAL = "conv_out"
#: Of KIND.json.
SHAPE = {"settings": {"shape": [int], "features": int, "log_snr": [float]}, "weights": str, "network": dict}
#: log(R / (1 - R)) of a head stays above min(lam, 0) - DEPTH.
DEPTH = 16.0


#: Angular frequencies of the log-SNR's embedding, for log-SNR / 10.
FREQUENCIES = (0.5, 1.0, 2.0, 4.0, 8.0)


class HeadNet(nn.Module):
    """A small residual network on [features, x_t, eps_hat, eps_hat^2] at one log-SNR per sample.

    Convolutions of width 3 for images (C, H, W), full layers for vectors (d,); the log-SNR scales and shifts every block, and a
    learned map tells the places of an image apart (digits have dead borders).

    Args:
        shape: of an example, (C, H, W) or (d,).
        features: channels of the network's features; 0 for a network of its own.
        hidden, blocks: width and number of residual blocks.
        log_snr: (lo, hi) that it is trained on; the embedding of a log-SNR stays within.
        position: whether places are told apart; False for images of any size.

    Raises:
        InputError: a shape that is neither an image's nor a vector's.

    >>> HeadNet((2,))(torch.zeros(4, 6), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int = 0,
        hidden: int = 32,
        blocks: int = 2,
        log_snr: Sequence[float] = (-10.0, 10.0),
        position: bool = True,
    ) -> None:
        super().__init__()
        if len(shape) not in (1, 3):
            raise InputError(f"heads are for images (C, H, W) and vectors (d,), not for shape {tuple(shape)}")
        channels = shape[0]
        self.range = (float(log_snr[0]), float(log_snr[1]))
        self.first = self._layer(features + 3 * channels, hidden, len(shape))
        self.blocks = nn.ModuleList(self._layer(hidden, hidden, len(shape)) for _ in range(blocks))
        self.last = self._layer(hidden, channels, len(shape))
        self.position = nn.Parameter(torch.zeros(hidden, *shape[1:])) if position and len(shape) == 3 else None
        self.embedding = nn.Sequential(nn.Linear(1 + 2 * len(FREQUENCIES), hidden), nn.SiLU())
        self.modulation = nn.Linear(hidden, 2 * hidden * blocks)
        self.level = nn.Linear(hidden, channels)
        for layer in (self.last, self.modulation, self.level):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @staticmethod
    def _layer(inputs: int, outputs: int, dims: int) -> nn.Module:
        return nn.Linear(inputs, outputs) if dims == 1 else nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(
        self, inputs: Float[Tensor, " batch inputs *space"], log_snr: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch c *space"]:
        """As many channels as data have, from [features, x_t, eps_hat, eps_hat^2]."""

        def spread(values: Tensor) -> Tensor:
            return values.reshape(*values.shape, *(1,) * (inputs.ndim - 2))

        lam = log_snr.clamp(*self.range)[:, None] / 10.0
        angles = lam * torch.tensor(FREQUENCIES).to(lam) * math.pi
        embedding = self.embedding(torch.cat([lam, angles.sin(), angles.cos()], 1))
        h = self.first(inputs)
        if self.position is not None:
            h = h + self.position
        for block, part in zip(self.blocks, self.modulation(embedding).chunk(len(self.blocks), 1), strict=True):
            scale, shift = part.chunk(2, 1)
            h = h + block(nn.functional.silu(h * (1.0 + spread(scale)) + spread(shift)))
        return self.last(nn.functional.silu(h)) + spread(self.level(embedding))


class Head(nn.Module, ABC):
    """A head of one kind with its calibration.

    Args:
        settings: of its `HeadNet`.
        identity: of the frozen network it belongs to, `identity_of(model)`.

    Attributes:
        knots, shift: of the calibration, ascending log-SNRs and what is added there; m = 0 for none.
    """

    kind: ClassVar[str]
    knots: Float64[Tensor, " m"]
    shift: Float64[Tensor, " m"]

    def __init__(self, settings: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.identity = dict(identity)
        self.net = HeadNet(**settings)
        self.set_calibration(torch.zeros(0), torch.zeros(0))

    def set_calibration(self, knots: Float[Tensor, " m"], shift: Float[Tensor, " m"]) -> None:
        """Add `shift` at `knots` from now on; empty tensors for nothing."""
        self.register_buffer("knots", knots.double())
        self.register_buffer("shift", shift.double())

    def output(self, prediction: Prediction) -> Float[Tensor, " batch *dims"]:
        """What the network of the head says.

        Raises:
            InputError: the prediction lacks the features that the head reads, or has another shape than its data.
        """
        log_snr = log_snrs(prediction)
        weight = self.net.level.weight
        return self.net(self._inputs(prediction).to(weight), log_snr.to(weight))

    def _inputs(self, prediction: Prediction) -> Tensor:
        x_t = prediction.x_t
        level = prediction.level
        extra = prediction.extra
        shape = tuple(self.settings["shape"])
        features = self.settings.get("features", 0)
        fixed = len(shape) if self.net.position is not None or len(shape) == 1 else 1
        if x_t.ndim != len(shape) + 1 or tuple(x_t.shape[1 : fixed + 1]) != shape[:fixed]:
            raise InputError(f"this head is for data of shape {shape}, not {tuple(x_t.shape[1:])}")
        if features and (extra is None or extra.shape[1] != features or extra.shape[2:] != x_t.shape[2:]):
            found = "none" if extra is None else f"extra output of shape {tuple(extra.shape[1:])}"
            raise InputError(
                f"the {self.kind} head reads {features} channels of the network's features and the model gives {found}:"
                " build the ScoreModel with WithFeatures(net)"
            )
        x = x_t / expand(level.norm, x_t)
        parts = [x, prediction.eps, prediction.eps.square()]
        return torch.cat([extra, *parts] if features and extra is not None else parts, 1)

    @abstractmethod
    def decode(self, output: Float[Tensor, " batch *dims"], prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """What calibration shifts: log(R / (1 - R)), or v."""

    def calibrated(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """`decode`d and shifted."""
        value = self.decode(self.output(prediction), prediction)
        if not len(self.knots):
            return value
        return value + expand(hats(log_snrs(prediction), self.knots) @ self.shift, value)

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that identifies it."""
        return {"kind": self.kind, "settings": self.settings, "weights": digest_of(self), "network": self.identity}

    def save(self, directory: str | Path, recipe: Mapping[str, Any] | None = None) -> list[Path]:
        """Write DIRECTORY/KIND.safetensors and KIND.json; each file appears whole."""
        weights, config = (Path(directory) / f"{self.kind}.{suffix}" for suffix in ("safetensors", "json"))
        payload = serialise({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()})
        write_bytes(weights, payload)
        write_json(config, self.kind, self.fingerprint() | {"recipe": dict(recipe or {})})
        return [weights, config]


class ResidualHead(Head):
    """A head that knows R_i(x_t) = E[(eps - eps_hat)_i^2 | x_t]."""

    def residual(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """R of every coordinate."""
        return torch.sigmoid(self.calibrated(prediction))

    def decode(self, output: Float[Tensor, " batch *dims"], prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        lam = expand(log_snrs(prediction), output.double())
        return torch.maximum(lam - output.double(), floor(prediction, output))


class NPR(ResidualHead):
    """Regresses (eps - eps_hat)^2."""

    kind = "npr"


class OCM(ResidualHead):
    """Regresses the diagonal of I - sigma_t d eps_hat / d x_t."""

    kind = "ocm"


class SN(ResidualHead):
    """Regresses eps^2; outputs h = softplus."""

    kind = "sn"

    def decode(self, output: Float[Tensor, " batch *dims"], prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        residual = nn.functional.softplus(output.double()) - prediction.eps.double().square()
        low = torch.sigmoid(floor(prediction, output))
        residual = torch.minimum(torch.maximum(residual, low), 1.0 - low)
        return torch.logit(residual)


class RangeHead(Head):
    """v of the interpolated variance."""

    kind = "interpolated"

    def decode(self, output: Float[Tensor, " batch *dims"], prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        return output.double()


HEADS: dict[str, type[Head]] = {head.kind: head for head in (NPR, SN, OCM, RangeHead)}


def log_snrs(prediction: Prediction) -> Float64[Tensor, " batch"]:
    """One log-SNR per sample; pure noise is told from what is nearly so by no head."""
    x = prediction.x_t
    log_snr = torch.as_tensor(prediction.level.log_snr, dtype=torch.float64, device=x.device)
    return torch.where(log_snr == -torch.inf, BLANK, log_snr).expand(len(x))


def floor(prediction: Prediction, like: Float[Tensor, " batch *dims"]) -> Any:
    """The least log(R / (1 - R)), float64, broadcastable to `like`."""
    return expand(log_snrs(prediction).clamp_max(0.0) - DEPTH, like.double())


def hats(log_snr: Float[Tensor, " n"], knots: Float[Tensor, " m"]) -> Float[Tensor, "n m"]:
    """Weights of linear interpolation between knots, constant beyond the ends.

    >>> hats(torch.tensor([0.5, 9.0]), torch.tensor([0.0, 1.0, 2.0]))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    if len(knots) == 1:
        return torch.ones(len(log_snr), 1).to(knots)
    lam = log_snr.to(knots).clamp(knots[0], knots[-1])
    upper = torch.searchsorted(knots, lam).clamp(1, len(knots) - 1)
    share = ((lam - knots[upper - 1]) / (knots[upper] - knots[upper - 1]))[:, None]
    one_hot = nn.functional.one_hot
    return one_hot(upper - 1, len(knots)) * (1.0 - share) + one_hot(upper, len(knots)) * share


def identity_of(model: ScoreModel, features: int = 0) -> dict[str, Any]:
    """What a head depends on: the network, how it is read and clamped; the schedule where the network's labels follow it.

    Args:
        features: channels that it reads; of another layer than the usual one, its name counts.
    """
    identity = model.fingerprint()
    if isinstance(model.times, LogSNR | Sigma) and model.coordinates != "schedule":
        del identity["schedule"]
    layer = features_of(model.net) if features else ""
    return identity | ({"features": layer} if layer not in ("", USUAL) else {})


def load_head(directory: str | Path, kind: str, model: ScoreModel) -> Head:
    """Read a head and check that it belongs to the model; in eval mode, on the CPU.

    Raises:
        MissingFileError: there is no head of this kind.
        InputError: unknown kind, a damaged file, or a head of another network.
    """
    if kind not in HEADS:
        raise InputError(f"unknown head {kind!r}; choose one of {', '.join(HEADS)}")
    weights, config = (Path(directory) / f"{kind}.{suffix}" for suffix in ("safetensors", "json"))
    for file in (weights, config):
        if not file.is_file():
            raise MissingFileError(f"no {file.name} in {directory}; check head.path, or run --mode=train_head to train heads")
    found = read_json(config, kind, SHAPE, AGAIN)
    try:
        tensors = read_tensors(read_bytes(weights, kind, AGAIN))
    except SafetensorError as error:
        raise InputError(f"{weights} is truncated or not a safetensors file ({error}); {AGAIN}") from error
    with reading(weights, AGAIN):
        head = HEADS[kind](found["settings"], found["network"])
        head.set_calibration(tensors["knots"], tensors["shift"])
        head.load_state_dict(tensors)
    if digest_of(head) != found["weights"]:
        raise InputError(f"{weights} and {config.name} do not belong together; restore them or train the head again")
    lines = differences(found["network"], json.loads(json.dumps(identity_of(model, head.settings["features"]))))
    if lines:
        raise InputError(
            f"the {kind} head in {directory} belongs to another network ({'; '.join(lines)}); train heads for this one"
            " (--mode=train_head), or name their folder (head.path)"
        )
    return head.eval().requires_grad_(False)
