"""A UNet2DModel fitted to images by the loss of v, log-SNR uniform, or of a flow's velocity; its average is kept.

loss = E ||v - v_hat||^2 / d = E (1 + exp(-lam)) ||eps - eps_hat||^2 / d,   v = alpha eps - sigma x_0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from score_sde_analytic.arrays import onto
from score_sde_analytic.checks import COUNT, LOG_SNR, each, flag, number, one_of, settle, whole
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.data.portions import held
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.networks import build_unet
from score_sde_analytic.models.training import LEARNING_RATE, descend, learning_rate
from score_sde_analytic.process.noise import stream_seed

#: Labels fed to the network: 50 (10 - log-SNR), in the 0..1000 range that sinusoidal embeddings expect; of a flow, 1000 t.
SCALE, SHIFT, RANGE = -50.0, -10.0, 1000.0


#: alpha or sigma, for every example.
Scale = Float[Tensor, "batch *ones"]


class V:
    """v = alpha eps - sigma x_0 of x_t with alpha^2 + sigma^2 = 1, at log-SNRs uniform between two."""

    fed: ClassVar = {"predicts": "v", "coordinates": "vp"}

    @staticmethod
    def scales(log_snr: Float[Tensor, " *n"]) -> tuple[Float[Tensor, " *n"], Float[Tensor, " *n"]]:
        """(alpha, sigma)."""
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    @staticmethod
    def target(alpha: Scale, sigma: Scale, x_0: Float[Tensor, "*n"], eps: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What is predicted."""
        return alpha * eps - sigma * x_0

    @staticmethod
    def label(log_snr: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
        """What the network is fed for time."""
        return SCALE * (log_snr + SHIFT)

    @staticmethod
    def times(low: float, high: float) -> dict[str, Any]:
        """`label` as `ScoreModel` is told, confined to the levels it was trained on."""
        return {"name": "log_snr", "scale": SCALE, "shift": SHIFT, "lo": low, "hi": high}

    @staticmethod
    def spread(low: float, high: float, share: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The log-SNRs at shares of the range."""
        return low + (high - low) * share


class Velocity:
    """u = eps - x_0 = dx_t/dt of x_t = (1 - t) x_0 + t eps, at uniform t (Liu et al., 2023; Lipman et al., 2023)."""

    fed: ClassVar = {"predicts": "velocity", "coordinates": "interpolant"}

    @staticmethod
    def scales(log_snr: Float[Tensor, " *n"]) -> tuple[Float[Tensor, " *n"], Float[Tensor, " *n"]]:
        """(1 - t, t)."""
        return torch.sigmoid(0.5 * log_snr), torch.sigmoid(-0.5 * log_snr)

    @staticmethod
    def target(alpha: Scale, sigma: Scale, x_0: Float[Tensor, "*n"], eps: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What is predicted."""
        return eps - x_0

    @staticmethod
    def label(log_snr: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
        """What the network is fed for time."""
        return RANGE * torch.sigmoid(-0.5 * log_snr)

    @staticmethod
    def times(low: float, high: float) -> dict[str, Any]:
        """`label` as `ScoreModel` is told."""
        return {"name": "interpolant", "scale": RANGE}

    @staticmethod
    def spread(low: float, high: float, share: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The log-SNRs at shares of the range of t."""
        ends = torch.sigmoid(-0.5 * torch.tensor([high, low]))
        return -2.0 * torch.logit(ends[0] + (ends[1] - ends[0]) * share)


#: What a network is trained to predict.
LEARNED: dict[str, type[V] | type[Velocity]] = {"v": V, "velocity": Velocity}


@dataclass(frozen=True)
class NetworkRecipe:
    """How a network is trained.

    Attributes:
        unet: settings of diffusers' UNet2DModel.
        predicts: "v", or "velocity" of a rectified flow.
        log_snr: lowest and highest noise level.
        ema: decay of the average that is kept.
        classes: of the labels it is given, 0 .. classes - 1; label `classes` says that there is none. 0: it takes no labels.
        drop_labels: how often the label is withheld.
        mirror: whether half of the images are mirrored left to right.
    """

    unet: Mapping[str, Any]
    log_snr: Annotated[tuple[float, float], each(LOG_SNR, 2, 2)]
    predicts: Annotated[str, one_of(LEARNED)] = "v"
    steps: Annotated[int, COUNT] = 8000
    batch_size: Annotated[int, COUNT] = 64
    learning_rate: Annotated[float, LEARNING_RATE] = 1e-3
    warmup: Annotated[int, COUNT] = 200
    ema: Annotated[float, number(0.0, below=1.0)] = 0.999
    classes: Annotated[int, whole(0, 10**6)] = 0
    drop_labels: Annotated[float, number(0.0, 1.0)] = 0.1
    mirror: Annotated[bool, flag()] = False

    def __post_init__(self) -> None:
        settle(self)
        if not self.log_snr[0] < self.log_snr[1]:
            raise InputError(f"log_snr needs a lowest noise level below the highest, got {self.log_snr}")

    @property
    def settings(self) -> dict[str, Any]:
        """Of the UNet2DModel that is built, whose labels are the classes and, last, that of none."""
        return dict(self.unet) | ({"num_class_embeds": self.classes + 1} if self.classes else {})

    @property
    def wiring(self) -> dict[str, Any]:
        """How `ScoreModel` feeds and reads the network; labels stay within the levels it was trained on."""
        learned = LEARNED[self.predicts]
        return learned.fed | {"times": learned.times(*self.log_snr)}


def loss(
    net: nn.Module,
    x_0: Float[Tensor, " batch *dims"],
    log_snr: Float[Tensor, " batch"],
    eps: Float[Tensor, " batch *dims"],
    labels: Int64[Tensor, " batch"] | None = None,
    predicts: str = "v",
) -> Float[Tensor, ""]:
    """Mean squared error at these noise levels, given class labels where the network takes them."""
    learned = LEARNED[predicts]
    alpha, sigma = learned.scales(log_snr.view(-1, *(1,) * (x_0.ndim - 1)))
    found = net(alpha * x_0 + sigma * eps, learned.label(log_snr), class_labels=labels).sample
    return (found - learned.target(alpha, sigma, x_0, eps)).square().mean()


def _require_classes(classes: int, labels: Tensor | None) -> None:
    if (labels is None) != (classes == 0):
        raise InputError("labels go with classes of the recipe, 0 for a network that takes none")
    if labels is not None and set(labels.unique().tolist()) - set(range(classes)):
        raise InputError(f"labels from {labels.min()} to {labels.max()} do not fit {classes} classes, 0 to {classes - 1}")


class NetworkTrainer:
    """Network, optimiser and average with a resumable step counter.

    Args:
        data: x_0 of the training split; what is not in memory is read as it is drawn.
        labels: their classes, for a network that takes them.

    Raises:
        InputError: labels without classes in the recipe, or the other way round, or labels outside them.
    """

    def __init__(
        self,
        recipe: NetworkRecipe,
        data: Data,
        seed: int,
        device: torch.device,
        labels: Int64[Tensor, " n"] | None = None,
    ) -> None:
        _require_classes(recipe.classes, labels)
        self.recipe = recipe
        self.seed = seed
        self.device = device
        examples = as_dataset(data)
        self.data = held(examples, range(len(examples))).to(device) if examples.in_memory else examples
        self.labels = labels
        torch.manual_seed(stream_seed(seed))
        self.net = build_unet(recipe.settings).to(device).train()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the loss.

        Raises:
            RuntimeError: the loss is not finite.
        """
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        recipe = self.recipe
        batch = self._batch(recipe.batch_size)
        rate = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        value = descend(self.net, self.optimiser, loss(self.net, *batch, recipe.predicts), rate)
        self.ema.update_parameters(self.net)
        self.step += 1
        return {"loss": value}

    def _batch(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(x_0, log-SNR, eps, labels) of a batch; stratified: one noise level in each of `size` cells."""
        drawn = torch.randint(len(self.data), (size,))
        x_0 = self._examples(drawn)
        share = (torch.rand(size) + torch.arange(size)) / size
        log_snr = LEARNED[self.recipe.predicts].spread(*self.recipe.log_snr, share)
        eps = torch.randn(x_0.shape).to(self.device)
        if self.recipe.mirror:
            x_0 = torch.where((torch.rand(size, 1, 1, 1) < 0.5).to(self.device), x_0.flip(-1), x_0)
        return x_0, log_snr.to(self.device), eps, self._labels_of(drawn)

    def _examples(self, drawn: Tensor) -> Tensor:
        if isinstance(self.data, Tensor):
            return self.data[drawn.to(self.device)]
        return onto(self.data.take(drawn.tolist()), self.device)

    def _labels_of(self, drawn: Tensor) -> Tensor | None:
        """The classes of the examples drawn, some of them withheld."""
        if self.labels is None:
            return None
        withheld = torch.rand(len(drawn)) < self.recipe.drop_labels
        return torch.where(withheld, self.recipe.classes, self.labels[drawn]).to(self.device)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "ema")} | {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same recipe."""
        for name in ("net", "optimiser", "ema"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def network(self) -> nn.Module:
        """The average of the weights, on the CPU, in eval mode."""
        return self.ema.module.eval().cpu()
