"""One network that all processes of a run train, each on its rows of every batch; gradients are averaged by accelerate.

The random numbers of a step are those of the whole batch in every process, so that the curve is that of one process up to the
rounding of sums over the batch. What is decided by losses is decided by those of all rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from score_sde_analytic import processes
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.models.receipt import charge, metered


@dataclass(frozen=True)
class Part:
    """The rows of a batch that this process computes, one after the other.

    Attributes:
        start, stop: of the rows.
        size: of the whole batch.
    """

    start: int
    stop: int
    size: int

    @classmethod
    def of(cls, size: int) -> Part:
        """That of this process.

        >>> Part.of(64)
        Part(start=0, stop=64, size=64)

        Raises:
            InputError: fewer rows than processes.
        """
        count, number = processes.count(), processes.number()
        if size < count:
            raise InputError(f"a batch of {size} does not suffice {count} processes: raise batch_size or start fewer")
        return cls(size * number // count, size * (number + 1) // count, size)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """To take them from the whole batch."""
        return slice(self.start, self.stop)

    def mean(self, values: Float[Tensor, " ..."]) -> Float[Tensor, ""]:
        """What this process gives to the mean over the batch, which is the mean of what all give.

        >>> Part(0, 2, 2).mean(torch.tensor([1.0, 2.0]))
        tensor(1.5000)
        """
        return values.mean() * (len(self) * processes.count() / self.size)

    def whole(self, values: Float[Tensor, " rows"]) -> Float[Tensor, " batch"]:
        """The values of all rows, from those of every process's own."""
        return torch.cat(processes.exchanged(values))

    @contextmanager
    def charged(self, source: object) -> Iterator[None]:
        """Receipts of `source` count what the block asks of it for the whole batch, the calls of all processes as one."""
        with metered(source) as cost:
            yield
        costs = processes.exchanged(cost)
        charge(
            source,
            evaluations=sum(each.evaluations for each in costs) - cost.evaluations,
            vector_products=sum(each.vector_products for each in costs) - cost.vector_products,
        )

    def dropout(self) -> WholeDropout:
        """Inside the block, dropout draws for the whole batch."""
        return WholeDropout(self)


class WholeDropout(TorchFunctionMode):
    """Dropout of some rows of a batch, as the whole batch would see it."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        called = func if func is not functional.dropout or len(self.part) == self.part.size else self._dropout
        return called(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Rows of the batch may be split further, as heads of attention are."""
        if not training:
            return x
        each = len(x) // len(self.part)
        strides = torch.empty_like(x).stride()[1:]  # draws go in the order of the memory
        shape = (each * self.part.size, *x.shape[1:])
        ones = torch.empty_strided(shape, (x[0].numel(), *strides), dtype=x.dtype, device=x.device).fill_(1.0)
        return x * functional.dropout(ones, p)[each * self.part.start : each * self.part.stop]


def mixed(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Inside the block, products of matrices and convolutions are of this precision.

    Raises:
        InputError: the launcher was told another: it decides what is learned, and belongs to the recipe.
    """
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told not in ("no", "bf16" if dtype is torch.bfloat16 else "no"):
        raise InputError(f"the launcher asks for the mixed precision {told}: leave it out, and set train.precision='bfloat16'")
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def together(net: nn.Module, device: torch.device) -> nn.Module:
    """The network to be called in training: its gradients are the means over all processes. Itself, where there is one.

    Raises:
        MissingExtraError: several processes, and accelerate is not installed.
    """
    if processes.count() == 1:
        return net
    return _accelerator(device.type == "cpu").prepare_model(net, device_placement=False)


@cache
def _accelerator(cpu: bool) -> Any:
    """The one of this process; the number of threads, which decides the last bits, is for others to set."""
    accelerate = optional("accelerate", extra="scale", user="training in several processes")
    threads = torch.get_num_threads()
    made = accelerate.Accelerator(cpu=cpu, mixed_precision="no")
    torch.set_num_threads(threads)
    return made


class Loss(nn.Module):
    """A loss as the output of a module that holds what it trains: `forward` is the only call whose gradients are averaged."""

    def __init__(self, net: nn.Module, loss: Callable[..., Float[Tensor, ""]]) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, *given: Any) -> Float[Tensor, ""]:
        return self.loss(self.net, *given)
