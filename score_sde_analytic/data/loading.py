"""Items of a data set, read ahead by worker processes where the order in which they will be asked for is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

#: Items that a worker reads at once.
CHUNK = 16


class Ahead:
    """A map-style data set whose items are there sooner, and the same.

    >>> items = Ahead([10, 11, 12], workers=0)
    >>> items.expect([2, 0])
    >>> items[2], items[1]
    (12, 11)

    Args:
        items: map-style.
        workers: processes; 0 reads an item when it is asked for.
        options: of torch's DataLoader: worker_init_fn, prefetch_factor, multiprocessing_context, ..
    """

    def __init__(self, items: Any, workers: int, **options: Any) -> None:
        self.dataset = items
        self.workers = workers
        self._options = options
        self._expected: deque[int] = deque()
        self._coming: Iterator[Any] = iter(())

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> Any:
        """The data set behind a loader, read by as many workers as it has."""
        if not loader.num_workers:
            return loader.dataset
        names = ("worker_init_fn", "prefetch_factor", "multiprocessing_context", "timeout")
        return cls(loader.dataset, loader.num_workers, **{name: getattr(loader, name) for name in names})

    def __len__(self) -> int:
        return len(self.dataset)

    def expect(self, indices: Iterable[int]) -> None:
        """Begin to read items that will be asked for in this order; another order is served too, without the workers."""
        self._expected = deque()
        self._coming = iter(())
        if self.workers:
            self._coming = self._read(iter(indices))

    def __getitem__(self, index: int) -> Any:
        item = next(self._coming, None)
        if item is not None and self._expected.popleft() == index:
            return item[0]
        self.expect(())
        return self.dataset[index]

    def _read(self, indices: Iterator[int]) -> Iterator[Any]:
        """Items in their order, each in a tuple, while the workers are ahead of it."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=self._chunks(indices),
            num_workers=self.workers,
            collate_fn=_as_tuples,
            generator=torch.Generator(),  # the caller's stream of random numbers is left alone
            **self._options,
        )
        for chunk in loader:
            yield from chunk

    def _chunks(self, indices: Iterator[int]) -> Iterator[list[int]]:
        while chunk := [int(i) for i in islice(indices, CHUNK)]:
            self._expected.extend(chunk)
            yield chunk


def _as_tuples(items: list[Any]) -> list[tuple[Any]]:
    return [(item,) for item in items]
