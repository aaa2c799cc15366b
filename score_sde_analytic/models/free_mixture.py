"""The exact denoiser, flow and density of a mixture of Gaussians fitted to the data: no network call.

U (x_0 - mu) = y:   the r coefficients of largest variance ~ sum_k w_k N(m_k, S_k),   the others ~ N(0, c), independent

S_k = (1 - s) S_k + s sum_j w_j S_j + c_0 I: covariances shrunk to the pooled one. The flow has no closed form, but its field is
the mixture's own: the start is integrated from where x_t is Gaussian, as finely as one likes.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array, wide
from score_sde_analytic.checks import each, number, whole
from score_sde_analytic.data.basis import Basis, array_digest
from score_sde_analytic.data.examples import Data, as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.extras import optional
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.models.free import ARRAYS, DATA, NOISE, FreeModel, LinearDenoiser
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.mixture import GaussianMixture, preserving_level
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.level import Level

KIND = "mixture denoiser"
#: What the mixture's own arrays are called by in a file, which has those of its basis too.
OF_MIXTURE = "mixture_"
PARTS = {
    "leading": "int64 r",
    f"{OF_MIXTURE}weights": "float64 k",
    f"{OF_MIXTURE}means": "float64 k r",
    f"{OF_MIXTURE}eigenvalues": "float64 k r",
    f"{OF_MIXTURE}basis": "float64 k r r",
}
#: Log-SNR per unit of the largest variance at which the law of x_t is Gaussian: the third moments left are of order 1e-4.
DEEP = -9.0
#: Steps of the flow's integration per unit of log-SNR, of the classical Runge-Kutta method.
STEPS = 4
#: Coefficients that the mixture models; the others have the Gaussian's variance each.
RANK = 64
#: One example in so many is held out to choose by, and drawn so often.
HELD_OUT, DRAWS = 5, 4
#: Most rounds of expectation maximisation.
ROUNDS = 60


@dataclass(frozen=True, eq=False)
class MixtureDenoiser(FreeModel):
    """A mixture of Gaussians over the leading coefficients of a basis, and a Gaussian over the others.

    Attributes:
        linear: mean and basis, and the variances of the other coefficients; its own spectrum should be the mixture's in total.
        leading: places of the coefficients that the mixture models, in the flattened example.
        mixture: of these coefficients of U (x - mu).
        steps: of the flow's integration, per unit of log-SNR.

    Raises:
        InputError: places that are not the coefficients', or a mixture of another dimension.

    >>> free, level = MixtureDenoiser.of(data, components=(3,), shrinkage=(0.5,)), model.schedule.level(0.5)
    >>> free.x_0(torch.zeros(3, 2), level).shape, free.start(torch.zeros(3, 2), level).shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    linear: LinearDenoiser
    leading: Sequence[int]
    mixture: GaussianMixture
    steps: int = STEPS

    def __post_init__(self) -> None:
        places = each(whole(0, self.linear.spectrum.size - 1), 1)("leading", self.leading)
        if len(set(places)) != len(places) or len(places) != self.mixture.dim:
            raise InputError(f"a mixture in {self.mixture.dim} dimensions needs as many different places, got {len(places)}")
        object.__setattr__(self, "leading", places)
        object.__setattr__(self, "steps", whole(1)("steps", self.steps))

    @classmethod
    def of(
        cls,
        data: Data,
        linear: LinearDenoiser | None = None,
        components: Sequence[int] = (1, 5, 10, 20, 40, 80),
        shrinkage: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        log_snr: float = 2.0,
        rank: int = RANK,
        seed: int = 0,
    ) -> MixtureDenoiser:
        """Fitted by expectation maximisation; number of components and shrinkage by the likelihood of examples held out.

        Args:
            linear: the Gaussian whose basis it is in; None for `LinearDenoiser.of(data)`.
            components: how many to choose from.
            shrinkage: shares of the pooled covariance to choose from.
            log_snr: the level at which held-out likelihood is taken, where the prior or start will be used.
            rank: coefficients that the mixture models, those of largest variance.

        Raises:
            InputError: examples too few for any of these, or of another shape than `linear`.
            MissingExtraError: scikit-learn is absent.
        """
        components = each(whole(1), least=1)("components", components)
        shrinkage = each(number(0, 1), least=1)("shrinkage", shrinkage)
        linear = LinearDenoiser.of(data) if linear is None else linear
        leading = np.argsort(-linear.spectrum.ravel(), kind="stable")[: whole(1)("rank", rank)]
        rows = np.concatenate([_coefficients(linear, x)[:, leading] for x in _batches(data)])
        floor = float(linear.spectrum.min())
        chosen = _choice(rows, components, shrinkage, floor, number()("log_snr", log_snr), seed)
        return cls(linear, leading.tolist(), _shrunk(_fit(rows, chosen[0], floor, seed), chosen[1], floor))

    def x_0(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        x, mean = self.linear.centred(x_t, level)
        y = self.linear.basis.forward(x).flatten(1)
        known = y * self.linear.gain(level).to(y).flatten(-self.linear.mean.ndim)
        known[:, self._places] = self.mixture.posterior_mean(self._modelled(y), level).to(y)
        return (mean + self.linear.basis.inverse(known.reshape(x.shape))).to(x_t)

    def _modelled(self, y: Tensor) -> Tensor:
        """The coefficients of the mixture, in float64 where the mixture is: on the host."""
        return y.cpu().double()[:, self._places]

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        x, _ = self.linear.centred(z, NOISE)
        y = self.linear.basis.forward(x).flatten(1)
        states = y * self.linear.variances(level).sqrt().to(y).flatten()
        states[:, self._places] = self.carried(self._modelled(y), level).to(y)
        mean = expand(level.alpha, x) * self.linear.mean.to(x)
        return (mean + self.linear.basis.inverse(states.reshape(x.shape))).to(z)

    def carried(self, z: Float64[Tensor, "batch r"], level: Level) -> Float64[Tensor, "batch r"]:
        """Leading coefficients of x_t on the mixture's flow from z, from a level so low that their law is Gaussian."""
        if level.pure_noise:
            return level.sigma * z
        mean, covariance = self.mixture.moments()
        variances, vectors = torch.linalg.eigh(covariance)
        low = min(DEEP - math.log(max(float(variances[-1]), 1e-300)), float(level.log_snr))
        first = _preserving(low)
        spread = (first.alpha**2 * variances.clamp_min(0.0) + first.sigma**2).sqrt()
        u = first.alpha * mean + (z @ vectors * spread) @ vectors.T
        count = math.ceil(self.steps * (float(level.log_snr) - low))
        for lam, after in itertools.pairwise(np.linspace(low, float(level.log_snr), count + 1).tolist()):
            u = self._step(u, lam, after - lam)
        return level.norm * u

    def _step(self, u: Tensor, lam: float, h: float) -> Tensor:
        """One step of the classical Runge-Kutta method."""
        a = self._field(u, lam)
        b = self._field(u + 0.5 * h * a, lam + 0.5 * h)
        c = self._field(u + 0.5 * h * b, lam + 0.5 * h)
        d = self._field(u + h * c, lam + h)
        return u + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)

    def _field(self, u: Tensor, lam: float) -> Tensor:
        """du/dlam = alpha / 2 (E[x_0 | u] - alpha u), of the variance-preserving flow."""
        level = _preserving(lam)
        return 0.5 * level.alpha * (self.mixture.posterior_mean(u, level) - level.alpha * u)

    def log_prob(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float64[Tensor, " batch"]:
        x, _ = self.linear.centred(wide(x_t), level)
        y = self.linear.basis.forward(x).flatten(1)
        variances = self.linear.variances(level).to(y).flatten(-self.linear.mean.ndim)
        normal = -0.5 * (y.square() / variances + torch.log(2.0 * math.pi * variances))
        return normal[:, self._others].sum(1) + self.mixture.log_density(self._modelled(y), level).to(y)

    def prior_nats(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, eps: Float[Tensor, " batch *dims"]
    ) -> Float64[Tensor, " batch"]:
        """The Gaussian's term in closed form, and what log p gains over the Gaussian's at the drawn x_t: unbiased."""
        x_t = level.diffuse(wide(x_0), wide(eps))
        gain = (self.linear.log_prob(x_t, level) - self.log_prob(x_t, level)) / x_t[0].numel()
        return self.linear.prior_nats(x_0, level, eps) + gain

    def residual(self, log_snr: ArrayLike) -> Float64[np.ndarray, " n"]:
        """mean_k snr c_k / (1 + snr c_k) of the others, and the mixture's own by draws of it."""
        dim, rank = self.linear.spectrum.size, self.mixture.dim
        power = np.exp(np.atleast_1d(as_array(log_snr)))[:, None] * self.linear.spectrum.ravel()[self._others.numpy()]
        mixed = [self.mixture.residual(_preserving(float(lam)))[0] for lam in np.atleast_1d(as_array(log_snr))]
        return ((power / (1.0 + power)).sum(1) + rank * np.array(mixed)) / dim

    def prior_price(self, log_snr: ArrayLike) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Not known in closed form, and hours of draws away.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "what a mixture costs as a prior is known of examples alone: judge it on some that it was not fitted to,"
            " prior=Judged.on(examples, mixture, schedule)"
        )

    def config(self) -> dict[str, Any]:
        places = array_digest(np.array(self.leading))
        return {"name": "mixture", "linear": self.linear.config(), "leading": places, "mixture": digest_of(self.mixture)}

    def save(self, path: str | Path) -> None:
        """Write it, with its basis, as one file."""
        tensors = {name: tensor.numpy() for name, tensor in self.mixture.state_dict().items()}
        arrays = {f"{OF_MIXTURE}{name}": array for name, array in tensors.items()} | {"leading": np.array(self.leading)}
        save_arrays(
            path, arrays | self.linear.arrays(), {"kind": KIND, "basis": self.linear.basis.config(), "steps": self.steps}
        )

    @classmethod
    def load(cls, path: str | Path, basis: Basis | None = None) -> MixtureDenoiser:
        """Read what `save` wrote.

        Args:
            basis: the basis itself, needed for one that is not built in.

        Raises:
            MissingFileError: no such file.
            InputError: it is damaged, or of another basis.
        """
        cure = "delete it and fit it again"
        arrays, metadata = load_arrays(path, KIND, ARRAYS | PARTS, {"basis": dict, "steps": range(1, 1 << 31)}, cure)
        linear = LinearDenoiser.of_arrays(arrays, metadata["basis"], basis)
        state = {name: torch.as_tensor(arrays[f"{OF_MIXTURE}{name}"]) for name in ("weights", "means", "eigenvalues", "basis")}
        mixture = GaussianMixture(state["weights"], state["means"], 1.0)
        mixture.load_state_dict(state)
        return cls(linear, arrays["leading"].tolist(), mixture, metadata["steps"])

    @cached_property
    def _places(self) -> Tensor:
        return torch.tensor(self.leading)

    @cached_property
    def _others(self) -> Tensor:
        return torch.tensor(np.setdiff1d(np.arange(self.linear.spectrum.size), self.leading), dtype=torch.long)


def _preserving(log_snr: float) -> Level:
    return preserving_level(torch.tensor([log_snr], dtype=torch.float64))


def _batches(data: Data) -> Iterator[Tensor]:
    examples = as_dataset(data)
    return batches(examples, range(len(examples)), batch_by_bytes(examples.first.numel()))


def _coefficients(linear: LinearDenoiser, x_0: Tensor) -> Array:
    """U (x_0 - mu) of a batch, (n, d)."""
    centred, _ = linear.centred(x_0.double(), DATA)
    return linear.basis.forward(centred).flatten(1).numpy()


#: Weights (k,), means (k, r) and covariances (k, r, r).
Parts = tuple[Array, Array, Array]


def _fit(rows: Array, components: int, floor: float, seed: int) -> Parts:
    """Parts of a mixture by expectation maximisation."""
    if components == 1:
        return np.ones(1), rows.mean(0)[None], np.cov(rows.T, bias=True).reshape(1, rows.shape[1], rows.shape[1])
    sklearn = optional("sklearn.mixture", extra="images", user="a fitted mixture", package="scikit-learn")
    regular = max(floor, 1e-6 * float(rows.var()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not converge in so many rounds is judged by its likelihood all the same
        fitted = sklearn.GaussianMixture(components, reg_covar=regular, max_iter=ROUNDS, random_state=seed).fit(rows)
    return fitted.weights_, fitted.means_, fitted.covariances_


def _shrunk(parts: Parts, strength: float, floor: float) -> GaussianMixture:
    """(1 - s) S_k + s sum_j w_j S_j + c_0 I."""
    weights, means, covariances = parts
    pooled = np.einsum("k,kij->ij", weights, covariances)
    return GaussianMixture(weights, means, (1.0 - strength) * covariances + strength * pooled + floor * np.eye(len(pooled)))


def _choice(
    rows: Array, components: Sequence[int], shrinkage: Sequence[float], floor: float, log_snr: float, seed: int
) -> tuple[int, float]:
    """Components and shrinkage of the largest likelihood of the examples that the fits did not see, at a noise level."""
    held_out = np.arange(len(rows)) % HELD_OUT == 0
    possible = [k for k in components if 2 * k <= len(rows) - held_out.sum()]
    if not possible:
        raise InputError(f"{len(rows)} examples are too few for mixtures of {min(components)} components; fit fewer of them")
    if len(possible) == len(shrinkage) == 1:
        return possible[0], shrinkage[0]
    others = torch.as_tensor(np.repeat(rows[held_out], DRAWS, 0))
    eps = torch.randn(others.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    level = _preserving(log_snr)
    x_t = level.diffuse(others, eps)
    likelihoods = {
        (k, s): float(_shrunk(parts, s, floor).log_density(x_t, level).mean())
        for k in possible
        for parts in [_fit(rows[~held_out], k, floor, seed)]
        for s in shrinkage
    }
    return max(likelihoods, key=lambda pair: likelihoods[pair])
