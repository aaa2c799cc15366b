"""Where the conditions of examples are: in every item by key or position, or beside the items, a row per example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from score_sde_analytic.arrays import copied
from score_sde_analytic.errors import InputError


@dataclass(frozen=True)
class Places:
    """Of every condition, by the name of the network's argument.

    Attributes:
        inside: its key or position in an item; None for all that items (x_0, {name: value}) have.
        columns: those beside the items, a row per example.

    >>> Places.of({"class_labels": 1}, None, 4).at(0, ("picture", 7))
    {'class_labels': 7}
    """

    inside: Mapping[str, str | int] | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Mapping[str, Any] | None, data: Mapping[str, Any] | None, count: int) -> Places:
        """As a user names them.

        Args:
            data: the columns of the data, where they are given as such.
            count: examples.

        Raises:
            InputError: a column of another length, or that is no column.
        """
        if named is None:
            return cls()
        if not isinstance(named, Mapping):
            raise InputError(f"conditions are a mapping of the network's arguments to columns, got {type(named).__name__}")
        found = {name: _column(data, place) for name, place in named.items()}
        inside = {name: place for name, place in found.items() if isinstance(place, str | int)}
        columns = {name: _rows(name, place, count) for name, place in found.items() if name not in inside}
        return cls(inside, columns)

    def at(self, index: int, item: Any) -> dict[str, Any]:
        """The conditions of one item."""
        beside = {name: rows[index] for name, rows in self.columns.items()}
        own = item[1] if isinstance(item, tuple | list) and len(item) > 1 and isinstance(item[1], Mapping) else None
        if self.inside is None:
            return beside | dict(own or {})
        return beside | {name: _found(item if own is None else own, name, place) for name, place in self.inside.items()}


def _column(data: Mapping[str, Any] | None, place: Any) -> Any:
    return data[place] if data is not None and isinstance(place, str) and place in data else place


def _rows(name: str, column: Any, count: int) -> Tensor:
    """A column as a tensor of a row per example."""
    array = np.asarray(column) if isinstance(column, list | tuple | range) else column
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        array = copied(array)
    if not isinstance(array, Tensor) or array.ndim == 0 or len(array) != count:
        given = f"{tuple(array.shape)}" if hasattr(array, "shape") else type(column).__name__
        raise InputError(
            f"the condition {name} is {given} for {count} examples; name a key or a position in the items, or give rows"
        )
    return array


def _found(item: Any, name: str, place: str | int) -> Any:
    try:
        return item[place]
    except (LookupError, TypeError) as error:
        holds = ", ".join(map(repr, item)) if isinstance(item, Mapping) else f"{type(item).__name__}"
        raise InputError(f"no {place!r} for the condition {name} in an item of the data, which is {holds}") from error
