"""Disjoint parts of data after one seeded permutation, of examples or of whole groups of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils.data import Subset

from score_sde_analytic.checks import Check, each, number, scalar, whole
from score_sde_analytic.errors import InputError

Indices = Int64[np.ndarray, " _"]


def _size(value: Any) -> float:
    share = isinstance(scalar(value), float) and scalar(value) < 1
    return number(0, 1).read(value) if share else whole(0).read(value)


#: Of a part.
SIZE: Check[float] = Check("a number of examples, or a share of them below 1", _size)


@overload
def split(
    x: Shaped[Tensor, " n *dims"], sizes: Sequence[float], seed: int, groups: Sequence[Hashable] | None = ...
) -> list[Shaped[Tensor, " _ *dims"]]: ...
@overload
def split(x: Any, sizes: Sequence[float], seed: int, groups: Sequence[Hashable] | None = ...) -> list[Subset[Any]]: ...
def split(x: Any, sizes: Sequence[float], seed: int, groups: Sequence[Hashable] | None = None) -> list[Any]:
    """Disjoint parts of the given sizes: of a tensor tensors, of any other data views that read nothing.

    >>> [part.tolist() for part in split(torch.arange(5), (3, 2), seed=0)]
    [[2, 4, 3], [0, 1]]

    Args:
        x: n examples.
        sizes: numbers of examples; or shares of n, which are less than 1.
        groups: of every example; those of one group stay together. No part has more than its size, and it lacks fewer examples
            than the largest group has, as long as there are groups left.

    Raises:
        InputError: the parts need more examples than there are, or a part has no group that fits into it.
    """
    indices = part_indices(len(x), sizes, seed, groups)
    if isinstance(x, Tensor):
        return [x[torch.from_numpy(part)] for part in indices]
    return [Subset(x, part.tolist()) for part in indices]


def part_indices(total: int, sizes: Sequence[float], seed: int, groups: Sequence[Hashable] | None = None) -> list[Indices]:
    """The examples of every part, as `split` deals them out.

    >>> [sorted(part.tolist()) for part in part_indices(6, (4, 2), seed=0, groups="aabbcc")]
    [[0, 1, 4, 5], [2, 3]]
    """
    counts = part_counts(total, sizes)
    seed = whole(0)("seed", seed)
    if sum(counts) > total:
        raise InputError(f"the split {tuple(sizes)} needs {sum(counts)} examples, the data set has {total}")
    rng = np.random.default_rng(seed)
    if groups is None:
        return np.split(rng.permutation(total)[: sum(counts)], np.cumsum(counts)[:-1])
    if len(groups) != total:
        raise InputError(
            f"there are {len(groups)} groups for {total} examples; give that of every example, as images(...).column(name) does"
        )
    return _whole_groups(groups, counts, rng)


def part_counts(total: int, sizes: Sequence[float]) -> list[int]:
    """The examples that sizes ask for, which are numbers of them or shares of all.

    >>> part_counts(50, (0.8, 5))
    [40, 5]
    """
    return [int(size * total + 1e-9) if 0 < size < 1 else int(size) for size in each(SIZE)("sizes", sizes)]


def _whole_groups(groups: Sequence[Hashable], counts: Sequence[int], rng: np.random.Generator) -> list[Indices]:
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    left = [list(members.values())[i] for i in rng.permutation(len(members))]
    parts = []
    for count in counts:
        taken: list[int] = []
        others = []
        for together in left:
            if len(taken) + len(together) <= count:
                taken += together
            else:
                others.append(together)
        if count and not taken:
            raise InputError(f"no group fits into a part of {count} examples; give larger parts, or smaller groups")
        parts.append(np.array(taken, dtype=np.int64))
        left = others
    return parts
