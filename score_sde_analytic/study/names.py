"""The names that settings, tables and files speak in, parsed once into values that print themselves.

covariance    "beta", "residual", "pca", "dct|high_frequency" (a basis given a statistic), "npr", "npr|uncalibrated", "auto"
grid          "dp", "refined", "even", "even_tuned" (with a first time of its own), "FOLDER/grid.json"
chain         "dp/pca/10": a grid, a covariance, a number of steps
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from score_sde_analytic.checks import named, unknown
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.head_networks import HEADS
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde
from score_sde_analytic.data.bases import BASES
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid, even, even_log_snr, karras, quadratic
from score_sde_analytic.grids.optimal import Objective, closed_form, entropic, refined
from score_sde_analytic.measure.curve import Source
from score_sde_analytic.measure.statistics import STATISTICS
from score_sde_analytic.process.schedule import Schedule

#: Covariances that nothing has to be measured for.
HANDCRAFTED: dict[str, Callable[[], Covariance]] = {"beta": Beta, "beta_tilde": BetaTilde}
#: Curves of the moments, each with the isotropic covariance that it makes optimal.
SOURCES: tuple[Source, ...] = ("residual", "score")
ALIASES = {"isotropic": "residual", "zero": "beta_tilde"}
#: The network's own Jacobian, and the best of what was recorded.
TWEEDIE, AUTO = "tweedie", "auto"
UNCALIBRATED = "uncalibrated"

#: Grids that the schedule alone decides: (schedule, steps, first time) -> Grid; they may begin below t = 1, at `top`.
GRIDS: dict[str, Callable[..., Grid]] = {
    "even": lambda schedule, *asked, **begun: even(*asked, **begun),
    "quadratic": lambda schedule, *asked, **begun: quadratic(*asked, **begun),
    "log_snr": even_log_snr,
    "karras": karras,
}
#: Grids that follow from the curve, whatever the covariance.
FROM_CURVE: dict[str, Callable[[Schedule, Objective, int], Grid]] = {
    "closed_form": closed_form,
    "refined": refined,
    "entropic": entropic,
}
#: Grids by dynamic programming: for the covariance at hand, and for beta-tilde.
DP, KLUB = "dp", "klub"


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name].

    Raises:
        InputError: no such name; the message lists the choices.
    """
    if name not in table:
        raise unknown(what, name, table)
    return table[name]


def construct(table: Mapping[str, Callable[..., Any]], settings: Mapping[str, Any], what: str) -> Any:
    """Build table[settings["name"]] with the remaining settings as arguments.

    Raises:
        InputError: no such name, or settings that it does not take.

    >>> construct({"even": even}, {"name": "even", "steps": 2, "first": 0.1}, "grid").times
    (1.0, 0.1, 0.0)
    """
    arguments = dict(settings)
    make = choose(table, arguments.pop("name", ""), what)
    try:
        signature(make).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{what} {settings['name']!r} does not take these settings: {error}") from error
    return make(**arguments)


@dataclass(frozen=True)
class CovarianceName:
    """A covariance as settings name it.

    Attributes:
        base: a handcrafted one, a source of the curve, a basis, a head, "tweedie" or "auto".
        given: a basis' statistic, or "uncalibrated" of a head; else empty.

    >>> CovarianceName.parse("dct|high_frequency").given
    'high_frequency'
    """

    base: str
    given: str = ""

    def __str__(self) -> str:
        return f"{self.base}|{self.given}" if self.given else self.base

    @property
    def title(self) -> str:
        """As text that a table can hold: "dct given high_frequency"."""
        return str(self).replace("|", " given ")

    @property
    def label(self) -> str:
        """A name that a file can have: "dct_given_high_frequency"."""
        return str(self).replace("|", "_given_")

    @property
    def structured(self) -> bool:
        """Whether it is diagonal in a basis, so that the pass of the moments must record it."""
        return self.base in BASES

    @property
    def learned(self) -> bool:
        """Whether it is a head's."""
        return self.base in HEADS

    @classmethod
    def parse(cls, text: str | CovarianceName) -> CovarianceName:
        """The covariance that a name means, its alias spelt out.

        Raises:
            InputError: an unknown covariance, basis or statistic.

        >>> print(CovarianceName.parse("isotropic"))
        residual
        """
        if isinstance(text, CovarianceName):
            return text
        if not isinstance(text, str):
            raise InputError(f"a covariance is asked for by its name, got {text!r}")
        spelled, bar, given = text.partition("|")
        base = ALIASES.get(spelled, spelled)
        if base in BASES:
            return cls(base, _statistic(base, given) if bar else "")
        if base in HEADS:
            if bar and given != UNCALIBRATED:
                raise InputError(f"unknown covariance {text!r}; a head is {base!r} or '{base}|{UNCALIBRATED}'")
            return cls(base, given)
        if bar or base not in {*HANDCRAFTED, *SOURCES, TWEEDIE, AUTO}:
            choices = [*HANDCRAFTED, *ALIASES, *SOURCES, *BASES, "BASIS|STATISTIC", TWEEDIE, *HEADS, AUTO]
            raise unknown("covariance", text, choices)
        return cls(base)

    @classmethod
    def known(cls, text: str) -> bool:
        """Whether a name means a covariance."""
        try:
            cls.parse(text)
        except InputError:
            return False
        return True


def _statistic(base: str, given: str) -> str:
    if not given:
        raise InputError(f"'{base}|' names no statistic; write {base!r}, or '{base}|high_frequency'")
    choose(STATISTICS, given, "statistic")
    return given


def covariance_names(texts: Iterable[str | CovarianceName]) -> tuple[CovarianceName, ...]:
    """The covariances that names mean, each once, in order; empty names are left out.

    >>> [str(name) for name in covariance_names(["isotropic", "residual", "", "pca|energy"])]
    ['residual', 'pca|energy']
    """
    return tuple(dict.fromkeys(CovarianceName.parse(text) for text in texts if text))


@dataclass(frozen=True)
class GridName:
    """A grid as settings name it.

    Attributes:
        kind: "dp", "klub", one that follows from the curve, or one that the schedule decides.
        tuned: with the first time that is best for it.
        file: where it is read from; None for a kind.

    >>> GridName.parse("even_tuned")
    GridName(kind='even', tuned=True, file=None)
    """

    kind: str
    tuned: bool = False
    file: Path | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return str(self.file)
        return f"{self.kind}_tuned" if self.tuned else self.kind

    @property
    def label(self) -> str:
        """A name that a file can have: a saved grid is known by its own."""
        return str(self) if self.file is None else self.file.stem

    @property
    def fixed(self) -> bool:
        """Whether schedule and first time alone decide it."""
        return self.kind in GRIDS and not self.tuned

    @property
    def optimised(self) -> bool:
        """Whether it is optimised for a covariance, whose price must be known."""
        return self.kind == DP or (self.kind in GRIDS and self.tuned)

    @classmethod
    def parse(cls, text: str | GridName) -> GridName:
        """The grid that a name means.

        Raises:
            InputError: an unknown grid.
        """
        if isinstance(text, GridName):
            return text
        if not isinstance(text, str):
            raise InputError(f"a grid is asked for by its name, got {text!r}")
        if text.endswith(".json"):
            return cls("file", file=Path(text))
        kind = text.removesuffix("_tuned")
        tuned = kind != text
        if kind not in ({DP, *GRIDS} if tuned else {DP, KLUB, *FROM_CURVE, *GRIDS}):
            choices = [DP, KLUB, *FROM_CURVE, *GRIDS, *(f"{fixed}_tuned" for fixed in GRIDS)]
            raise unknown("grid", text, [*choices, "FILE.json"])
        return cls(kind, tuned)


#: What settings may name.
COVARIANCE = named(CovarianceName.parse, "the name of a covariance")
GRID = named(GridName.parse, "the name of a grid")


class ChainName(NamedTuple):
    """A chain in a table: grid, covariance, number of steps.

    >>> str(ChainName("dp", "pca", 10))
    'dp/pca/10'
    """

    grid: str
    covariance: str
    steps: int

    def __str__(self) -> str:
        return f"{self.grid}/{self.covariance}/{self.steps}"

    @classmethod
    def parse(cls, text: str) -> ChainName:
        """The chain that a key of a report means; the path of a saved grid may hold slashes."""
        grid, covariance, steps = text.rsplit("/", 2)
        return cls(grid, covariance, int(steps))
