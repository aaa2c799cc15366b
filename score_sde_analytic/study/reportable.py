"""What a report asks of a study, and the lines of code that make the same study and report again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.data.examples import Data, Rows
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import Bound, Chain, ContinuousTime, Priced
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.curve import NoiseCurve, ResidualCap
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.conditions import OfSamples
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers import Sampler
from score_sde_analytic.study.names import CovarianceName
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.search import GridSearch
from score_sde_analytic.study.settings import Settings
from score_sde_analytic.study.structures import Structures
from score_sde_analytic.study.table import Bits


class Reportable(Protocol):
    """What a report asks of a study; `Study` says what each means."""

    @property
    def model(self) -> ScoreModel: ...
    @property
    def moments(self) -> Moments: ...
    @property
    def statistics(self) -> DataStatistics: ...
    @property
    def data_range(self) -> DataRange | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def recorders(self) -> Mapping[str, Recorder]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> torch.device | str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def heads(self) -> Callable[[str], str | Path] | None: ...
    @property
    def free(self) -> Judged | None: ...
    @property
    def conditions(self) -> Rows: ...
    @property
    def marks(self) -> tuple[str, ...]: ...
    @property
    def of_samples(self) -> OfSamples | None: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def curve(self) -> NoiseCurve: ...
    @property
    def cap(self) -> ResidualCap: ...
    @property
    def calibration(self) -> dict[str, Any]: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    @property
    def structures(self) -> Structures: ...
    @property
    def search(self) -> GridSearch: ...

    def plan(self, sampler: Sampler[Any], grid: Grid, **how: Any) -> SamplingPlan: ...
    def linear(self, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"] | None: ...
    def resolve(self, name: str | CovarianceName = "") -> CovarianceName: ...
    def covariance(self, name: str | CovarianceName = "") -> Covariance: ...
    def chain(self, steps: int, grid: str = ..., covariance: str = "") -> Chain: ...
    def priceable(self, chain: Chain) -> bool: ...
    def price(self, methods: Mapping[str, Chain | ContinuousTime]) -> dict[str, Priced]: ...
    def first(self) -> tuple[float, Decoder]: ...
    def continuous(self) -> ContinuousTime: ...
    def steps_for(self, excess: float) -> int: ...
    def measure(self, data: Data, *steps: int, **names: Any) -> Bits[Bound]: ...
    def sampler(self, steps: int, grid: str = ..., covariance: str = "") -> SamplingPlan: ...
    def fewest(self, steps: int, **options: Any) -> SamplingPlan: ...


IMPORTS = """from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.study import Knots, Search, Settings, Structure, analyse
"""


def code(study: Reportable, request: Any, measured: bool) -> str:
    """The lines that repeat a report, given the model and the data."""
    fingerprint = study.moments.fingerprint
    budget = Budget(groups=fingerprint["groups"], **fingerprint["settings"])
    recorded = tuple(str(name) for name in study.structures.names)
    arguments = [
        "model",
        "data",
        repr(study.data_range),
        f"record={recorded!r}",
        f"settings={call(study.settings)}",
        f"budget={call(budget)}",
        f"seed={study.seed}",
    ]
    asked = [f"{field.name}={getattr(request, field.name)!r}" for field in fields(request)]
    shown = ['"report"', *(["test_data"] if measured else []), *asked]
    heads = [] if study.heads is None else ["study = study.with_heads(folder)"]
    return "\n".join([IMPORTS, _lines("study = analyse", arguments), *heads, _lines("study.report", shown)])


def _lines(function: str, arguments: list[str]) -> str:
    """A call with an argument on each line."""
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), ")"])


def call(value: Any) -> str:
    """The code of a dataclass with defaults, which are left out.

    >>> call(Budget(max_draws=400))
    'Budget(max_draws=400)'
    """
    default = type(value)()
    changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != getattr(default, f.name)}
    arguments = [f"{name}={call(item) if is_dataclass(item) else repr(item)}" for name, item in changed.items()]
    return f"{type(value).__name__}({', '.join(arguments)})"
