"""Views of a model: for one batch of examples with what they are conditioned on, and without its clamp.

A view is the model itself in all else: its fingerprint is that of the model, whose receipts and observers see it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.arrays import sent
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.conditions import NONE, WAYS, Conditions


class Views:
    """What has conditions, or is to be given them.

    Args:
        conditions: names of all that it needs, () for none; None passes on what is given.

    Attributes:
        takes: these names.
        bound: the conditions of the batch that this view is for.
        viewed: what this is a view of, or None.
    """

    clamp: Any

    def __init__(self, conditions: Iterable[str] | None) -> None:
        named = (conditions,) if isinstance(conditions, str) else conditions
        self.takes = None if named is None else tuple(named)
        self.bound = NONE
        self.viewed: Self | None = None

    @property
    def guidance(self) -> str:
        """In words, what pushes its predictions off those of the data; empty where nothing does."""
        return ""

    def given(self, **conditions: Any) -> Self:
        """The model on some conditions: a view of it, of the same fingerprint, whose costs its receipts count.

        What is given anew takes the place of what was given before; data leave out what is fixed for all examples, and a call
        or a run that names it is refused.

        Args:
            conditions: by the names of the network's arguments. Tensors have one row per example of a batch, and the view is
                for that batch; a number or `Constant(tensor)` holds for all examples, and is part of the fingerprint.

        Raises:
            InputError: a condition that the network does not take, or neither a tensor nor a number.

        >>> classes = mixture.conditional(model.schedule)
        >>> classes.given(component=torch.tensor([0, 2]))(torch.zeros(2, 2), 0.5).eps.shape
        torch.Size([2, 2])
        """
        return self.conditioned(Conditions.of(conditions)) if conditions else self

    def conditioned(self, conditions: Conditions) -> Self:
        """The view on some more conditions, in place of those of the same names.

        Raises:
            InputError: one that the model does not take.
        """
        for name in conditions.names:
            if self.takes is not None and name not in self.takes:
                raise InputError(f"the model takes no condition {name!r} but {', '.join(self.takes) or 'none'}")
        return self.on(self.bound.replaced(conditions))

    def asked(self, conditions: Conditions) -> Self:
        """The view on conditions of a call or of samples, besides those that are fixed for all examples.

        Raises:
            InputError: one that the model does not take, or that is fixed.

        >>> classes = mixture.conditional(model.schedule).given(component=1)
        >>> classes(torch.zeros(1, 2), 0.5, component=2)
        Traceback (most recent call last):
            ...
        score_sde_analytic.errors.InputError: component is fixed for all examples by given(component=...): leave it out here, or
        fix it anew, model.given(component=...)
        """
        for name in conditions.names:
            if name in self.bound.constants:
                raise InputError(
                    f"{name} is fixed for all examples by given({name}=...): leave it out here, or fix it anew,"
                    f" model.given({name}=...)"
                )
        return self.conditioned(conditions)

    def for_batch(self, conditions: Mapping[str, Shaped[Tensor, " batch ..."]], device: torch.device | str = "cpu") -> Self:
        """The view for a batch of data, on those of its conditions that are `wanted`.

        >>> model.for_batch({"label": torch.tensor([0, 2])}) is model  # which takes none
        True
        """
        return self.given(**{name: sent(conditions[name], device) for name in self.wanted(conditions)})

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Of the conditions of data, those that it takes and that are not fixed for all examples."""
        taken = (name for name in names if self.takes is None or name in self.takes)
        return [name for name in taken if name not in self.bound.constants]

    def of_run(self, seed: int, indices: Iterable[int]) -> Self:
        """The view for some samples of a run, by what it says of them that follows from which they are (`drawn`)."""
        return self.given(**self.drawn(seed, indices))

    def drawn(self, seed: int, indices: Iterable[int]) -> dict[str, Shaped[Tensor, " batch ..."]]:
        """Conditions that are made of a run's seed and of the indices of its samples: none, but of a model that draws."""
        return {}

    def rows(self, part: slice) -> Self:
        """The view for some examples of the batch that this one is for."""
        return self.on(self.bound.part(part)) if self.bound.rows else self

    def on(self, conditions: Conditions) -> Self:
        """The view on these conditions, in place of all others."""
        view = copy.copy(self)
        view.bound = conditions
        view.viewed = self
        return view

    @property
    def branches(self) -> int:
        """Evaluations of the network for a sample of a call, at most."""
        return 1

    def unclamped(self) -> Self:
        """The view that leaves x_0 as the network has it."""
        view = self.on(self.bound)
        view.clamp = None
        return view

    def arguments(self, x: Float[Tensor, " batch *dims"]) -> dict[str, Shaped[Tensor, " batch ..."]]:
        """The conditions, a row for every example of x, where x is and in its precision.

        Raises:
            InputError: one is missing, or has another number of rows.
        """
        if self.takes:
            missing = next((name for name in self.takes if name not in self.bound.names), None)
            if missing is not None:
                raise InputError(f"the network needs the condition {missing}: {WAYS.format(missing)}")
        if not self.bound:
            return {}
        rows = self.bound.arguments(len(x))
        fed = {name: value.to(x.dtype) if value.is_floating_point() else value for name, value in rows.items()}
        return {name: sent(value, x.device) for name, value in fed.items()}
