"""A network whose x_0 is stacked with the best linear denoiser of the data: a better mean, no weight touched.

In the coordinates of the denoiser, centred by the mean of the data, at every noise level and per coefficient k

    x_0' = p_k x_0_hat + q_k W(x_t) + r_k,        p = 1, q = r = 0 where nothing is gained

At high noise the posterior of any data is nearly Gaussian; there W is nearly exact and networks often are not. The numbers come
from least squares (`measure.recalibration`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.basis import Basis, array_digest
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, plain, require_match, save_arrays
from score_sde_analytic.models.around import Around
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.level import Level

KIND = "recalibration"
#: What a network alone has of (x_0_hat, W, 1).
IDENTITY = np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """The shares (p, q, r) of x_0_hat, W and a constant, by noise level and by label of the denoiser's basis.

    Between levels they are linear in log-SNR; beyond the outermost they stay.

    Attributes:
        log_snr: ascending, (m,).
        shares: p, q and r, (m, 3, L).

    Raises:
        InputError: levels that do not ascend, shares of another shape, or NaN.

    >>> stack = Stack(np.array([-4.0, 0.0]), np.array([[[0.5], [0.5], [0.0]], [[1.0], [0.0], [0.0]]]))
    >>> stack.at(-2.0)[:, 0]
    array([0.75, 0.25, 0.  ])
    """

    log_snr: Float64[Array, " m"]
    shares: Float64[Array, "m 3 L"]

    def __post_init__(self) -> None:
        knots, shares = self.log_snr, self.shares
        if knots.ndim != 1 or not len(knots) or np.any(np.diff(knots) <= 0) or not np.isfinite(knots).all():
            raise InputError("the levels of a recalibration must ascend; give at least one")
        if shares.ndim != 3 or shares.shape[:2] != (len(knots), 3) or not np.isfinite(shares).all():
            raise InputError(f"need finite shares ({len(knots)}, 3, labels), got shape {shares.shape}")

    def at(self, log_snr: float) -> Float64[Array, "3 L"]:
        """(p, q, r) of every label at one level."""
        place = float(np.interp(log_snr, self.log_snr, np.arange(len(self.log_snr))))
        below = min(int(place), max(len(self.log_snr) - 2, 0))
        above = min(below + 1, len(self.log_snr) - 1)
        share = place - below
        return (1.0 - share) * self.shares[below] + share * self.shares[above]

    @property
    def changes(self) -> Float64[Array, " m"]:
        """Largest difference of each level's shares from the network's own."""
        return np.abs(self.shares - IDENTITY[:, None]).max((1, 2))

    def config(self) -> str:
        """A word that identifies it."""
        words = array_digest(self.log_snr) + array_digest(self.shares)
        return hashlib.sha256(words.encode()).hexdigest()[:16]


class Recalibrated(Around):
    """A model whose x_0 is p x_0_hat + q W(x_t) + r: a ScoreModel like any other, one network call per prediction.

    Args:
        model: the network's.
        free: W, and the coordinates that the shares are of.
        stack: the shares.

    Raises:
        InputError: the stack has another number of labels than the denoiser's basis.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> half = Stack(np.zeros(1), np.array([[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]]))
    >>> free = LinearDenoiser.of(data)
    >>> x_t, level = torch.ones(1, 2), model.schedule.level(0.5)
    >>> mean = 0.5 * (model.predict(x_t, level).x_0 + free.x_0(x_t, level))
    >>> torch.allclose(Recalibrated(model, free, half).predict(x_t, level).x_0, mean)
    True
    """

    def __init__(self, model: ScoreModel, free: LinearDenoiser, stack: Stack) -> None:
        super().__init__(model)
        labels = free.basis.labels(tuple(free.mean.shape))
        if stack.shares.shape[2] != labels.max() + 1:
            raise InputError(f"the shares are of {stack.shares.shape[2]} labels, the basis has {labels.max() + 1}")
        self.free = free
        self.stack = stack
        self._curve_of = labels
        self._shares = lru_cache(maxsize=256)(self._shares_at)

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        with self.model.metered() as cost:
            given = self.inner.predict(x_t, level)
        charge(self, **vars(cost))
        prediction = self._mixed(given)
        return prediction if prediction is given else confined(prediction, self.clamp)

    def unclamped(self) -> Self:
        view = super().unclamped()
        view.model = self.model.unclamped()
        return view

    def _mixed(self, given: Prediction) -> Prediction:
        shares = self._of(given.level)
        if shares is None:
            return given
        free = self.free.coefficients(given.x_t, given.level)
        p, q, r = (part.to(free) for part in shares)
        mean = self.free.mean.to(free)
        own = self.free.basis.forward(given.x_0.to(free) - mean)
        mixed = self.free.basis.inverse(p * own + q * free + r) + mean
        return replace(given, value=mixed.to(given.x_t), kind="x_0")

    def _of(self, level: Level) -> Tensor | None:
        """(p, q, r) in an example's shape, or one row per sample; None where the network stays alone."""
        if not isinstance(level.log_snr, Tensor) or level.log_snr.ndim == 0:
            return self._shares(float(level.log_snr))
        own = self._placed(np.broadcast_to(IDENTITY[:, None], self.stack.shares.shape[1:]))
        rows = [self._shares(log_snr) for log_snr in level.log_snr.double().cpu().tolist()]
        return None if all(row is None for row in rows) else torch.stack([own if row is None else row for row in rows], 1)

    def _shares_at(self, log_snr: float) -> Tensor | None:
        shares = self.stack.at(log_snr)
        return None if np.array_equal(shares, np.broadcast_to(IDENTITY[:, None], shares.shape)) else self._placed(shares)

    def _placed(self, shares: Array) -> Tensor:
        return torch.from_numpy(shares[:, self._curve_of])

    def fingerprint(self) -> dict[str, Any]:
        return self.inner.fingerprint() | {"recalibrated": self.stack.config(), "free": self.free.config()}

    def save(self, folder: str | Path) -> list[Path]:
        """Write the denoiser and the shares into a folder; returns the files."""
        files = [Path(folder) / name for name in ("linear_denoiser.safetensors", "recalibration.safetensors")]
        self.free.save(files[0])
        arrays = {"log_snr": self.stack.log_snr, "shares": self.stack.shares}
        save_arrays(files[1], arrays, {"kind": KIND, "model": self.model.fingerprint(), "free": self.free.config()})
        return files

    @classmethod
    def load(cls, folder: str | Path, model: ScoreModel, basis: Basis | None = None) -> Recalibrated:
        """Read what `save` wrote, for the model that it was fitted to.

        Raises:
            MissingFileError: a missing file.
            InputError: a damaged file, or one of another model.
        """
        cure = "delete the folder and fit it again"
        free = LinearDenoiser.load(Path(folder) / "linear_denoiser.safetensors", basis)
        path, declared = Path(folder) / "recalibration.safetensors", {"log_snr": "float64 m", "shares": "float64 m 3 labels"}
        arrays, metadata = load_arrays(path, KIND, declared, {"model": dict, "free": dict}, cure)
        expected = {"model": plain(model.fingerprint()), "free": plain(free.config())}
        require_match(path, {name: metadata[name] for name in expected}, expected)
        return cls(model, free, Stack(arrays["log_snr"], arrays["shares"]))
