"""What a setting or an argument may be, said once: a check gives the plain value back, or says what is allowed.

An argument is checked where it enters, `steps = whole(1)("steps", steps)`. Settings declare the checks of their fields in
their types, and apply them all when they are made:

    @dataclass(frozen=True)
    class Knots:
        count: Annotated[int, whole(1)] = 50

        def __post_init__(self) -> None:
            settle(self)

NaN passes no check, and the scalars of numpy and torch become Python's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from score_sde_analytic.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Check(Generic[T]):
    """A law that one value keeps.

    Attributes:
        allowed: what may stand there, as in "a whole number of at least 1".
        read: the plain value; raises TypeError, ValueError or OverflowError for one that is not allowed.
    """

    allowed: str
    read: Callable[[Any], T]

    def __call__(self, name: str, value: Any) -> T:
        """The plain value.

        Raises:
            InputError: it is not allowed; the message says what is.

        >>> number(above=0)("rtol", np.float32(0.5))
        0.5
        """
        try:
            return self.read(value)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            near = error.near if isinstance(error, MisspeltError) else ""
            raise InputError(f"{name} must be {self.allowed}, got {value!r}{near}") from error


class MisspeltError(ValueError):
    """A name that is near to a known one."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.near = hint(name, known)


def scalar(value: Any) -> Any:
    """A scalar of numpy, or a tensor without dimensions, as Python's own; anything else as it is.

    >>> scalar(np.int64(7)), scalar(torch.tensor(0.5)), scalar("7")
    (7, 0.5, '7')
    """
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def whole(least: int | None = None, most: int | None = None) -> Check[int]:
    """A whole number within these ends; a boolean is none.

    >>> whole(1)("steps", np.int64(3))
    3
    >>> whole(1)("steps", 0.5)
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: steps must be a whole number of at least 1, got 0.5
    """

    def read(value: Any) -> int:
        plain = scalar(value)
        if type(plain) is not int:
            raise TypeError
        # What no machine counts to is a slip.
        return _kept(plain, -(2**63) < plain < 2**63 and _within(plain, least, most))

    return Check(f"a whole number{_ends(least, most)}", read)


def number(
    least: float | None = None, most: float | None = None, *, above: float | None = None, below: float | None = None
) -> Check[float]:
    """A number within these ends, finite unless an end is infinite itself.

    >>> number(above=0)("tolerance", float("nan"))
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: tolerance must be a finite number above 0, got nan
    """
    infinite = math.inf in (least, most) or -math.inf in (least, most)

    def read(value: Any) -> float:
        plain = scalar(value)
        if type(plain) not in (int, float):
            raise TypeError
        inside = (above is None or plain > above) and (below is None or plain < below) and _within(plain, least, most)
        return _kept(float(plain), inside and (infinite or math.isfinite(plain)))

    strict = [f"{word} {end:g}" for word, end in (("above", above), ("below", below)) if end is not None]
    ends = f" {' and '.join(strict)}" if strict else ""
    return Check(f"a {'' if infinite else 'finite '}number{ends}{_ends(least, most)}", read)


def flag() -> Check[bool]:
    """True or False.

    >>> flag()("clamp", np.True_)
    True
    """

    def read(value: Any) -> bool:
        return _kept(scalar(value), type(scalar(value)) is bool)

    return Check("True or False", read)


def text() -> Check[str]:
    """A string."""
    return Check("a string", lambda value: _kept(value, isinstance(value, str)))


def one_of(names: Iterable[str]) -> Check[str]:
    """One of these names; the message has the nearest.

    >>> one_of(["mean", "draw"])("final", "draws")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: final must be one of mean, draw, got 'draws'; did you mean 'draw'?
    """
    known = tuple(names)

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if value not in known:
            raise MisspeltError(value, known)
        return value

    some = [name for name in known if name]
    choices = f"{'one of ' * (len(known) > 2 or some == list(known))}{', '.join(some)}"
    return Check(f"{choices} or empty" if "" in known else choices, read)


def named(parse: Callable[[str], Any], what: str) -> Check[str]:
    """A string that `parse` understands; what it refuses, it refuses in its own words."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        parse(value)
        return value

    return Check(what, read)


def hint(name: str, known: Iterable[str]) -> str:
    """A question for the nearest known name, to end a message; nothing where none is near.

    >>> hint("residal", ["beta", "residual"])
    "; did you mean 'residual'?"
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error of a name that is not known.

    >>> unknown("grid", "evn", ["even", "dp"])
    InputError("unknown grid 'evn'; choose one of even, dp; did you mean 'even'?")
    """
    names = [choice for choice in known if choice]
    near = hint(name, names)
    return InputError(f"unknown {what} {name!r}; choose one of {', '.join(names)}{near}")


def each(check: Check[T], least: int = 0, most: int | None = None) -> Check[tuple[T, ...]]:
    """A tuple of so many values that keep a check, from any list, tuple or array.

    >>> each(whole(1))("steps", [5, 10])
    (5, 10)
    >>> each(whole(1))("steps", (5, 0))
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: steps must be values, each a whole number of at least 1, got (5, 0)
    """

    def read(value: Any) -> tuple[T, ...]:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        items = tuple(value)
        return tuple(check.read(item) for item in _kept(items, _within(len(items), least, most)))

    count = f"{least} values" if least == most else "at least one value" if least == 1 else "values"
    return Check(f"{count}, each {check.allowed}", read)


def optional(check: Check[T]) -> Check[T | None]:
    """The same, or None.

    >>> optional(whole(2))("levels", None) is None
    True
    """
    return Check(f"{check.allowed}, or None", lambda value: None if value is None else check.read(value))


def or_none(check: Check[int]) -> Check[int]:
    """The same, or 0 for none.

    >>> or_none(whole(4))("judged", 0)
    0
    """

    def read(value: Any) -> int:
        plain = scalar(value)
        return 0 if type(plain) is int and plain == 0 else check.read(plain)

    return Check(f"{check.allowed}, or 0 for none", read)


@cache
def checks_of(cls: Any) -> Mapping[str, Check[Any]]:
    """The checks that the types of a class' fields declare, by field."""
    hints = get_type_hints(cls, include_extras=True)
    declared = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: check for name, found in declared.items() for check in found if isinstance(check, Check)}


def settle(settings: Any, within: str = "") -> None:
    """Check all fields of a frozen dataclass by their types, and keep the plain values.

    Args:
        within: what messages put before a field's name, as "compare.".

    Raises:
        InputError: naming the first field that is not allowed.
    """
    for name, check in checks_of(type(settings)).items():  # type: ignore[arg-type]
        object.__setattr__(settings, name, check(f"{within}{name}", getattr(settings, name)))


def _kept(value: T, allowed: bool) -> T:
    if not allowed:
        raise ValueError
    return value


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _ends(least: float | None, most: float | None) -> str:
    if least is not None and most is not None and most != math.inf:
        return f" from {_shown(least)} to {_shown(most)}"
    return f" of at least {_shown(least)}" if least is not None else f" of at most {_shown(most)}" if most is not None else ""


def _shown(end: float) -> str:
    return str(end) if isinstance(end, int) else f"{end:g}"


#: Seeds of streams of random numbers.
SEED = whole(0, 2**63 - 1)
#: How many of something: more than a billion are a slip.
COUNT = whole(1, 10**9)
#: The same, or 0 for none or all.
COUNT_OR_NONE = whole(0, 10**9)
#: A log signal-to-noise ratio in nats: beyond lies nothing that a float64 tells from signal or noise alone.
LOG_SNR = number(-100.0, 100.0)
