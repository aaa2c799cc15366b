"""Tables: every explicit sampler with K calls is K (K + 3) / 2 + 1 weights.

xh_K      = o_K mu + U^T [w_K U z],   z ~ N(0, I)
xh_{k-1}  = o_{k-1} mu + U^T [W_{k,z} U z + sum_{j >= k} W_{k,j} U (m_j - mu)],   m_j = x0_hat(xh_j, lam_j)

where xh_0 is the sample, in variance-preserving coordinates x / sqrt(alpha^2 + sigma^2), so that one table serves every
schedule. A row's weights are numbers, or one per coefficient of the basis U. K past predictions are kept while it runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import Array, Cast, numbers, onto, packed, unpacked
from score_sde_analytic.data import bases
from score_sde_analytic.data.basis import Basis, PixelChannel
from score_sde_analytic.declared import reading, require_arrays, require_shape
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, plain, require_match, save_arrays
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers.base import Sampler, Step, intervals
from score_sde_analytic.uncertainty import Estimate

KIND = "sampler table"
AGAIN = "delete it and fit it again"
ARRAYS = {"log_snrs": "float64 k", "shifts": "float64 _", "mean": "float64 ..."}
SETTINGS = {"label": str, "basis": dict, "facts": {str: float}}
SHAPE = SETTINGS | {"network": (dict, None)}


@dataclass(frozen=True, eq=False)
class Table:
    """Where a sampler calls the network, and how it weighs what it has.

    Attributes:
        log_snrs: of the K calls, ascending.
        rows: K + 1 of them; row i weighs the 1 + i terms (z, m_K - mu, ..), with a number each, (1 + i,), or one per
            coefficient, (1 + i, *shape). The last gives the sample.
        shifts: o, the share of the mean in each state; none at all stand for zeros.
        mean: mu, of an example's shape; a number for tables that know none.
        basis: U.
        label: the sampler's name.
        network: fingerprint of the only model that it may be used with; None for any.
        facts: numbers worth keeping: the certificate, calls spent on the fit, ..

    Raises:
        InputError: parts that do not fit together.

    >>> Table([0.0], [[1.0], [0.0, 1.0]]).steps
    1
    """

    log_snrs: Array
    rows: tuple[Array, ...]
    shifts: Array = field(default_factory=lambda: np.zeros(0))
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    basis: Basis = field(default_factory=PixelChannel)
    label: str = "table"
    network: Mapping[str, Any] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log_snrs = numbers("log_snrs", self.log_snrs)
        shifts = numbers("shifts", self.shifts) if len(self.shifts) else np.zeros(len(self.rows))
        given = {"log_snrs": log_snrs, "rows": tuple(numbers("rows", row) for row in self.rows), "shifts": shifts}
        given["mean"] = torch.as_tensor(self.mean).detach().cpu().double()
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self._require_fit()

    def _require_fit(self) -> None:
        if self.log_snrs.ndim != 1 or len(self.log_snrs) == 0 or np.any(np.diff(self.log_snrs) <= 0):
            raise InputError(f"the log-SNRs of a table's calls ascend strictly, got {self.log_snrs}")
        if len(self.rows) != self.steps + 1 or len(self.shifts) != self.steps + 1:
            raise InputError(
                f"{self.steps} calls need {self.steps + 1} rows and shifts, got {len(self.rows)} and {len(self.shifts)}"
            )
        for i, row in enumerate(self.rows):
            if len(row) != i + 1 or (row.ndim > 1 and row.shape[1:] != tuple(self.mean.shape)):
                raise InputError(f"row {i} weighs {i + 1} terms of shape {tuple(self.mean.shape)}, got weights {row.shape}")
        if not np.all(self.rows[0] != 0.0):
            raise InputError("a first state is a multiple of z in every coefficient; none of its weights may be 0")

    @property
    def steps(self) -> int:
        """K, the network calls per sample."""
        return len(self.log_snrs)

    def grid(self, schedule: Schedule) -> Grid:
        """The times of its calls under a schedule, then 0.

        Raises:
            InputError: a call lies outside the schedule.
        """
        return Grid((*np.atleast_1d(schedule.time(self.log_snrs)).tolist(), 0.0), self.label)

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        """xh_K of z ~ N(0, I), in the coordinates of the schedule.

        Args:
            level: of the first call.
        """
        x = onto(z, z.device)
        run = _Run.of(self, x)
        return (replace(run, terms=(self.basis.forward(x),)).state() * level.norm).to(z)

    @cached_property
    def casts(self) -> tuple[Cast, ...]:
        """Mean and rows, sent once to a device."""
        return tuple(map(Cast, (self.mean.numpy(), *self.rows)))

    @cached_property
    def digest(self) -> str:
        """What tells it from other tables."""
        sha = hashlib.sha256(repr((self.basis.config(), [row.shape for row in self.rows])).encode())
        for array in (self.log_snrs, self.shifts, self.mean.numpy(), *self.rows):
            sha.update(array.tobytes())
        return sha.hexdigest()[:16]

    def __str__(self) -> str:
        """What it does, what it cost, and how near it comes to the flow that it was fitted to.

        >>> print(Table([0.0], [[1.0], [0.0, 1.0]]))
        table: network calls per sample 1
        """
        said = [f"{self.label}: network calls per sample {self.steps}"]
        if "certificate" in self.facts:
            paths, fit = self.facts["path_evaluations"], self.facts["fit_evaluations"]
            near = Estimate(self.facts["certificate"], self.facts["certificate_stderr"])
            said.append(f"network evaluations spent on paths {paths:.0f}, on the fit {fit:.0f}")
            said.append(f"mean square distance to the recorded paths per dimension {near:.2g}")
        return "; ".join(said)

    @property
    def starts_from_noise(self) -> bool:
        """Whether the first state, in variance-preserving coordinates, is z itself."""
        return bool(np.all(self.rows[0] == 1.0)) and not float(self.shifts[0]) * self.mean.abs().max()

    def save(self, path: str | Path) -> None:
        """Write it as one file."""
        network = None if self.network is None else plain(self.network)
        save_arrays(path, self._arrays(), {"kind": KIND, "network": network, **self._settings()})

    def content(self) -> dict[str, Any]:
        """It as JSON has it, for any network."""
        return {**self._settings(), "arrays": {name: packed(array) for name, array in self._arrays().items()}}

    def _settings(self) -> dict[str, Any]:
        return {"label": self.label, "basis": self.basis.config(), "facts": dict(self.facts)}

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"row_{i:03d}": row for i, row in enumerate(self.rows)}
        return (
            arrays | {"log_snrs": self.log_snrs, "shifts": self.shifts, "mean": self.mean.numpy()} | bases.to_arrays(self.basis)
        )

    @classmethod
    def load(cls, path: str | Path, basis: Basis | None = None) -> Table:
        """Read what `save` wrote.

        Args:
            basis: the basis itself, needed for one that is not built in.

        Raises:
            MissingFileError: no such file.
            InputError: it is damaged, or of another basis.
        """
        arrays, metadata = load_arrays(path, KIND, ARRAYS, SHAPE, AGAIN)
        with reading(path, AGAIN):
            return cls._of(arrays, metadata, metadata["network"], basis)

    @classmethod
    def of_content(cls, content: Mapping[str, Any], path: str | Path) -> Table:
        """Of a `content` that was read from `path`.

        Raises:
            InputError: it is damaged, or of a basis that is not built in.

        >>> table = Table([0.0], [[1.0], [0.0, 1.0]])
        >>> Table.of_content(table.content(), "here").digest == table.digest
        True
        """
        require_shape(dict(content), {**SETTINGS, "arrays": {str: dict}}, path, AGAIN)
        with reading(path, AGAIN):
            arrays = {name: unpacked(array) for name, array in content["arrays"].items()}
            require_arrays(arrays, ARRAYS, path, AGAIN)
            return cls._of(arrays, content)

    @classmethod
    def _of(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        network: Mapping[str, Any] | None = None,
        basis: Basis | None = None,
    ) -> Table:
        rows = tuple(arrays[f"row_{i:03d}"] for i in range(len(arrays["shifts"])))
        basis = bases.from_config(settings["basis"], arrays, basis)
        mean = torch.from_numpy(arrays["mean"].copy())
        return cls(arrays["log_snrs"], rows, arrays["shifts"], mean, basis, settings["label"], network, settings["facts"])


@dataclass(frozen=True)
class _Run:
    """A table in the precision of a run, and the terms so far, each in the coordinates of the basis."""

    table: Table
    rows: tuple[Tensor, ...]
    mean: Tensor
    terms: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, table: Table, x: Tensor) -> _Run:
        """Before the first term."""
        mean, *rows = (cast.like(x) for cast in table.casts)
        return cls(table, tuple(rows), mean)

    def noise(self, x: Tensor) -> Tensor:
        """The z that leads to a first state, in the coordinates of the basis."""
        return self.table.basis.forward(x - self._shift(0)) / self.rows[0][0]

    def term(self, x_0: Tensor) -> Tensor:
        """What the network said, in the coordinates of the basis."""
        return self.table.basis.forward(x_0 - self.mean)

    def state(self) -> Tensor:
        """What the next row makes of the terms."""
        row = len(self.terms) - 1
        first, *others = zip(self.rows[row], self.terms, strict=True)
        y = first[0] * first[1]
        for weight, term in others:
            y = torch.addcmul(y, weight, term)
        return self.table.basis.inverse(y) + self._shift(row)

    def _shift(self, row: int) -> Tensor:
        return float(self.table.shifts[row]) * self.mean


@dataclass(frozen=True)
class TableSampler(Sampler[Step]):
    """A table at work with a network: K calls per sample, on the table's own grid.

    Args:
        model: the score model.
        table: whose calls and weights are used.

    Raises:
        InputError: the table was fitted to another model.

    >>> from score_sde_analytic import grids, samplers
    >>> table = samplers.table_of(samplers.ProbabilityFlow(model), grids.even(3, 0.01))
    >>> sampler = TableSampler(model, table)
    >>> sampler.name, sampler.calls(sampler.grid)
    ('ProbabilityFlow()', 3)
    """

    model: ScoreModel
    table: Table

    def __post_init__(self) -> None:
        if self.table.network is not None:
            require_match(f"the table {self.table.label}", self.table.network, plain(self.model.fingerprint()))

    @property
    def name(self) -> str:
        return self.table.label

    @property
    def beginning(self) -> Table:  # type: ignore[override]
        """The table's own first state."""
        return self.table

    @property
    def grid(self) -> Grid:
        """The only grid that it takes."""
        return self.table.grid(self.model.schedule)

    def config(self) -> dict[str, Any]:
        return {"name": type(self).__name__, "label": self.table.label, "table": self.table.digest}

    def calls(self, grid: Grid) -> int:
        return self.table.steps

    def plan(self, grid: Grid) -> list[Step]:
        if grid.times != self.grid.times:
            raise InputError(f"{self.name} is for its own times; pass the sampler's grid, or read a table out on this one")
        return intervals(self.model.schedule, grid)

    def init(self, plan: Sequence[Step], x: Float[Tensor, " batch *dims"]) -> Any:
        """z is what leads to x, so that a run may begin with any."""
        run = _Run.of(self.table, x)
        return replace(run, terms=(run.noise(x / plan[0].t.norm),))

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        term = state.term(self.model.predict(x_t, step.t).x_0)
        run = replace(state, terms=(*state.terms, term))
        return run.state() * step.s.norm, run
