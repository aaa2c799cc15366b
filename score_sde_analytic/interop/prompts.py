"""Prompts as conditions: each one embedded once by the pipeline's own encoders, and given to the examples that have it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import Dataset

from score_sde_analytic.errors import InputError

#: Prompts per call of the encoders.
BATCH = 16
#: Of `encode_prompt`, as far as a pipeline's has them.
ALONE = {"prompt_2": None, "prompt_3": None, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}


@torch.no_grad()
def embedded(pipe: Any, prompts: Sequence[str], places: Mapping[str, int]) -> dict[str, Shaped[Tensor, "prompts ..."]]:
    """What the network is given of each prompt, on the host.

    Args:
        places: its arguments, and their places in what `encode_prompt` returns.
    """
    known = inspect.signature(pipe.encode_prompt).parameters
    settings = {name: value for name, value in (ALONE | {"device": pipe.device}).items() if name in known}
    rows: dict[str, list[Tensor]] = {name: [] for name in places}
    for start in range(0, len(prompts), BATCH):
        encoded = pipe.encode_prompt(prompt=list(prompts[start : start + BATCH]), **settings)
        for name, place in places.items():
            rows[name].append(encoded[place].float().cpu())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def prompts_of(data: Any, told: str | Sequence[str], count: int) -> list[str]:
    """One prompt for each of so many examples: a column of the data by its name, one for each, or one for all.

    >>> prompts_of([{"image": 0, "text": "a cat"}], "text", 1), prompts_of([], ["a cat"], 3)
    (['a cat'], ['a cat', 'a cat', 'a cat'])

    Raises:
        InputError: no such column, another number of prompts, or something other than words.
    """
    prompts = _column(data, told) if isinstance(told, str) else list(told)
    if len(prompts) == 1:
        prompts = prompts * count
    if len(prompts) != count:
        raise InputError(f"{len(prompts)} prompts for {count} examples; give one for each, or a list of one for all")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError("prompts are words: a list of them, or the name of the column of the data that holds them")
    return prompts


def _column(data: Any, name: str) -> list[Any]:
    if callable(getattr(data, "column", None)):
        return list(data.column(name))
    try:
        return list(data[name]) if isinstance(data, Mapping) else [data[i][name] for i in range(len(data))]
    except (LookupError, TypeError) as error:
        raise InputError(
            f"the data have no column {name!r} of prompts; name theirs, or give a list: one for each example, or one for all"
        ) from error


class Prompted(Dataset[Any]):
    """Examples with the embeddings of their prompts: (x_0, {name: row}).

    Args:
        dataset: x_0, or (x_0, conditions).
        prompts: one per example.
        rows: what is given of each of `distinct`.
        distinct: every prompt once.
    """

    def __init__(
        self, dataset: Any, prompts: Sequence[str], rows: Mapping[str, Shaped[Tensor, "prompts ..."]], distinct: Sequence[str]
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        place = {prompt: i for i, prompt in enumerate(distinct)}
        self._places = [place[prompt] for prompt in prompts]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        item, row = self.dataset[index], self._places[index]
        x_0, conditions = item if isinstance(item, tuple) else (item, {})
        return x_0, {**conditions, **{name: values[row] for name, values in self.rows.items()}}


def prompted(pipe: Any, dataset: Any, prompts: Sequence[str], places: Mapping[str, int]) -> Prompted:
    """Examples with what the network is given of their prompts."""
    distinct = list(dict.fromkeys(prompts))
    return Prompted(dataset, prompts, embedded(pipe, distinct, places), distinct)
