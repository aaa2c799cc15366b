"""A UNet2DModel fitted to images by the loss of v, of a flow's velocity, of eps or by the bound; its average is kept.

    loss = E_pi[w / pi ||u - u_hat||^2 / d],   u what the network predicts,   ||eps - eps_hat||^2 = alpha^2 ||u - u_hat||^2

with w = 1 of v even in log-SNR, w = alpha^2 of the bound, w = alpha^2 p of DDPM's simple loss of eps, p the density of
log-SNR under linear VP with t even. pi, from which levels are drawn, changes the variance of the loss alone (`proposals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from score_sde_analytic.arrays import onto
from score_sde_analytic.checks import COUNT, COUNT_OR_NONE, LOG_SNR, each, flag, number, one_of, settle, whole
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.data.portions import held
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.fourier import FourierFeatures
from score_sde_analytic.models.networks import build_unet
from score_sde_analytic.models.proposals import PROPOSALS, Adaptive, Even, EvenInTime, Objective, OfSchedule, Proposal, Steps
from score_sde_analytic.models.together import Part, mixed, together
from score_sde_analytic.models.training import LEARNING_RATE, descend, learning_rate
from score_sde_analytic.models.training_log import HeldOut, TrainingLog, bits_of
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.uncertainty import Estimate

#: Labels fed to the network: 50 (10 - log-SNR), in the 0..1000 range that sinusoidal embeddings expect; of a flow, 1000 t.
SCALE, SHIFT, RANGE = -50.0, -10.0, 1000.0


#: alpha or sigma, for every example.
Scale = Float[Tensor, "batch *ones"]


class V:
    """v = alpha eps - sigma x_0 of x_t with alpha^2 + sigma^2 = 1, by itself at log-SNRs uniform between two."""

    fed: ClassVar = {"predicts": "v", "coordinates": "vp"}
    own: ClassVar = Even

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


class Velocity:
    """u = eps - x_0 = dx_t/dt of x_t = (1 - t) x_0 + t eps, at uniform t (Liu et al., 2023; Lipman et al., 2023)."""

    fed: ClassVar = {"predicts": "velocity", "coordinates": "interpolant"}
    own: ClassVar = EvenInTime

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


#: What a network is trained to predict.
LEARNED: dict[str, type[V] | type[Velocity]] = {"v": V, "velocity": Velocity}
#: Levels at which the loss is "even", and weighs nothing.
EVEN = "even"
LOSSES = ("v", "eps", "bound", "discrete")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


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
        loss: "v", the error of what is predicted at its own levels; "eps", that of DDPM; "bound", 1/2 integral of R; or
            "discrete", the bound of the steps of `grid`.
        times: where levels are drawn: "even" (in t for a velocity), "adaptive", "linear_vp" or "learned_net".
        grid: log-SNRs of a grid, for the loss "discrete".
        precision: of the network's products in training, "float32" or "bfloat16"; weights, their average and held-out bits are
            of single precision.
        fourier: settings of `FourierFeatures`, {} for none.
        log_every: steps of a row of the log.
        validate_every: steps between measurements of held-out data; 0 for one in the end.
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
    loss: Annotated[str, one_of(LOSSES)] = "v"
    times: Annotated[str, one_of((EVEN, *PROPOSALS))] = EVEN
    grid: tuple[float, ...] = ()
    precision: Annotated[str, one_of(PRECISIONS)] = "float32"
    fourier: Mapping[str, Any] = field(default_factory=dict)
    log_every: Annotated[int, COUNT] = 100
    validate_every: Annotated[int, COUNT_OR_NONE] = 0

    def __post_init__(self) -> None:
        settle(self)
        if not self.log_snr[0] < self.log_snr[1]:
            raise InputError(f"log_snr needs a lowest noise level below the highest, got {self.log_snr}")
        if self.loss == "discrete" and self.times != EVEN:
            raise InputError(f"the loss of a grid draws each step as often: times={EVEN!r} goes with it, or loss='bound'")
        self.proposal()
        self.objective()

    @property
    def settings(self) -> dict[str, Any]:
        """Of the UNet2DModel that is built, whose labels are the classes and, last, that of none."""
        features = 1 + 2 * len(self.fourier.get("frequencies", ()))
        channels = {"in_channels": self.unet["in_channels"] * features} if self.fourier else {}
        return dict(self.unet) | channels | ({"num_class_embeds": self.classes + 1} if self.classes else {})

    def build(self) -> nn.Module:
        """A fresh network."""
        net = build_unet(self.settings)
        return FourierFeatures(net, **self.fourier) if self.fourier else net

    def proposal(self) -> Proposal:
        """Where levels are drawn.

        Raises:
            InputError: a grid that is none, or a range that the schedule does not reach.
        """
        if self.loss == "discrete":
            return Steps(self.grid)
        kinds = {EVEN: LEARNED[self.predicts].own, **PROPOSALS}
        return kinds[self.times](*self.log_snr)

    def objective(self) -> Objective:
        """w, the factor of ||u - u_hat||^2 / d, at log-SNRs."""
        learned = LEARNED[self.predicts]
        if self.loss == "v":
            return learned.own(*self.log_snr).density
        if self.loss == "eps":
            simple = OfSchedule(*self.log_snr, LinearVP())
            return lambda log_snr: learned.scales(log_snr)[0] ** 2 * simple.density(log_snr)
        return lambda log_snr: learned.scales(log_snr)[0] ** 2

    @property
    def wiring(self) -> dict[str, Any]:
        """How `ScoreModel` feeds and reads the network; labels stay within the levels it was trained on."""
        learned = LEARNED[self.predicts]
        return learned.fed | {"times": learned.times(*self.log_snr)}


def squared_errors(
    net: nn.Module,
    x_0: Float[Tensor, " batch *dims"],
    log_snr: Float[Tensor, " batch"],
    eps: Float[Tensor, " batch *dims"],
    labels: Int64[Tensor, " batch"] | None = None,
    predicts: str = "v",
) -> Float[Tensor, " batch *dims"]:
    """(u - u_hat)^2 at these noise levels, given class labels where the network takes them."""
    learned = LEARNED[predicts]
    levels = log_snr.to(x_0)
    alpha, sigma = learned.scales(levels.view(-1, *(1,) * (x_0.ndim - 1)))
    found = net(alpha * x_0 + sigma * eps, learned.label(levels), class_labels=labels).sample
    return (found - learned.target(alpha, sigma, x_0, eps)).square()


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
        held_out: data whose bits/dim the log tells.
        log: its file.

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
        held_out: HeldOut | None = None,
        log: Path | None = None,
    ) -> None:
        _require_classes(recipe.classes, labels)
        self.recipe = recipe
        self.seed = seed
        self.device = device
        examples = as_dataset(data)
        self.data = held(examples, range(len(examples))).to(device) if examples.in_memory else examples
        self.labels = labels
        torch.manual_seed(stream_seed(seed))
        self.net = recipe.build().to(device).train()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.trained = together(self.net, device)
        self.proposal = recipe.proposal()
        self.objective = recipe.objective()
        self.held_out = held_out
        self.residual = Adaptive(*recipe.log_snr)  # R as it was met, by which held-out data are measured
        self.log = TrainingLog(log)
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the loss, and the bits/dim of the bound's transitions that its batch estimates.

        Raises:
            RuntimeError: the loss is not finite.
        """
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        recipe = self.recipe
        part = Part.of(recipe.batch_size)
        x_0, log_snr, density, eps, labels = self._batch(part)
        with part.dropout(), mixed(self.device, PRECISIONS[recipe.precision]):
            squares = squared_errors(self.trained, x_0, log_snr[part.rows], eps, labels, recipe.predicts)
        weight = self.objective(log_snr)
        loss = part.mean(expand((weight / density)[part.rows], squares) * squares)
        errors = part.whole(squares.detach().flatten(1).mean(1).double().cpu())
        rate = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        value = descend(self.net, self.optimiser, loss, rate)
        self.ema.update_parameters(self.net)
        self.step += 1
        bits = self._observe(log_snr, density, errors, weight)
        self.log.note(value, bits)
        self._close_row()
        return {"loss": value, "bits/dim": bits}

    def _observe(self, log_snr: Tensor, density: Tensor, errors: Tensor, weight: Tensor) -> float:
        """Learn where levels are worth drawing; what the batch says of the bound."""
        residual = self._alpha2(log_snr) * errors
        self.proposal.observe(log_snr, weight * errors)
        self.residual.observe(log_snr, residual)
        return float(bits_of(self.proposal, residual, density).mean())

    def _close_row(self) -> None:
        """A row of the log where one is due."""
        measured = self._measured()
        if measured is not None or self.step % self.recipe.log_every == 0 or self.step == self.steps:
            self.log.close(self.step, measured)

    def _measured(self) -> Estimate | None:
        """Bits/dim of held-out data where they are due."""
        every = self.recipe.validate_every
        due = self.step == self.steps or (every > 0 and self.step % every == 0)
        if self.held_out is None or not due:
            return None
        levels = self.proposal if self.recipe.loss == "discrete" else self.residual
        return self.held_out.bits(self.residuals, levels, self.seed, self.device)

    @torch.no_grad()
    def residuals(
        self,
        x_0: Float[Tensor, " batch *dims"],
        log_snr: Float[Tensor, " batch"],
        eps: Float[Tensor, " batch *dims"],
        labels: Int64[Tensor, " batch"] | None = None,
    ) -> Float64[Tensor, " batch"]:
        """r = ||eps - eps_hat||^2 / d of the averaged network."""
        squares = squared_errors(self.ema.module.eval(), x_0, log_snr, eps, labels, self.recipe.predicts)
        return self._alpha2(log_snr) * squares.flatten(1).mean(1).double().cpu()

    def _alpha2(self, log_snr: Tensor) -> Tensor:
        return LEARNED[self.recipe.predicts].scales(log_snr.double())[0] ** 2

    def _batch(self, part: Part) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """(x_0, log-SNR, its density, eps, labels) of a batch; stratified: one noise level in each of `size` shares.

        Levels and their densities are those of the whole batch, all else that of its part.
        """
        size, rows = part.size, part.rows
        drawn = torch.randint(len(self.data), (size,))
        x_0 = self._examples(drawn[rows])
        share = (torch.rand(size) + torch.arange(size)) / size
        log_snr, density = self.proposal.draw(share)
        eps = torch.randn(size, *x_0.shape[1:])[rows].to(self.device)
        if self.recipe.mirror:
            x_0 = torch.where((torch.rand(size, 1, 1, 1) < 0.5)[rows].to(self.device), x_0.flip(-1), x_0)
        labels = self._labels_of(drawn)
        return x_0, log_snr, density, eps, None if labels is None else labels[rows].to(self.device)

    def _examples(self, drawn: Tensor) -> Tensor:
        if isinstance(self.data, Tensor):
            return self.data[drawn.to(self.device)]
        return onto(self.data.take(drawn.tolist()), self.device)

    def _labels_of(self, drawn: Tensor) -> Tensor | None:
        """The classes of the examples drawn, some of them withheld."""
        if self.labels is None:
            return None
        withheld = torch.rand(len(drawn)) < self.recipe.drop_labels
        return torch.where(withheld, self.recipe.classes, self.labels[drawn])

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        weights = {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "ema")}
        seen = {name: getattr(self, name).state() for name in ("proposal", "residual", "log")}
        return weights | seen | {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same recipe."""
        for name in ("net", "optimiser", "ema"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("proposal", "residual", "log"):
            getattr(self, name).restore(state[name])
        self.step = state["step"]
        if self.log.open:  # another process ended while the row was measured
            self._close_row()

    def network(self) -> nn.Module:
        """The average of the weights, on the CPU, in eval mode."""
        return self.ema.module.eval().cpu()
