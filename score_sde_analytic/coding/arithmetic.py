"""How numbers are worked out, so that a decoder gets the encoder's to the bit.

float32   as torch does: the same on the same build of it with the same threads and batches; a probe tells
exact     sums that do not depend on their order: the same for any batch, threads and BLAS (`coding.exact`)
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch

from score_sde_analytic.coding.ladder import Ladder
from score_sde_analytic.coding.laws import key
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.models.model import ScoreModel

#: Hexadecimal digits of digests in a header.
DIGITS = 6
#: Of the stream of a probe's latents.
PROBE = 2**41
#: About how far a probe's latents lie from zero, in units of sigma.
FAR = 2.0


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """With so many threads of torch, by which the order of its sums may go."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Arithmetic(ABC):
    """Of a codec."""

    name: ClassVar[str]
    cure: ClassVar[str]

    @abstractmethod
    def model(self, model: ScoreModel) -> ScoreModel:
        """The model in this arithmetic."""

    @abstractmethod
    def around(self) -> AbstractContextManager[Any]:
        """In which all but the network is worked out."""

    @abstractmethod
    def record(self, ladder: Ladder, sizes: Sequence[int]) -> dict[str, Any]:
        """What a file says of it, with the digest of numbers that were worked out for batches of these sizes."""

    def as_recorded(self, record: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Work as a file's encoder did."""
        return nullcontext()

    def require(self, record: Mapping[str, Any], ladder: Ladder, sizes: Sequence[int]) -> None:
        """Refuse a file whose numbers are not those of this machine.

        Raises:
            InputError: they are others.
        """
        own = self.record(ladder, sizes)[self.name]
        said = record[self.name]
        if own["probe"] != said["probe"]:
            others = [f"; {name} {said[name]} there, {own[name]} here" for name in own if own[name] != said[name]]
            told = f"numbers worked out here in {self.name} arithmetic are not the encoder's"
            raise InputError(f"{told}{''.join(others)}; {self.cure}")


class Float32(Arithmetic):
    """torch's own."""

    name = "float32"
    cure = "decode where it was encoded, or encode in exact arithmetic"

    def model(self, model: ScoreModel) -> ScoreModel:
        return model

    def around(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def record(self, ladder: Ladder, sizes: Sequence[int]) -> dict[str, Any]:
        ends = sorted({1, *sizes[-1:]})
        said = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "probe": probe(ladder, ends)}
        return {self.name: said}

    def as_recorded(self, record: Mapping[str, Any]) -> AbstractContextManager[None]:
        """With the encoder's number of threads."""
        return with_threads(record[self.name]["threads"])


class Exact(Arithmetic):
    """Order-independent."""

    name = "exact"
    cure = "decode with the packages that encoded it"

    @cached_property
    def _module(self) -> Any:
        """Imported when it is used: it takes its time."""
        return import_module("score_sde_analytic.coding.exact")

    def model(self, model: ScoreModel) -> ScoreModel:
        return self._module.exact_model(model)

    def around(self) -> AbstractContextManager[Any]:
        return self._module.ExactArithmetic()

    def record(self, ladder: Ladder, sizes: Sequence[int]) -> dict[str, Any]:
        return {self.name: {"probe": probe(ladder, [1])}}


ARITHMETICS: dict[str, Arithmetic] = {"float32": Float32(), "exact": Exact()}


def arithmetic_of(record: Mapping[str, Any], own: Arithmetic) -> Arithmetic:
    """The codec's own arithmetic, in which a file must have been encoded.

    Raises:
        InputError: it was encoded in another.
    """
    if own.name not in record:
        other = ", ".join(record)
        raise InputError(f"it was encoded in {other} arithmetic, not in {own.name}: decode it with arithmetic={other!r}")
    return own


def require_repeatable(ladder: Ladder) -> None:
    """Refuse numbers that no decoder will find again.

    Raises:
        RunError: they are random.
    """
    if probe(ladder, [1]) != probe(ladder, [1]):
        raise RunError("the network does not answer twice the same, and what it encoded would be lost: call net.eval()")


def probe(ladder: Ladder, sizes: Sequence[int]) -> str:
    """Digest of the prior, and of the laws of some latents and of pixels, at three positions, in batches of these sizes."""
    sha = hashlib.sha256(b"".join(np.ascontiguousarray(array, "<f8").tobytes() for array in ladder.top))
    for size in sizes:
        for k in sorted({0, ladder.last // 2, ladder.last}):
            symbols = _symbols(ladder, k, size)
            if k == ladder.last:
                arrays = ladder.coded_data(symbols).parts
            else:
                law = ladder.coded(k, symbols)
                arrays = [law.mean, law.std]
            for array in arrays:
                sha.update(np.ascontiguousarray(array, "<f8").tobytes())
    return sha.hexdigest()[:DIGITS]


def _symbols(ladder: Ladder, k: int, size: int) -> Any:
    """Latents of a probe: even within `FAR` sigma."""
    reach = max(1, round(FAR * ladder.levels[k].sigma / ladder.widths[k]))
    return (key(PROBE + k, size * ladder.dim, 2 * reach + 1) - reach).astype(np.int32)
