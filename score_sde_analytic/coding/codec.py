"""Images as bytes of about the length that a chain's bound promises, and back without a loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.checks import number, one_of, whole
from score_sde_analytic.coding import container
from score_sde_analytic.coding.arithmetic import ARITHMETICS, DIGITS, arithmetic_of, require_repeatable
from score_sde_analytic.coding.coder import Coder, Encoded
from score_sde_analytic.coding.ladder import Ladder
from score_sde_analytic.coding.plan import Plan, most_together
from score_sde_analytic.coding.stack import ShallowError
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.chain import Chain
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.models.model import ScoreModel

MOST_BATCH = 4096
#: Finer lattices gain nothing, coarser ones are no longer a chain's.
RATIO = number(2.0**-10, 4.0)


@dataclass(frozen=True)
class Compressed:
    """A file, and how its length comes about.

    Attributes:
        content: the file.
        dim: numbers of an image.
        images, raw: how many there are; how many of them lie there as they are.
        net: bits that coded images take.
        worth: bits that they are worth by the chain, with the latents that were drawn: one draw of its bound, each.
        beginning: bits that coding began with: random words, and what raw images take more than coded ones.
    """

    content: bytes
    dim: int
    images: int
    raw: int
    net: float
    worth: NDArray[np.float64]
    beginning: float

    @property
    def rate(self) -> float:
        """Bits/dim of the whole file."""
        return 8.0 * len(self.content) / (self.images * self.dim)

    @property
    def net_rate(self) -> float:
        """Bits/dim of coded images, without the file's beginning and header; nan where all are raw."""
        return self.net / (len(self.worth) * self.dim) if len(self.worth) else math.nan

    @property
    def worth_rate(self) -> float:
        """Bits/dim that they are worth."""
        return float(self.worth.mean()) / self.dim if len(self.worth) else math.nan


class Codec:
    """Lossless coding of discrete images by a network and a chain of it, at about the chain's bound.

    >>> from score_sde_analytic import GaussianMixture, Grid
    >>> from score_sde_analytic.covariance import BetaTilde
    >>> exact = GaussianMixture([0.5, 0.5], [[-0.5] * 16, [0.5] * 16], [0.01] * 16).score_model(model.schedule)
    >>> codec = Codec(exact, Chain(Grid((1.0, 0.3, 0.1, 0.01, 0.0)), BetaTilde(), decoder=0.1), DataRange(levels=17))
    >>> images = DataRange(levels=17).encode(np.full((30, 16), 12))
    >>> torch.equal(codec.decode(codec.encode(images)), images)
    True

    Args:
        chain: its covariance is diagonal in a basis (isotropic, diagonal, a head), its prior N(0, I) or a `LinearDenoiser`, and
            its decoder leads back to the data.
        data_range: with levels.
        ratio: of the lattice of latents to the smallest deviation that it must resolve: smaller ones gain next to nothing, and
            take more bits to begin with.
        batch_size: most images that are coded together; a decoder takes those of the file.
        arithmetic: "float32", for the machine at hand, or "exact", for any.
        device: of the network.

    Raises:
        InputError: continuous data, or a setting that is not allowed.
    """

    def __init__(
        self,
        model: ScoreModel,
        chain: Chain,
        data_range: DataRange | None,
        ratio: float = 0.5,
        batch_size: int = 64,
        arithmetic: str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        if data_range is None or data_range.levels is None:
            raise InputError("continuous data cannot be coded without a loss: declare their levels, DataRange(levels=256)")
        if data_range.levels > container.MOST_LEVELS:
            raise InputError(f"a file holds at most {container.MOST_LEVELS} levels, not {data_range.levels}; code fewer bits")
        chain.check(model, data_range)
        self.arithmetic = ARITHMETICS[one_of(ARITHMETICS)("arithmetic", arithmetic)]
        self.ratio = RATIO("ratio", ratio)
        self.batch_size = whole(1, MOST_BATCH)("batch_size", batch_size)
        self.chain = chain
        self.levels = data_range.levels
        self.data_range = data_range
        self.device = torch.device(device)
        self.network = model
        self.model = self.arithmetic.model(model)
        self._ladders = lru_cache(maxsize=4)(self._made_ladder)

    def _ladder(self, shape: tuple[int, ...], ratio: float) -> Ladder:
        """Made anew for another number of threads, which its numbers may depend on."""
        return self._ladders(shape, ratio, torch.get_num_threads())

    def _made_ladder(self, shape: tuple[int, ...], ratio: float, threads: int) -> Ladder:
        parts = self.arithmetic.around, self.device
        return Ladder.of(self.model, self.chain, self.data_range, shape, ratio, *parts)

    @property
    def identity(self) -> dict[str, str]:
        """Short names of the network, whose weights may have changed, and of the chain."""
        return {"network": _name(self.network.fingerprint()), "chain": _name(self.chain.config(self.network))}

    def encode(self, images: Float[Tensor, " batch *dims"], progress: bool = False) -> bytes:
        """A file of images.

        Raises:
            InputError: images off the grid of levels, or none.
            UnsupportedError: a chain that cannot be coded with.
            RunError: a network that does not answer twice the same.
        """
        return self.compress(images, progress).content

    @torch.no_grad()
    def compress(
        self, images: Float[Tensor, " batch *dims"], progress: bool = False, about: Mapping[str, Any] | None = None
    ) -> Compressed:
        """`encode`, with where the bits went.

        Args:
            about: plain data that the file carries.
        """
        self.data_range.check(images)
        shape = tuple(images.shape[1:])
        if math.prod(shape) >= container.MOST_DIM:
            raise InputError(f"images of shape {shape} are too large for a file, which could not be read; cut them into tiles")
        pixels = self.data_range.index(images).cpu().numpy().reshape(len(images), -1)
        ladder = self._ladder(shape, self.ratio)
        require_repeatable(ladder)
        most = min(self.batch_size, most_together(ladder.dim, self.levels))
        done = Coder(ladder, most).encode(pixels, progress)
        header = {
            "shape": list(shape),
            "count": len(images),
            "levels": self.levels,
            "range": [self.data_range.lo, self.data_range.hi],
            **self.identity,
            "ratio": self.ratio,
            **done.plan.content(),
            "random": done.random,
            "arithmetic": self.arithmetic.record(ladder, done.plan.sizes),
            **({"about": dict(about)} if about else {}),
        }
        container.require_readable(header)
        return _compressed(container.pack(header, done.words, pixels), done, ladder.dim)

    @torch.no_grad()
    def decode(self, content: bytes, progress: bool = False) -> Float32[Tensor, " batch *dims"]:
        """The images of a file.

        Raises:
            InputError: the file is damaged, of another version, or of another network, chain, arithmetic or machine.
        """
        header, words, checksum = container.unpack(content)
        self._require(header)
        shape, record = tuple(header["shape"]), header["arithmetic"]
        dim = math.prod(shape)
        if not shape or dim >= container.MOST_DIM:
            raise InputError(f"its images of shape {shape} are none, or too large; {container.CURE}")
        plan = Plan.of_content(header, min(MOST_BATCH, most_together(dim, header["levels"])))
        if plan.count != header["count"]:
            raise InputError(f"its plan is of another count of images than its header; {container.CURE}")
        with self.arithmetic.as_recorded(record):
            ladder = self._ladder(shape, header["ratio"])
            self.arithmetic.require(record, ladder, plan.sizes)
            pixels = self._pixels(Coder(ladder, self.batch_size), words, plan, header["random"], progress)
        container.require_pixels(pixels, checksum)
        return self.data_range.encode(pixels.reshape(-1, *shape))

    @staticmethod
    def _pixels(coder: Coder, words: NDArray[np.uint32], plan: Plan, random: int, progress: bool) -> NDArray[np.int64]:
        try:
            return coder.decode(words, plan, random, progress)
        except (ShallowError, InputError, OverflowError) as error:
            raise InputError(f"its words are those of no images ({error}); {container.CURE}") from error

    def _require(self, header: Mapping[str, Any]) -> None:
        """Refuse what was encoded with anything else."""
        declared = {"levels": self.levels, "range": [self.data_range.lo, self.data_range.hi]}
        for name, own in (self.identity | declared).items():
            _require_same(header, name, own)
        arithmetic_of(header["arithmetic"], self.arithmetic)
        RATIO("its ratio", header["ratio"])


#: What of a header differs -> what to do.
CURES = {
    "network": "use the network, schedule and wiring that it was encoded with",
    "chain": "use its number of steps, grid, covariance, prior and decoder",
    "levels": "declare the levels of its images",
    "range": "declare the range of its images",
}


def header_of(content: bytes) -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        InputError: it is damaged, of another version, or none.
    """
    return container.unpack(content)[0]


def require_network(header: Mapping[str, Any], model: ScoreModel) -> None:
    """Refuse a file of another network, which may be known before its chain is.

    Raises:
        InputError: it is of another.
    """
    _require_same(header, "network", _name(model.fingerprint()))


def _require_same(header: Mapping[str, Any], name: str, own: Any) -> None:
    if header[name] != own:
        raise InputError(f"it was encoded with another {name}: {header[name]} there, {own} here; {CURES[name]}")


def _name(value: Any) -> str:
    return digest(json.dumps(value, sort_keys=True, default=str))[:DIGITS]


def _compressed(content: bytes, done: Encoded, dim: int) -> Compressed:
    worth = np.concatenate([np.zeros(0), *done.content])
    raw = len(done.plan.raw)
    total = 32.0 * len(done.words)
    beginning = total - done.net - raw * (done.net / max(len(worth), 1))
    return Compressed(content, dim, done.plan.count, raw, float(done.net), worth, beginning)
