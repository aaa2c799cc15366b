"""What the data's moments know of x_0 without a network: denoisers, starts and priors that cost no call.

W(x_t) = mu + U^T [alpha c / (alpha^2 c + sigma^2)] U (x_t - alpha mu)     E[x_0 | x_t] of data N(mu, U^T diag(c) U)
x_t    = alpha mu + U^T sqrt(alpha^2 c + sigma^2) U z                      its flow from z ~ N(0, I) at lam = -inf
p(x_t) = N(alpha mu, U^T diag(alpha^2 c + sigma^2) U)                      a prior at any level
R_k    = snr c_k / (1 + snr c_k)                                           the residual of W on its own data

At high noise the posterior of any data is nearly Gaussian, and W nearly exact. (The Gaussian start: Wang & Vastola, 2024.)
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from torch import Tensor, nn

from score_sde_analytic.arrays import Array, as_array, onto, packed, unpacked, wide
from score_sde_analytic.data import bases
from score_sde_analytic.data.basis import Basis, Scalar, array_digest
from score_sde_analytic.data.examples import Data
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.data.transforms import PCA
from score_sde_analytic.declared import reading, require_arrays, require_shape
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.files import load_arrays, plain, save_arrays
from score_sde_analytic.models.mixture import preserving_level
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.shrinkage import Shrinkage, fitted_spectrum
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.gaussian import expand, step_kl
from score_sde_analytic.process.level import Level, finite
from score_sde_analytic.process.noise import LevelNoise
from score_sde_analytic.process.schedule import Schedule

KIND = "linear denoiser"
#: Of a linear denoiser in a file, besides those of its basis.
ARRAYS = {"mean": "float64 ...", "spectrum": "float64 ..."}
#: The levels of no noise and of no signal.
DATA, NOISE = Level(0.0, 1.0, 0.0, math.inf), Level(1.0, 0.0, 1.0, -math.inf)
#: Of the integral of R over log-SNR: its length, below which R is nothing, and its points.
DEPTH, POINTS = 40.0, 801


class FreeModel(ABC):
    """A model of the data that is known in closed form, so that its denoiser, flow and density cost no network call."""

    @abstractmethod
    def x_0(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        """E[x_0 | x_t] of the model."""

    @abstractmethod
    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        """x_t at a level on the model's own flow from z ~ N(0, I), which is x / sigma at lam = -inf."""

    @abstractmethod
    def log_prob(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float64[Tensor, " batch"]:
        """log p(x_t) in nats of the whole example."""

    @abstractmethod
    def residual(self, log_snr: ArrayLike) -> Float64[np.ndarray, " n"]:
        """R of its denoiser on its own data, at every log-SNR."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identify it."""

    def content(self) -> dict[str, Any]:
        """It as JSON has it, every bit of it, which `LinearDenoiser.of_content` reads.

        Raises:
            UnsupportedError: it is no `LinearDenoiser`.
        """
        raise UnsupportedError(f"{type(self).__name__} has no form of plain data; take a LinearDenoiser")

    def normal(self, level: Level) -> tuple[Basis, Float64[Tensor, "*dims"], Float64[Tensor, "*dims"]]:
        """(U, means and variances of the coefficients U x_t), of a model whose x_t is normal.

        Raises:
            UnsupportedError: it is not.
        """
        raise UnsupportedError(f"{type(self).__name__} has no independent normal coefficients; take a LinearDenoiser")

    def score_model(self, schedule: Schedule) -> ScoreModel:
        """Its denoiser as a `ScoreModel` like any other: what no network call knows."""
        named = json.dumps(plain(self.config()), sort_keys=True)
        digest = hashlib.sha256(named.encode()).hexdigest()[:16]
        return ScoreModel(_Network(self), schedule, "x_0", LogSNR(), "vp", fingerprint=digest, conditions=())

    def prior_nats(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, eps: Float[Tensor, " batch *dims"]
    ) -> Float64[Tensor, " batch"]:
        """KL(q(x_t | x_0) || p(x_t)) in nats per dimension; log q - log p at the drawn x_t where it has no closed form.

        Args:
            eps: of the draw x_t = alpha x_0 + sigma eps.
        """
        noise = wide(eps).flatten(1)
        entropy = noise.shape[1] * math.log(2.0 * math.pi * level.sigma**2)
        log_q = -0.5 * (noise.square().sum(1) + entropy)
        return (log_q - self.log_prob(level.diffuse(wide(x_0), wide(eps)), level)) / noise.shape[1]

    def prior_table(
        self, x_0: Float[Tensor, " batch *dims"], log_snr: Float64[np.ndarray, " n"], noise: LevelNoise
    ) -> Float64[np.ndarray, "batch n"]:
        """`prior_nats` of every example at every log-SNR, at draws that are smooth in it."""
        columns = []
        for lam in log_snr.tolist():
            level = preserving_level(torch.tensor([lam], dtype=torch.float64))
            columns.append(self.prior_nats(x_0, level, noise.at(lam, x_0)).cpu().numpy())
        return np.stack(columns, 1)

    def prior_price(self, log_snr: ArrayLike) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """(expectation of `prior_nats` at every log-SNR, its standard error): 1/2 integral of R from lam = -inf.

        This is what its own data would cost, which other data exceed; `Judged` has it of examples.
        """
        ends = finite(as_array(log_snr).ravel())
        grids = np.linspace(ends - DEPTH, ends, POINTS)
        curves = self.residual(grids.ravel()).reshape(grids.shape)
        return 0.5 * scipy.integrate.simpson(curves, dx=DEPTH / (POINTS - 1), axis=0), np.zeros(len(ends))


class _Network(nn.Module):
    """A free model as a network that is fed variance-preserving x_t and its log-SNR, and answers with x_0."""

    def __init__(self, free: FreeModel) -> None:
        super().__init__()
        self.free = free

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        return self.free.x_0(x, preserving_level(log_snr.cpu()))


@dataclass(frozen=True, eq=False)
class LinearDenoiser(FreeModel):
    """W(x_t) = mu + U^T [alpha c / (alpha^2 c + sigma^2)] U (x_t - alpha mu), the best linear denoiser.

    Attributes:
        basis: U, by `basis.forward`.
        mean: mu, of an example's shape, float64.
        spectrum: c_k >= 0, the variance of coefficient k of U (x_0 - mu), in an example's shape.

    Raises:
        InputError: shapes do not fit, or a variance is negative or not finite.

    >>> free, level = LinearDenoiser.of(data), model.schedule.level(0.5)
    >>> free.x_0(torch.zeros(3, 2), level).shape, free.start(torch.zeros(3, 2), level).shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    basis: Basis
    mean: Tensor
    spectrum: Array

    def __post_init__(self) -> None:
        mean, spectrum = torch.as_tensor(self.mean).detach().cpu().double(), as_array(self.spectrum)
        if spectrum.shape != tuple(mean.shape) or spectrum.size == 0:
            raise InputError(f"need a variance per coordinate of the mean {tuple(mean.shape)}, got shape {spectrum.shape}")
        if not bool(torch.isfinite(mean).all()):
            raise InputError("the mean holds NaN or inf; fit it to finite data")
        if not bool(np.all((spectrum >= 0.0) & (spectrum < np.inf))):
            raise InputError("variances must be finite and not negative; clip what rounding left below zero")
        self.basis.labels(spectrum.shape)  # refuses examples of another shape
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "spectrum", spectrum)

    @classmethod
    def of(
        cls, data: Data, basis: Basis | None = None, shrinkage: Shrinkage = "held_out", max_exact: int = 1024
    ) -> LinearDenoiser:
        """Fitted to examples: c_k is the mean square of the coefficients that share a label of the basis, shrunk.

        c' = (1 - s) c + s mean(c), so that directions in which few examples do not vary keep some variance

        Args:
            basis: None for all principal components up to `max_exact` dimensions, and beyond for cosines of images, of rotated
                colours where they have several channels, or 256 principal components and one variance for the rest. `PCA.of`
                of few components and `DCT(radial=True)` need fewer examples.
            shrinkage: s in [0, 1]; "held_out" by the likelihood of examples that the fit did not see; "ledoit_wolf" or "oas".

        Raises:
            InputError: examples that are empty, not finite or all the same, or a basis or strength that does not fit them.

        >>> LinearDenoiser.of(data, shrinkage=0.0).spectrum.round(2)
        array([0.96, 0.32])
        """
        return cls(*fitted_spectrum(data, basis, shrinkage, max_exact))

    @classmethod
    def exact(cls, mean: Float[Tensor, "*dims"], covariance: Float[Tensor, "d d"]) -> LinearDenoiser:
        """Of data whose mean and covariance are known.

        Args:
            covariance: of the flattened example.

        Raises:
            InputError: shapes do not fit, or the covariance is not positive semi-definite.

        >>> LinearDenoiser.exact(torch.zeros(2), torch.diag(torch.tensor([1.0, 2.0]))).spectrum
        array([2., 1.])
        """
        c = torch.as_tensor(as_array(covariance))
        if c.shape != (mean.numel(), mean.numel()):
            raise InputError(f"need a covariance ({mean.numel()}, {mean.numel()}) for this mean, got {tuple(c.shape)}")
        variances, vectors = torch.linalg.eigh(0.5 * (c + c.T))
        if float(variances[0]) < -1e-12 * float(variances[-1].abs()):
            raise InputError("the covariance has a negative eigenvalue; give one of data")
        spectrum = variances.flip(0).clamp_min(0.0).reshape(mean.shape)
        return cls(PCA(vectors.flip(1).T.numpy()), mean, spectrum.numpy())

    def mean_alone(self) -> LinearDenoiser:
        """The denoiser x_0 = mu, which does not look at x_t."""
        return LinearDenoiser(Scalar(), self.mean, np.zeros_like(self.spectrum))

    def variances(self, level: Level) -> Float64[Tensor, "*shape"]:
        """alpha^2 c + sigma^2 of every coefficient of x_t, in an example's shape; one row per sample where levels differ.

        >>> LinearDenoiser(PCA(np.eye(2)), torch.zeros(2), np.array([0.0, 1.0])).variances(Level(0.5, 0.6, 0.8, -0.575))
        tensor([0.6400, 1.0000], dtype=torch.float64)
        """
        return self._scalar(level.alpha) ** 2 * torch.as_tensor(self.spectrum) + self._scalar(level.sigma) ** 2

    def normal(self, level: Level) -> tuple[Basis, Float64[Tensor, "*dims"], Float64[Tensor, "*dims"]]:
        """(U, alpha U mu, alpha^2 c + sigma^2).

        >>> LinearDenoiser(PCA(np.eye(2)), torch.ones(2), np.array([0.0, 1.0])).normal(Level(0.5, 0.6, 0.8, -0.575))[1]
        tensor([0.6000, 0.6000], dtype=torch.float64)
        """
        mean = self.basis.forward(self.mean[None])[0]
        return self.basis, self._scalar(level.alpha) * mean, self.variances(level)

    def gain(self, level: Level) -> Float64[Tensor, "*shape"]:
        """alpha c / (alpha^2 c + sigma^2), by which W multiplies the coefficients of x_t - alpha mu."""
        return self._scalar(level.alpha) * torch.as_tensor(self.spectrum) / self.variances(level)

    def _scalar(self, value: Any) -> Tensor:
        """alpha or sigma in float64 on the host, shaped to multiply coefficients."""
        given = value.cpu() if isinstance(value, Tensor) else value
        scalar = torch.as_tensor(given, dtype=torch.float64)
        return scalar.reshape(-1, *(1,) * self.mean.ndim) if scalar.ndim else scalar

    def x_0(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        y = self.coefficients(x_t, level)
        return (self.mean.to(y) + self.basis.inverse(y)).to(x_t)

    def coefficients(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        """U (W(x_t) - mu), in float32 or better.

        >>> free, level = LinearDenoiser.of(data), model.schedule.level(0.5)
        >>> free.coefficients(level.alpha * free.mean[None], level).abs().max().item()
        0.0
        """
        centred, _ = self.centred(x_t, level)
        return self.gain(level).to(centred) * self.basis.forward(centred)

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        x, mean = self.centred(z, NOISE)
        y = self.variances(level).sqrt().to(x) * self.basis.forward(x)
        return (expand(level.alpha, x) * mean + self.basis.inverse(y)).to(z)

    def centred(
        self, x_t: Float[Tensor, " batch *dims"], level: Level
    ) -> tuple[Float[Tensor, " batch *dims"], Float[Tensor, "*dims"]]:
        """(x_t - alpha mu in float32 or better, mu beside it)."""
        if x_t.shape[1:] != self.mean.shape:
            shapes = f"{tuple(self.mean.shape)}, not {tuple(x_t.shape[1:])}"
            raise InputError(f"this model is of examples {shapes}; fit it to such data")
        x = onto(x_t, x_t.device)
        mean = self.mean.to(x)
        return x - expand(level.alpha, x) * mean, mean

    def squares(self, x_0: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch *dims"]:
        """(U (x_0 - mu))_k^2 of every coefficient."""
        return self.basis.forward(self.centred(wide(x_0), DATA)[0]).square()

    def log_prob(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float64[Tensor, " batch"]:
        y = self.basis.forward(self.centred(wide(x_t), level)[0])
        variances = self.variances(level).to(y)
        return -0.5 * (y.square() / variances + torch.log(2.0 * math.pi * variances)).flatten(1).sum(1)

    def prior_nats(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, eps: Float[Tensor, " batch *dims"]
    ) -> Float64[Tensor, " batch"]:
        """1/2 mean_k [log(1 + snr c_k) + (1 + snr (U (x_0 - mu))_k^2) / (1 + snr c_k) - 1], in closed form."""
        alpha2, sigma2 = self._scalar(level.alpha) ** 2, self._scalar(level.sigma) ** 2
        squares = self.squares(x_0)
        excess = alpha2 * torch.as_tensor(self.spectrum)
        return step_kl(alpha2.to(squares) * squares, sigma2.to(squares), excess.to(squares)).flatten(1).mean(1)

    def prior_table(
        self, x_0: Float[Tensor, " batch *dims"], log_snr: Float64[np.ndarray, " n"], noise: LevelNoise
    ) -> Float64[np.ndarray, "batch n"]:
        """The same from one product of matrices, without draws."""
        c = self.spectrum.ravel()
        squares = self.squares(x_0).flatten(1).cpu().numpy()

        def table(snr: Array) -> Array:
            of_squares = snr / (1.0 + snr * c)
            return 0.5 * ((np.log1p(snr * c) - of_squares * c).sum(1) + squares @ of_squares.T) / len(c)

        together = batch_by_bytes(len(c))  # levels
        snr = np.exp(log_snr)[:, None]
        return np.concatenate([table(snr[i : i + together]) for i in range(0, len(snr), together)], 1)

    def residual(self, log_snr: ArrayLike) -> Float64[np.ndarray, " n"]:
        """mean_k snr c_k / (1 + snr c_k).

        >>> LinearDenoiser(PCA(np.eye(2)), torch.zeros(2), np.ones(2)).residual([0.0])
        array([0.5])
        """
        power = np.exp(np.atleast_1d(as_array(log_snr)))[:, None] * self.spectrum.ravel()
        return (power / (1.0 + power)).mean(1)

    def prior_price(self, log_snr: ArrayLike) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """1/2 mean_k log(1 + snr c_k), what data with this covariance cost."""
        power = np.exp(np.atleast_1d(as_array(log_snr)))[:, None] * self.spectrum.ravel()
        return 0.5 * np.log1p(power).mean(1), np.zeros(len(power))

    def config(self) -> dict[str, Any]:
        arrays = {"mean": array_digest(self.mean.numpy()), "spectrum": array_digest(self.spectrum)}
        return {"name": "linear", "basis": self.basis.config(), **arrays}

    def save(self, path: str | Path) -> None:
        """Write it, with its basis, as one file."""
        save_arrays(path, self.arrays(), {"kind": KIND, "basis": self.basis.config()})

    @classmethod
    def load(cls, path: str | Path, basis: Basis | None = None) -> LinearDenoiser:
        """Read what `save` wrote.

        Args:
            basis: the basis itself, needed for one that is not built in.

        Raises:
            MissingFileError: no such file.
            InputError: it is damaged, or of another basis.
        """
        cure = "delete it and fit it again"
        arrays, metadata = load_arrays(path, KIND, ARRAYS, {"basis": dict}, cure)
        return cls.of_arrays(arrays, metadata["basis"], basis)

    def content(self) -> dict[str, Any]:
        return {"basis": self.basis.config(), "arrays": {name: packed(array) for name, array in self.arrays().items()}}

    @classmethod
    def of_content(cls, content: Mapping[str, Any], path: str = "a free model") -> LinearDenoiser:
        """The one of a `content` that was read from `path`.

        Raises:
            InputError: damaged content, or of a basis that is not built in.

        >>> free = LinearDenoiser.of(data)
        >>> LinearDenoiser.of_content(free.content()).config() == free.config()
        True
        """
        require_shape(content, {"basis": {"name": str}, "arrays": {str: dict}}, path)
        with reading(path):
            arrays = {name: unpacked(array) for name, array in content["arrays"].items()}
            require_arrays(arrays, ARRAYS, path)
            return cls.of_arrays(arrays, content["basis"])

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds of it, besides the config of its basis."""
        return {"mean": self.mean.numpy(), "spectrum": self.spectrum} | bases.to_arrays(self.basis)

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], basis: Basis | None = None
    ) -> LinearDenoiser:
        """The one whose `arrays` a file holds.

        Args:
            config: of its basis.
            basis: the basis itself, needed for one that is not built in.
        """
        basis = bases.from_config(config, arrays, basis)
        return cls(basis, torch.as_tensor(arrays["mean"]), arrays["spectrum"])
