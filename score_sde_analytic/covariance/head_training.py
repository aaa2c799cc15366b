"""Training of heads on a frozen network, by draws (x_0, eps, lam) with lam uniform.

Scores of an R for a target T with E[T | x_t] = R_i(x_t), all minimised by the conditional mean and linear in T:

    mse         (R - T)^2                                           as the papers have it
    likelihood  log R + T / R                                       of a Gaussian (or any gamma law): free of scale
    step        log(1 + R e) + e (T - R) / (1 + R e),  e = exp(h) - 1

"step" is twice the KL divergence of a reverse step of h in log-SNR, so bits themselves; it tends to "mse" (times e^2 / 2) for
small h and to "likelihood" for large ones. h is drawn log-uniformly. T is (eps - eps_hat)^2 (NPR), eps^2 (SN, which has no step
of its own: "step" stands for "likelihood" there) or 1 - sigma v (J^T v), v = +-1 (OCM; it may be negative).

Interpolated: the transitions of the variational bound of a chain of N steps, the mean detached (L_vlb of Nichol & Dhariwal,
2021), averaged over the phase of its grid: lam is uniform, s is one step before t, and the weight is N dt/dlam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from score_sde_analytic.checks import COUNT, LOG_SNR, each, number, one_of, settle
from score_sde_analytic.covariance.head_networks import HEADS, SN, Head, RangeHead, identity_of
from score_sde_analytic.covariance.heads import range_excess
from score_sde_analytic.data.examples import Rows
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.models.together import Loss, Part, together
from score_sde_analytic.models.training import LEARNING_RATE, WEIGHT_DECAY, descend_all, learning_rate
from score_sde_analytic.process.gaussian import diagonal_kl, expand, square_error
from score_sde_analytic.process.kernel import Kernel, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.process.schedule import Schedule

Rule = Literal["mse", "likelihood", "step"]
ChainGrid = Literal["even", "log_snr"]


@dataclass(frozen=True)
class Recipe:
    """How heads are trained.

    Attributes:
        steps, batch_size, learning_rate, warmup, weight_decay: of AdamW; linear warm-up, then a cosine to zero.
        log_snr: noise levels, uniform within; narrowed to the schedule's own.
        loss: score of NPR, SN and OCM.
        step: least and largest h of the score "step".
        chain, chain_steps: the interpolated head's chain, N steps even in t (as in the paper) or in log-SNR.

    Raises:
        InputError: an unknown loss or chain, or bad numbers.
    """

    steps: Annotated[int, COUNT] = 1500
    batch_size: Annotated[int, COUNT] = 64
    learning_rate: Annotated[float, LEARNING_RATE] = 2e-3
    warmup: Annotated[int, COUNT] = 100
    weight_decay: Annotated[float, WEIGHT_DECAY] = 1e-4
    log_snr: Annotated[tuple[float, float], each(LOG_SNR, 2, 2)] = (-10.2, 10.2)
    loss: Annotated[Rule, one_of(get_args(Rule))] = "step"
    step: Annotated[tuple[float, float], each(number(above=0.0, most=100.0), 2, 2)] = (0.3, 6.0)
    chain: Annotated[ChainGrid, one_of(get_args(ChainGrid))] = "even"
    chain_steps: Annotated[int, COUNT] = 1000

    def __post_init__(self) -> None:
        settle(self)
        if not self.log_snr[0] < self.log_snr[1] or not self.step[0] <= self.step[1]:
            raise InputError(f"need log_snr lo < hi and step lo <= hi, got {self.log_snr} and {self.step}")

    def within(self, schedule: Schedule) -> Recipe:
        """The recipe with its noise levels narrowed to the schedule's.

        >>> Recipe(log_snr=(-20.0, 9.0)).within(model.schedule).log_snr
        (-10.05, 9.0)
        """
        low, high = schedule.log_snr_range
        return replace(self, log_snr=(max(self.log_snr[0], low), min(self.log_snr[1], high)))

    @property
    def span(self) -> float:
        return self.log_snr[1] - self.log_snr[0]


@dataclass(frozen=True)
class Draw:
    """A batch of noisy states with all that heads learn from, detached.

    Attributes:
        prediction: the model's, as it is used (clamped where the model is).
        x_0, eps: examples and their noise.
        step: h of every sample.
        diagonal: 1 - sigma v (J^T v) of the unclamped model, with the mean Cov(eps | x_t)_ii; or None.
    """

    prediction: Prediction
    x_0: Float[Tensor, " batch *dims"]
    eps: Float[Tensor, " batch *dims"]
    step: Float64[Tensor, " batch"]
    diagonal: Float64[Tensor, " batch *dims"] | None

    @property
    def square(self) -> Float64[Tensor, " batch *dims"]:
        """(eps - eps_hat)^2."""
        return square_error(self.eps, self.prediction.eps)


def draw(
    model: ScoreModel,
    x_0: Float[Tensor, " n *dims"],
    recipe: Recipe,
    generator: torch.Generator,
    size: int | None = None,
    probe: bool = True,
    conditions: Rows | None = None,
    part: Part | None = None,
) -> Draw:
    """One network call (and a backward pass where `probe`) on x_0, or on `size` examples drawn from it.

    Noise levels are stratified over the batch; random numbers come from the CPU generator in a fixed order.

    Args:
        conditions: of x_0, row by row.
        part: the rows of the batch to be drawn, all by default; the random numbers are those of all.

    >>> draw(model, data, Recipe(), torch.Generator().manual_seed(0), size=8).square.shape
    torch.Size([8, 2])
    """
    if size is not None:
        chosen = torch.randint(len(x_0), (size,), generator=generator)
        x_0 = x_0[chosen.to(x_0.device)]
        conditions = {name: rows[chosen.to(rows.device)] for name, rows in (conditions or {}).items()}
    n = len(x_0)
    rows = slice(n) if part is None else part.rows
    given = {name: values[rows] for name, values in (conditions or {}).items()}
    model = model.for_batch(given, x_0.device)
    device = x_0.device
    place = (torch.rand(n, generator=generator, dtype=torch.float64) + torch.randperm(n, generator=generator)) / n
    log_snr = (recipe.log_snr[0] + recipe.span * place)[rows].to(device)
    low, high = (math.log(h) for h in recipe.step)
    step = (low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)).exp()[rows].to(device)
    eps = torch.randn(x_0.shape, generator=generator, dtype=torch.float32)[rows].to(x_0)
    signs = (torch.randint(2, x_0.shape, generator=generator) * 2 - 1)[rows].to(x_0)
    x_0 = x_0[rows]
    level = model.schedule.level(model.schedule.time(log_snr))
    raw, diagonal = _call(model, level.diffuse(x_0, eps), level, signs if probe else None)
    return Draw(confined(raw, model.clamp), x_0, eps, step, diagonal)


def _call(model: ScoreModel, x_t: Tensor, level: Level, signs: Tensor | None) -> tuple[Prediction, Tensor | None]:
    """(unclamped prediction, probed diagonal of I - sigma J)."""
    with torch.set_grad_enabled(signs is not None):
        x = x_t.detach().requires_grad_(signs is not None)
        found = model.unclamped().predict(x, level)
        diagonal = None
        if signs is not None:
            (pulled,) = torch.autograd.grad(found.eps, x, signs)
            diagonal = 1.0 - expand(level.sigma, x_t).double() * (signs * pulled).double()  # type: ignore[union-attr]
    extra = None if found.extra is None else found.extra.detach()
    return replace(found, x_t=x_t.detach(), value=found.value.detach(), extra=extra), diagonal


def score(
    residual: Float[Tensor, " batch *dims"], target: Float[Tensor, " batch *dims"], rule: Rule, step: Float[Tensor, " batch"]
) -> Float[Tensor, " batch *dims"]:
    """The score of every coordinate; see above."""
    if rule == "mse":
        return (residual - target).square()
    if rule == "likelihood":
        return residual.log() + target / residual
    gain = expand(torch.expm1(step), residual)
    return torch.log1p(gain * residual) + gain * (target - residual) / (1.0 + gain * residual)


def chain_nats(v: Float[Tensor, " batch *dims"], draw: Draw, schedule: Schedule, recipe: Recipe) -> Float64[Tensor, " batch"]:
    """An unbiased estimate of L_vlb's transitions, nats per dimension, from every sample."""
    level = draw.prediction.level
    t = np.asarray(level.t.cpu())
    n = recipe.chain_steps
    if recipe.chain == "even":
        s = t - 1.0 / n
        weight = n * recipe.span * np.asarray(level.sigma.cpu()) ** 2 / schedule.diffusion(t) ** 2  # dlam/dt = -g^2 / sigma^2
        inside = s > 0.0
    else:
        later = np.asarray(level.log_snr.cpu()) + recipe.span / n
        inside = later <= min(recipe.log_snr[1], schedule.log_snr_range[1])
        s = schedule.time(np.where(inside, later, recipe.log_snr[1]))
        weight = np.full(len(t), float(n))
    kernel = step_kernels(schedule, np.where(inside, s, 0.5 * t), t, v.device)
    error = kernel.error(square_error(draw.x_0, draw.prediction.x_0))
    kl = diagonal_kl(error, expand(kernel.rho2, error), range_excess(kernel.beta, kernel.rho2, v))
    return torch.as_tensor(np.where(inside, weight, 0.0), device=v.device) * kl


def step_kernels(schedule: Schedule, s: Any, t: Any, device: torch.device) -> Kernel:
    """Kernels of many steps, fields as tensors (n,)."""
    kernel = reverse_kernel(schedule.level(s), schedule.level(t))
    a, b, rho2, beta = (torch.as_tensor(value, device=device) for value in (kernel.a, kernel.b, kernel.rho2, kernel.beta))
    return Kernel(a, b, rho2, beta)


def loss(head: Head, draw: Draw, recipe: Recipe, schedule: Schedule) -> Float[Tensor, ""]:
    """What a head minimises, averaged over a draw."""
    output = head.output(draw.prediction)
    if isinstance(head, RangeHead):
        return chain_nats(head.decode(output, draw.prediction), draw, schedule, recipe).mean()
    if isinstance(head, SN):
        rule: Rule = "mse" if recipe.loss == "mse" else "likelihood"
        return score(nn.functional.softplus(output.double()) + 1e-12, draw.eps.double().square(), rule, draw.step).mean()
    target = draw.diagonal if head.kind == "ocm" else draw.square
    if target is None:
        raise InputError("the ocm head learns from probes: draw with probe=True")
    return score(torch.sigmoid(head.decode(output, draw.prediction)), target, recipe.loss, draw.step).mean()


def new_head(
    kind: str,
    model: ScoreModel,
    example: Float[Tensor, " n *dims"],
    recipe: Recipe,
    seed: int = 0,
    features: int = 0,
    **settings: Any,
) -> Head:
    """A fresh head for a model; it reads the features that the model returns, or none.

    Args:
        example: x_0 of one or more examples, for the shape.
        features: channels of the model's features that it reads; 0 for none.
        settings: of `HeadNet`: hidden, blocks, position.

    Raises:
        InputError: unknown kind.

    >>> new_head("npr", model, data, Recipe()).residual(model(data[:3], 0.5)).shape
    torch.Size([3, 2])
    """
    if kind not in HEADS:
        raise InputError(f"unknown head {kind!r}; choose one of {', '.join(HEADS)}")
    recipe = recipe.within(model.schedule)
    settings = {"shape": list(example.shape[1:]), "log_snr": list(recipe.log_snr), "features": features} | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed))
        return HEADS[kind](settings, identity_of(model, features)).to(example.device)


class HeadTrainer:
    """Heads, their optimisers and a resumable step counter; all heads learn from the same network call.

    Every random number of a step is a function of (seed, step).

    Args:
        heads: by name.
        model: frozen; it should not record gradients of its weights.
        data: x_0 of the training split.
        conditions: of these examples, row by row.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        model: ScoreModel,
        data: Float[Tensor, " n *dims"],
        recipe: Recipe,
        seed: int = 0,
        conditions: Rows | None = None,
    ) -> None:
        self.heads = dict(heads)
        self.model = model
        self.data = data
        self.conditions = conditions
        self.seed = seed
        self.recipe = recipe.within(model.schedule)
        self.optimisers = {
            name: torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
            for name, head in heads.items()
        }
        self.trained = {name: together(Loss(head, self._loss), data.device) for name, head in heads.items()}
        self.step = 0
        self.cost = Receipt()

    def advance(self) -> dict[str, float]:
        """One optimiser step of every head; returns the losses.

        Raises:
            RuntimeError: a loss is not finite.
        """
        recipe = self.recipe
        generator = torch.Generator().manual_seed(stream_seed(self.seed, self.step + 1))
        probe = any(head.kind == "ocm" for head in self.heads.values())
        part = Part.of(recipe.batch_size)
        with self.model.metered() as cost, part.charged(self.model):
            batch = draw(self.model, self.data, recipe, generator, part.size, probe, self.conditions, part)
        losses = [part.mean(head(batch)) for head in self.trained.values()]
        rate = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        values = descend_all([(head, self.optimisers[name]) for name, head in self.heads.items()], losses, rate)
        self.step += 1
        self.cost.add(**vars(cost))
        return dict(zip(self.heads, values, strict=True))

    def _loss(self, head: Head, batch: Draw) -> Tensor:
        return loss(head, batch, self.recipe, self.model.schedule)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        heads = {name: head.state_dict() for name, head in self.heads.items()}
        optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        return {"heads": heads, "optimisers": optimisers, "step": self.step, "cost": vars(self.cost).copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same heads."""
        for name, head in self.heads.items():
            head.load_state_dict(state["heads"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        self.step = state["step"]
        self.cost = Receipt(**state["cost"])
