"""Gaussian mixtures with exact score, density, posterior and sampling under every schedule: the oracle and the demo.

    x_0 ~ sum_k w_k N(m_k, S_k)   =>   x_t ~ sum_k w_k N(alpha m_k, alpha^2 S_k + sigma^2 I)
    E[x_0 | x_t, k] = m_k + alpha S_k (alpha^2 S_k + sigma^2 I)^{-1} (x_t - alpha m_k)

With S_k = U_k diag(l_k) U_k^T all of it is diagonal in U_k.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import ArrayLike
from torch import Tensor, nn

from score_sde_analytic.arrays import numbers, readable
from score_sde_analytic.checks import whole
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule


class GaussianMixture(nn.Module):
    """A mixture of Gaussians in d dimensions, float64.

    >>> GaussianMixture([1.0, 3.0], [[-1.0], [1.0]], 0.1).weights
    tensor([0.25, 0.75], dtype=torch.float64)

    Args:
        weights: (k,), positive; normalised here.
        means: (k, d).
        covariances: () or (k,) isotropic, (d,) one shared diagonal, (k, d) diagonals, or (k, d, d).

    Raises:
        InputError: shapes do not fit, weights are not positive, or a covariance is not positive semi-definite.
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> None:
        super().__init__()
        given = {"weights": weights, "means": means, "covariances": covariances}
        w, m, c = (torch.as_tensor(numbers(name, value)) for name, value in given.items())
        if m.ndim != 2 or 0 in m.shape or w.shape != m.shape[:1]:
            raise InputError(f"need weights (k,) and means (k, d), got {tuple(w.shape)} and {tuple(m.shape)}")
        if not (w > 0).all():
            raise InputError("mixture weights must be positive")
        if not torch.isfinite((4.0 * m.square()).sum() + c.abs().sum() + w.sum()):
            raise InputError("sums of weights, of squared means or of covariances are beyond float64; give smaller units")
        eigenvalues, basis = _spectra(c, *m.shape)
        if (eigenvalues < -1e-12 * eigenvalues.abs().max()).any():
            raise InputError("a covariance has a negative eigenvalue")
        for name, value in (
            ("weights", w / w.sum()),
            ("means", m),
            ("eigenvalues", eigenvalues.clamp_min(0)),
            ("basis", basis),
        ):
            self.register_buffer(name, value)

    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    basis: Tensor

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def sample(self, count: int, seed: int = 0) -> Float64[Tensor, "{count} d"]:
        """Exact draws of x_0.

        >>> mixture.sample(3, seed=1).shape
        torch.Size([3, 2])
        """
        return self.labelled(count, seed)[0]

    def labelled(self, count: int, seed: int = 0) -> tuple[Float64[Tensor, "{count} d"], Int64[Tensor, " {count}"]]:
        """(exact draws of x_0, the component that each is of).

        >>> mixture.labelled(3, seed=1)[1]
        tensor([0, 0, 0])
        """
        count = whole(1)("count", count)
        generator = torch.Generator().manual_seed(whole(0)("seed", seed))
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.dim, dtype=torch.float64, generator=generator) * self.eigenvalues[k].sqrt()
        return self.means[k] + torch.einsum("nij,nj->ni", self.basis[k], z), k

    def component(self, k: int) -> GaussianMixture:
        """One component alone: a Gaussian.

        >>> mixture.component(1).means
        tensor([[1.0000, 0.5000]], dtype=torch.float64)
        """
        covariance = self.basis[k] @ torch.diag(self.eigenvalues[k]) @ self.basis[k].mT
        return GaussianMixture([1.0], self.means[k][None], covariance[None])

    def _coordinates(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t - alpha m_k in component k's eigenbasis (n, k, d), its variances (k, d), log responsibilities (n, k)).

        With one level per sample the variances are (n, k, d).
        """
        if x_t.ndim != 2 or x_t.shape[1] != self.dim:
            raise InputError(f"need points (n, {self.dim}) of the mixture's dimension, got {tuple(x_t.shape)}")
        alpha, sigma = (s[:, None, None] if isinstance(s, Tensor) else s for s in (level.alpha, level.sigma))
        variances = alpha**2 * self.eigenvalues + sigma**2
        y = torch.einsum("nki,kij->nkj", x_t.double()[:, None] - alpha * self.means, self.basis)
        log_normal = -0.5 * (y.square() / variances + torch.log(2 * math.pi * variances)).sum(-1)
        return y, variances, self.weights.log() + log_normal

    def log_density(self, x_t: Float[Tensor, "n d"], level: Level) -> Float[Tensor, " n"]:
        """log q(x_t) in nats; the data's own density at `schedule.level(0.0)`.

        >>> normal = GaussianMixture([1.0], [[0.0]], 1.0)
        >>> normal.log_density(torch.zeros(1, 1), model.schedule.level(0.5))  # -log(2 pi) / 2 at every level
        tensor([-0.9189], dtype=torch.float64)
        """
        return self._coordinates(x_t, level)[2].logsumexp(-1)

    def posterior(self, x_t: Float[Tensor, "n d"], level: Level) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d d"]]:
        """(E[x_0 | x_t], Cov(x_0 | x_t)), law of total covariance over components.

        >>> mean, covariance = GaussianMixture([1.0], [[0.0]], 1.0).posterior(torch.ones(1, 1), Level(0.5, 0.6, 0.8, -0.575))
        >>> mean, covariance  # alpha x_t and sigma^2
        (tensor([[0.6]], dtype=torch.float64), tensor([[[0.64]]], dtype=torch.float64))
        """
        y, variances, log_joint = self._coordinates(x_t, level)
        shrink, responsibility = 1.0 / variances, log_joint.softmax(-1)
        gain = level.alpha * self.eigenvalues * shrink
        component_means = self.means + torch.einsum("nkj,kij->nki", gain * y, self.basis)
        mean = torch.einsum("nk,nki->ni", responsibility, component_means)
        within = torch.einsum("kij,kj,klj->kil", self.basis, self.eigenvalues * level.sigma**2 * shrink, self.basis)
        spread = component_means - mean[:, None]
        between = torch.einsum("nk,nki,nkj->nij", responsibility, spread, spread)
        return mean, torch.einsum("nk,kij->nij", responsibility, within) + between

    def posterior_mean(self, x_t: Float[Tensor, "n d"], level: Level) -> Float[Tensor, "n d"]:
        """E[x_0 | x_t], without the covariance.

        >>> GaussianMixture([1.0], [[0.0]], 1.0).posterior_mean(torch.ones(1, 1), Level(0.5, 0.6, 0.8, -0.575))
        tensor([[0.6]], dtype=torch.float64)
        """
        y, variances, log_joint = self._coordinates(x_t, level)
        responsibility = log_joint.softmax(-1)
        alpha = level.alpha[:, None, None] if isinstance(level.alpha, Tensor) else level.alpha
        weighted = responsibility[..., None] * (alpha * self.eigenvalues / variances * y)
        return responsibility @ self.means + weighted.flatten(1) @ self.basis.mT.flatten(0, 1)

    def score(self, x_t: Float[Tensor, "n d"], level: Level) -> Float[Tensor, "n d"]:
        """grad log q(x_t) = (alpha E[x_0 | x_t] - x_t) / sigma^2."""
        return self.score_given(x_t, level)

    def score_given(
        self,
        x_t: Float[Tensor, "n d"],
        level: Level,
        component: Int64[Tensor, " n"] | None = None,
        classes: Int64[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """The score of each point's own component; of all of them where it is beyond the last, or not given.

        Args:
            classes: of each component; the one that is given is then a class, of which several may be.
        """
        y, variances, log_joint = self._coordinates(x_t, level)
        if component is not None:
            of = torch.arange(len(self.weights), device=component.device) if classes is None else classes
            own = (of == component[:, None]) | (component[:, None] > of.max())
            log_joint = log_joint.masked_fill(~own, -math.inf)
        share = log_joint.softmax(-1)
        return -torch.einsum("nk,nkj,kij->ni", share, y / variances, self.basis)

    def residual(self, level: Level, count: int = 4096, seed: int = 0) -> tuple[float, float]:
        """(R, its standard error): E tr Cov(eps | x_t) / d at this level, by Monte Carlo over x_t of the exact posterior.

        >>> GaussianMixture([1.0], [[0.0]], 1.0).residual(Level(0.5, 0.6, 0.8, -0.575))  # alpha^2
        (0.36, 0.0)
        """
        generator = torch.Generator().manual_seed(whole(0)("seed", seed) + 1)
        z = torch.randn(count, self.dim, dtype=torch.float64, generator=generator)
        covariance = self.posterior(level.diffuse(self.sample(count, seed), z), level)[1]
        r = (level.alpha / level.sigma) ** 2 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        return float(r.mean()), float(r.std()) / math.sqrt(count)

    def responsibilities(self, x_t: Float[Tensor, "n d"], level: Level) -> Float[Tensor, "n k"]:
        """Probability of every component given x_t.

        >>> mixture.responsibilities(mixture.means, Level(0.0, 1.0, 0.0, math.inf)).argmax(1)
        tensor([0, 1, 2])
        """
        return self._coordinates(x_t, level)[2].softmax(-1)

    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """(E x_0, Cov(x_0)), exact.

        >>> GaussianMixture([1.0, 1.0], [[-1.0], [1.0]], 0.0).moments()
        (tensor([0.], dtype=torch.float64), tensor([[1.]], dtype=torch.float64))
        """
        mean = self.weights @ self.means
        within = torch.einsum("k,kij,kj,klj->il", self.weights, self.basis, self.eigenvalues, self.basis)
        spread = self.means - mean
        covariance = within + torch.einsum("k,ki,kj->ij", self.weights, spread, spread)
        return mean, covariance

    def statistics(self) -> DataStatistics:
        """Exact mean, second moment and covariance eigenvalues."""
        mean, covariance = self.moments()
        variance = float(covariance.trace()) / self.dim
        return DataStatistics(0, mean, variance, torch.linalg.eigvalsh(covariance).clamp_min(0).numpy(), digest_of(self))

    def forward(
        self,
        x: Float[Tensor, "n d"],
        log_snr: Float[Tensor, " n"],
        component: Int64[Tensor, " n"] | None = None,
        classes: Int64[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """eps of a variance-preserving x_t, one log-SNR per sample: the mixture as a network that predicts eps."""
        level = preserving_level(log_snr)
        sigma = level.sigma[:, None] if isinstance(level.sigma, Tensor) else level.sigma
        return (-sigma * self.score_given(x, level, component, classes)).to(x)

    def score_model(self, schedule: Schedule) -> ScoreModel:
        """The exact score as a `ScoreModel` under any schedule.

        >>> x_t, level = torch.zeros(1, 2), model.schedule.level(0.5)
        >>> torch.allclose(mixture.score_model(model.schedule).predict(x_t, level).score.double(), mixture.score(x_t, level))
        True
        """
        if schedule.ends_in_noise:
            return ScoreModel(_V(self), schedule, predicts="v", times=LogSNR(), coordinates="vp", conditions=())
        return ScoreModel(self, schedule, predicts="eps", times=LogSNR(), coordinates="vp", conditions=())

    def conditional(self, schedule: Schedule, classes: ArrayLike | None = None) -> ScoreModel:
        """The exact score given the condition `component`, (n,) whole numbers; as many as there are stands for "not known".

        Args:
            classes: (k,) of each component, from 0 on, where the condition is to say no more than its class.

        >>> classes, x_t = mixture.conditional(model.schedule), torch.zeros(2, 2)
        >>> torch.allclose(classes(x_t, 0.5, component=3).eps, model(x_t, 0.5).eps)
        True
        >>> torch.allclose(classes(x_t, 0.5, component=1).eps, mixture.component(1).score_model(model.schedule)(x_t, 0.5).eps)
        True

        Raises:
            InputError: classes that are not a whole number per component, from 0 on.
        """
        of = None if classes is None else torch.as_tensor(numbers("classes", classes)).long()
        if of is not None and (of.shape != self.weights.shape or not torch.equal(of.unique(), torch.arange(int(of.max()) + 1))):
            raise InputError(f"classes are a whole number from 0 on per component, all that there are, got {of.tolist()}")
        return ScoreModel(_Conditional(self, of), schedule, times=LogSNR(), coordinates="vp", conditions=("component",))


class _Conditional(nn.Module):
    """A mixture as a network that is told the component, or its class."""

    def __init__(self, mixture: GaussianMixture, classes: Tensor | None) -> None:
        super().__init__()
        self.mixture = mixture
        self.register_buffer("classes", classes)

    classes: Tensor | None

    def forward(self, x: Tensor, log_snr: Tensor, component: Tensor) -> Tensor:
        return self.mixture(x, log_snr, component, self.classes)


class _V(nn.Module):
    """The mixture as a network that predicts v, which says x_0 at alpha = 0, too."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Float[Tensor, "n d"], log_snr: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        level = preserving_level(log_snr)
        score, x_0 = self.mixture.score(x, level), self.mixture.posterior_mean(x, level)
        alpha, sigma = (s[:, None] if isinstance(s, Tensor) else s for s in (level.alpha, level.sigma))
        return (-alpha * sigma * score - sigma * x_0).to(x)


def preserving_level(log_snr: Float[Tensor, " n"]) -> Level:
    """The variance-preserving levels of log-SNRs, one per sample; as floats where all are one.

    >>> preserving_level(torch.zeros(3)).alpha, preserving_level(torch.tensor([0.0, 1.0])).alpha
    (0.707, tensor([0.7071, 0.8550], dtype=torch.float64))
    """
    log_snr = log_snr.double()
    alpha = torch.sigmoid(log_snr).sqrt()
    sigma = torch.sigmoid(-log_snr).sqrt()
    if readable(log_snr) and bool((log_snr == log_snr[0]).all()):  # what follows from one level is worked out once
        return Level(0.0, alpha[0].item(), sigma[0].item(), log_snr[0].item())
    return Level(0.0, alpha, sigma, log_snr)


def _spectra(c: Tensor, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k, d) and eigenvectors (k, d, d) of the accepted forms of covariances."""
    identity = torch.eye(d, dtype=torch.float64).expand(k, d, d)
    if c.shape == (k, d, d):
        return tuple(torch.linalg.eigh(0.5 * (c + c.mT)))
    if c.ndim == 0 or c.shape == (k, d):
        return c.expand(k, d).clone(), identity.clone()
    if c.shape == (k,) and k != d:
        return c[:, None].expand(k, d).clone(), identity.clone()
    if c.shape == (d,) and (k != d or k == 1):
        return c.expand(k, d).clone(), identity.clone()
    raise InputError(
        f"covariances of shape {tuple(c.shape)} fit no (or, when k = d, more than one) form for k={k}, d={d};"
        " use (), (k,), (d,), (k, d) or (k, d, d)"
    )
