"""Latents of pictures as data: encoded once, kept in a memory map, and led back to pictures.

z = (latent - shift) scale / spread,      latent = mean + std noise(seed, index), or the mean alone

scale and shift are the autoencoder's own `scaling_factor` and `shift_factor`; or per channel its `latents_mean` and
`latents_std`. Bits of latents are those of z as a density: they say nothing of the bits of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from score_sde_analytic.arrays import kept, onto
from score_sde_analytic.checks import optional, whole
from score_sde_analytic.data.caching import cached
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import is_large, spread
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.process.noise import stream_seed

Latent = Float[Tensor, "channels height width"]
#: Of 8-bit pictures.
PICTURES = DataRange(-1.0, 1.0, 256)
#: Pictures of large data that tell them from others.
TOLD_BY = 64
#: Before the name of a condition that is kept with a latent.
GIVEN = "given "


class LatentDataset(Dataset[Any]):
    """z of every picture, with its conditions where the pictures have some; no levels, so bits are those of a density.

    Args:
        vae: an autoencoder of diffusers, or any network whose `encode` gives a `latent_dist` of mean and std, or `latents`, and
            whose `decode` gives a `sample`; with its scales in `config`.
        images: pictures, as `images(..)` or tensors in the range below.
        path: folder that keeps the moments of all latents: it is opened when it is there, and gone on with where it was not
            finished; None for a folder that is gone in the end.
        seed: None for the mean of every latent; else one draw of each, a function of (seed, index).
        data_range: of the pictures that the autoencoder was trained on.
        batch_size: pictures per call of the autoencoder.
        device: of the autoencoder.

    Raises:
        InputError: no autoencoder, or a folder of other pictures or of another autoencoder.
        RunError: latents that are not finite.
    """

    #: Bits and curves of these data say so.
    space = "latents"

    def __init__(
        self,
        vae: nn.Module,
        images: Data,
        path: str | Path | None = None,
        seed: int | None = None,
        data_range: DataRange = PICTURES,
        batch_size: int = 8,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> None:
        if not callable(getattr(vae, "encode", None)) or not callable(getattr(vae, "decode", None)):
            raise InputError(f"{type(vae).__name__} has no encode and decode; give an autoencoder, as diffusers' AutoencoderKL")
        self.vae: Any = vae.eval()
        self.data_range = data_range
        self.seed = optional(whole(0))("seed", seed)
        self.device = torch.device(device)
        self.batch_size = whole(1)("batch_size", batch_size)
        self._scaling = _Scaling.of(vae)
        self._temporary = TemporaryDirectory() if path is None else None
        pictures = as_dataset(images, data_range)
        folder = Path(self._temporary.name if self._temporary else str(path))
        identity = {"vae": digest_of(vae), "images": _digest(pictures), "range": [data_range.lo, data_range.hi]}
        self._rows = cached(lambda done: self._moments(pictures, done), folder, identity, len(pictures), progress)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Latent | tuple[Latent, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{len(self)} latents have no latent {index}")
        row = self._rows[int(index)]
        conditions = {name.removeprefix(GIVEN): value for name, value in row.items() if name.startswith(GIVEN)}
        latent = self._scaling.forward(self._latent(row, int(index) % len(self)))
        return (latent, conditions) if conditions else latent

    def _latent(self, row: dict[str, Tensor], index: int) -> Tensor:
        if self.seed is None or "std" not in row:
            return row["mean"]
        generator = torch.Generator().manual_seed(stream_seed(self.seed, index))
        return row["mean"] + row["std"] * torch.randn(row["mean"].shape, generator=generator)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a latent."""
        return tuple(self._rows[0]["mean"].shape)

    @torch.no_grad()
    def decode(self, z: Float[Tensor, " batch *dims"], progress: bool = False) -> Float[Tensor, " batch channels height width"]:
        """Pictures of latents, such as samples, within the range of pictures, on the host."""
        parts = tqdm(z.split(self.batch_size), desc="decode", disable=not progress, leave=False)
        lo, hi = self.data_range.lo, self.data_range.hi
        return torch.cat([self._decoded(part).clamp(lo, hi) for part in parts])

    def _decoded(self, z: Tensor) -> Tensor:
        out = self.vae.decode(self._fed(self._scaling.inverse(z.float())))
        return getattr(out, "sample", out).float().cpu()

    @torch.no_grad()
    def _moments(self, pictures: Examples, done: int) -> Iterator[dict[str, Any]]:
        """Mean and standard deviation of every latent from the `done`-th on, in the same batches whatever was done."""
        first = done - done % self.batch_size
        pictures.expect(range(first, len(pictures)))
        for start in range(first, len(pictures), self.batch_size):
            indices = range(start, min(start + self.batch_size, len(pictures)))
            x_0, conditions = pictures.batch(indices)
            self.data_range.check(x_0)
            rows = _encoded(self.vae.encode(self._fed(onto(x_0, self.device))))
            rows |= {GIVEN + name: kept(values) for name, values in conditions.items()}
            for i in range(max(done - start, 0), len(indices)):
                yield {name: values[i] for name, values in rows.items()}

    def _fed(self, x: Tensor) -> Tensor:
        """In the autoencoder's own precision."""
        weights = next((p for p in self.vae.parameters()), x)
        return x.to(self.device, weights.dtype)


class _Scaling:
    """From the autoencoder's latents to those that a network learned."""

    def __init__(self, shift: Sequence[float], factor: Sequence[float]) -> None:
        self._shift = torch.tensor(shift).reshape(-1, 1, 1)
        self._factor = torch.tensor(factor).reshape(-1, 1, 1)

    @classmethod
    def of(cls, vae: Any) -> _Scaling:
        config = getattr(vae, "config", {})

        def said(name: str, otherwise: Any) -> Any:
            value = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
            return otherwise if value is None else value

        mean = np.atleast_1d(said("latents_mean", said("shift_factor", 0.0)))
        spread_of = np.atleast_1d(said("latents_std", 1.0))
        return cls(mean.tolist(), (said("scaling_factor", 1.0) / spread_of).tolist())

    def forward(self, latent: Tensor) -> Tensor:
        return (latent - self._shift) * self._factor

    def inverse(self, z: Tensor) -> Tensor:
        return z / self._factor.to(z) + self._shift.to(z)


def _encoded(out: Any) -> dict[str, Tensor]:
    """What an encoder says of every latent: its moments, or the latent itself."""
    distribution = getattr(out, "latent_dist", None)
    if distribution is not None:
        rows = {"mean": distribution.mean, "std": distribution.std}
    else:
        rows = {"mean": next((getattr(out, name) for name in ("latents", "latent") if hasattr(out, name)), out)}
    rows = {name: value.float().cpu() for name, value in rows.items()}
    if not all(torch.isfinite(value).all() for value in rows.values()):
        raise RunError("the autoencoder's latents hold NaN or inf; run it in float32, as vae.float()")
    return rows


def _digest(pictures: Examples) -> str:
    """Of the pictures; of large data of some, and of how many there are."""
    if not is_large(len(pictures), pictures.first.numel()):
        return DataStatistics.of(pictures, max_eigen=0).digest
    return DataStatistics.of_some(pictures, spread(len(pictures), min(TOLD_BY, len(pictures))), max_eigen=0).digest
