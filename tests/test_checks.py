"""Checks of values: what passes, what does not, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
import torch

from score_sde_analytic import checks
from score_sde_analytic.errors import InputError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("seven", [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7)])
def test_scalars_become_plain(seven):
    plain = checks.whole(1)("steps", seven)
    assert (plain, type(plain)) == (7, int)
    assert type(checks.number()("rtol", seven)) is float


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (checks.whole(1, 5), [0, 6, -1, 1.0, NAN, True, "3", None, (3,), np.array([3]), 10**40]),
        (checks.whole(), [2**63, 0.5]),
        (checks.number(), [NAN, INF, -INF, "1", None, True, 1j, 10**400, (1.0,)]),
        (checks.number(above=0.0), [0.0, -1e-300, NAN, INF]),
        (checks.number(0.0, below=1.0), [1.0, -0.1, NAN]),
        (checks.number(0.0, INF), [-1.0, NAN, -INF]),
        (checks.flag(), [1, 0, "True", None]),
        (checks.one_of(["a"]), ["b", "", None, 1, ["a"]]),
        (checks.each(checks.whole(1), 1), [(), (0,), (1, NAN), "12", 5, {1: 2}, None]),
        (checks.each(checks.whole(1), 2, 2), [(1,), (1, 2, 3)]),
        (checks.optional(checks.whole(2)), [1, NAN]),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(check, values):
    for value in values:
        with pytest.raises(InputError, match=r"^part\.field must be "):
            check("part.field", value)


def test_infinity_passes_only_where_it_is_an_end():
    assert checks.number(0.0, INF)("shrinkage", INF) == INF


@dataclass(frozen=True)
class Example:
    count: Annotated[int, checks.whole(1)] = 3
    names: Annotated[tuple[str, ...], checks.each(checks.one_of(["dp", "even"]))] = ()
    other: float = NAN

    def __post_init__(self) -> None:
        checks.settle(self, "part.")


def test_settings_keep_plain_values():
    settings = Example(np.int64(4), ["dp"])
    assert (settings.count, settings.names) == (4, ("dp",))
    assert settings == Example(4, ("dp",), settings.other)
    with pytest.raises(
        InputError, match=r"part\.names must be values, each one of dp, even, got \('evn',\); did you mean 'even'"
    ):
        Example(names=("evn",))


def test_an_empty_name_is_called_empty():
    for names, message in (
        (("gaussian", ""), "must be gaussian or empty, got"),
        (("", "a", "b"), "must be one of a, b or empty, got"),
    ):
        with pytest.raises(InputError, match=message):
            checks.one_of(names)("prior", "nothing")
        assert checks.one_of(names)("prior", "") == ""
