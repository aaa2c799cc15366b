"""What a network is conditioned on: its further keyword arguments, a row per example, or one value that holds for all.

Classes, embeddings and images alike; what the network does with them is its own affair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from score_sde_analytic.arrays import sent
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import weights_digest

#: How conditions reach a network.
WAYS = (
    "give it by the data, Examples(data, conditions={{'{0}': ...}}), to generate(conditions=), as model.given({0}=...), or in"
    " the runner config.network.condition='{0}'"
)


@dataclass(frozen=True, eq=False)
class Constant:
    """A condition that is the same for all examples, such as the embedding of one prompt; plain numbers are constants anyway.

    >>> Conditions.of({"embedding": Constant(torch.zeros(4)), "label": 3}).arguments(2)["embedding"].shape
    torch.Size([2, 4])

    Attributes:
        value: of one example, without an axis of examples.
    """

    value: Shaped[Tensor, " ..."]


@dataclass(frozen=True, eq=False)
class Conditions:
    """Keyword arguments of a network, for one batch or for any.

    Attributes:
        rows: by name, one row per example of the batch.
        constants: by name, of one example.

    >>> conditions = Conditions.of({"label": torch.tensor([3, 4, 5]), "strength": 0.5})
    >>> conditions.part(slice(1, 3)).arguments(2)
    {'strength': tensor([0.5000, 0.5000]), 'label': tensor([4, 5])}
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Conditions:
        """Tensors and arrays are rows; numbers, tensors without an axis and `Constant`s hold for all examples.

        Raises:
            InputError: something else.
        """
        if not isinstance(given, Mapping):
            raise InputError(f"conditions are a mapping of the network's arguments to values, got {type(given).__name__}")
        values = {name: _tensor(name, value) for name, value in given.items()}
        rows = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return cls(rows, {name: value.value for name, value in values.items() if isinstance(value, Constant)})

    def __bool__(self) -> bool:
        return bool(self.rows or self.constants)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all."""
        return (*self.constants, *self.rows)

    def replaced(self, by: Conditions) -> Conditions:
        """These, with others in place of those of the same names."""
        rows = {name: value for name, value in self.rows.items() if name not in by.constants}
        constants = {name: value for name, value in self.constants.items() if name not in by.rows}
        return Conditions({**rows, **by.rows}, {**constants, **by.constants})

    def to(self, device: torch.device | str) -> Conditions:
        """Where the network is, so that they are not sent there call by call."""
        own, of_all = ({name: sent(v, device) for name, v in part.items()} for part in (self.rows, self.constants))
        return Conditions(own, of_all)

    def only(self, names: Iterable[str]) -> Conditions:
        """Some of them."""
        kept = set(names)
        rows, constants = ({name: v for name, v in own.items() if name in kept} for own in (self.rows, self.constants))
        return Conditions(rows, constants)

    def part(self, rows: slice) -> Conditions:
        """Of some examples of the batch."""
        return Conditions({name: value[rows] for name, value in self.rows.items()}, self.constants)

    def arguments(self, count: int) -> dict[str, Shaped[Tensor, " {count} ..."]]:
        """All of them with one row per example of a batch of so many.

        Raises:
            InputError: there are more or fewer rows.
        """
        for name, value in self.rows.items():
            if len(value) != count:
                raise InputError(
                    f"the condition {name} has {len(value)} rows for {count} examples; give one row per example, or"
                    f" Constant(value) for what holds for all"
                )
        constants = {name: value.expand(count, *value.shape) for name, value in self.constants.items()}
        return constants | dict(self.rows)

    def fingerprint(self) -> dict[str, str]:
        """Identity of what holds for all examples; that of the rows is their data's."""
        return {name: weights_digest({name: value})[:16] for name, value in sorted(self.constants.items())}


#: Of a network that is given nothing.
NONE = Conditions()
#: Of samples: by name, one row per sample, or what gives them for samples by their indices.
OfSamples = Mapping[str, Any] | Callable[[range], Mapping[str, Any]]


def of_samples(given: OfSamples | None, indices: range) -> Conditions:
    """Those of all the samples of some indices.

    >>> of_samples(lambda indices: {"label": torch.tensor(indices) % 2}, range(3, 6)).rows
    {'label': tensor([1, 0, 1])}

    Raises:
        InputError: not one row per sample.
    """
    conditions = Conditions.of(given(indices) if callable(given) else {} if given is None else given)
    conditions.arguments(len(indices))
    return conditions


def _tensor(name: str, value: Any) -> Tensor | Constant:
    """Rows, or what holds for all."""
    if isinstance(value, Constant):
        return Constant(torch.as_tensor(value.value))
    if isinstance(value, bool | int | float):
        return Constant(torch.tensor(value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise InputError(
            f"the condition {name} is {type(value).__name__}; give a tensor of a row per example, a number, or Constant(tensor)"
        )
    return value if value.ndim else Constant(value)


def told(name: str, rows: Shaped[Tensor, " batch ..."]) -> str:
    """A condition in words, classes by the least and the greatest.

    >>> told("class_labels", torch.tensor([3, 11]))
    'class_labels torch.int64 (2,), 3 to 11'
    """
    words = f"{name} {rows.dtype} {tuple(rows.shape)}"
    return f"{words}, {rows.min()} to {rows.max()}" if rows.dtype == torch.int64 and rows.numel() else words


def refuse_bound_rows(net: Any) -> None:
    """Refuse a network to which functools.partial has bound the rows of some batch: they would meet the rows of others.

    Raises:
        InputError: it names the argument.

    >>> refuse_bound_rows(functools.partial(mixture, label=torch.tensor([1, 2])))
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: functools.partial binds the 2 rows of label to every batch, whose examples they
    do not follow; give it by the data, Examples(data, conditions={'label': ...}), to generate(conditions=), as
    model.given(label=...), or in the runner config.network.condition='label'
    """
    while isinstance(net, functools.partial):
        _refuse_rows({**{f"argument {place}": value for place, value in enumerate(net.args)}, **net.keywords})
        net = net.func


def _refuse_rows(bound: Mapping[str, Any]) -> None:
    for name, value in bound.items():
        if isinstance(value, Mapping):
            _refuse_rows(value)
        elif isinstance(value, Tensor | np.ndarray) and value.ndim and len(value) > 1:
            raise InputError(
                f"functools.partial binds the {len(value)} rows of {name} to every batch, whose examples they do not follow;"
                f" {WAYS.format(name)}"
            )
