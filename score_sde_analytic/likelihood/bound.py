"""What every likelihood method returns: bits per dimension with errors, parts and one value per example.

Values are nats per dimension inside the package and bits per dimension here, at its edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.uncertainty import Estimate

BITS = 1.0 / math.log(2.0)
KIND = "bound"
AGAIN = "delete it and evaluate again"
ARRAYS = {"terms": "float64 n columns", "indices": "int64 n"}
COUNT = range(1 << 63)
#: Of the metadata.
SHAPE = {"columns": [str], "dim": COUNT, "evaluations": COUNT, "vector_products": COUNT, "identity": dict}


class BitsPerDim:
    """Bits per dimension: a total, the parts that add up to it, and the cost of each transition.

    Attributes:
        parts: by name; "prior", "transitions" and "reconstruction" for variational bounds.
        per_step, per_step_stderr: bits/dim of each transition in visiting order; empty where there are no steps.
        evaluations: network evaluations, one per example and call; those of a shared pass count for each that used them.
    """

    total: Estimate
    parts: Mapping[str, Estimate]
    per_step: Float64[Array, " transitions"]
    per_step_stderr: Float64[Array, " transitions"]
    evaluations: int

    @property
    def prior(self) -> Estimate:
        """KL of the last noise level from the prior (for a flow, -log of the prior's density at the latent)."""
        return self.parts["prior"]

    @property
    def transitions(self) -> Estimate:
        """Sum over steps, or the integral over log-SNR."""
        return self.parts["transitions"]

    @property
    def reconstruction(self) -> Estimate:
        """-log p(x_0 | x_{t_1})."""
        return self.parts["reconstruction"]

    def summary(self) -> dict[str, Any]:
        """Plain data for reports."""
        parts = {name: estimate._asdict() for name, estimate in self.parts.items()}
        steps = {"per_step": self.per_step.tolist(), "per_step_stderr": self.per_step_stderr.tolist()}
        return {"total": self.total._asdict()} | parts | {"evaluations": self.evaluations} | steps


@dataclass(frozen=True)
class Priced(BitsPerDim):
    """A bound priced from the curve; errors are those of the moments."""

    total: Estimate
    parts: Mapping[str, Estimate]
    per_step: Float64[Array, " transitions"]
    per_step_stderr: Float64[Array, " transitions"]
    evaluations: int


@dataclass(frozen=True)
class Bound(BitsPerDim):
    """Measured bits per dimension of examples; standard errors are over examples.

    Attributes:
        columns: part that each column of `terms` belongs to.
        terms: bits/dim of each term of each example.
        indices: of the examples in their data set, ascending.
        dim: d.
        evaluations: network evaluations.
        vector_products: vector-Jacobian products with the network besides, each about two evaluations of work.
        identity: what was measured, on what; shards of one evaluation have it in common.

    >>> bound = study.measure(data, 3, progress=False)[3]
    >>> print(bound.total, bound.calls_per_example)
    1.273 ± 0.062 3.0
    """

    columns: tuple[str, ...]
    terms: Float64[Array, "n columns"]
    indices: Int64[np.ndarray, " n"]
    dim: int
    evaluations: int
    vector_products: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> str:
        """What the bits are of where that is not the data themselves, as "latents"; else nothing."""
        return str(self.identity.get("space", ""))

    @cached_property
    def per_example(self) -> Float64[Array, " n"]:
        """Totals of the examples."""
        return self.terms.sum(1)

    @cached_property
    def total(self) -> Estimate:  # type: ignore[override]
        return Estimate.of(self.per_example)

    @cached_property
    def parts(self) -> dict[str, Estimate]:  # type: ignore[override]
        # A chain of one step has transitions, but no columns of them.
        names = dict.fromkeys([*self.columns, *([] if "volume" in self.columns else ["transitions"])])
        return {name: Estimate.of(self.part(name)) for name in names}

    @cached_property
    def per_step(self) -> Float64[Array, " transitions"]:  # type: ignore[override]
        return self._columns_of("transitions").mean(0)

    @cached_property
    def per_step_stderr(self) -> Float64[Array, " transitions"]:  # type: ignore[override]
        return np.array([Estimate.of(column).stderr for column in self._columns_of("transitions").T])

    def part(self, name: str) -> Float64[Array, " n"]:
        """One part of every example's bits/dim."""
        return self._columns_of(name).sum(1)

    def _columns_of(self, name: str) -> Array:
        return self.terms[:, [i for i, column in enumerate(self.columns) if column == name]]

    @property
    def nats(self) -> Float64[Array, " n"]:
        """-log p in nats per example (not per dimension), the unit of densities of continuous data."""
        return self.per_example * (self.dim / BITS)

    @property
    def calls_per_example(self) -> float:
        """Network evaluations per example (NFE)."""
        return self.evaluations / max(len(self.indices), 1)

    def summary(self) -> dict[str, Any]:
        of = {"of": self.space} if self.space else {}
        return super().summary() | of | {"examples": len(self.indices), "vector_products": self.vector_products}

    def save(self, path: str | Path) -> None:
        """Write as safetensors, atomically."""
        fields = ("columns", "dim", "evaluations", "vector_products", "identity")
        metadata = {"kind": KIND} | {name: getattr(self, name) for name in fields}
        save_arrays(path, {"terms": self.terms, "indices": self.indices}, metadata)

    @classmethod
    def load(cls, path: str | Path, identity: Mapping[str, Any] | None = None) -> Bound:
        """Read a saved, possibly partial, evaluation.

        Raises:
            FileNotFoundError, ValueError: missing or damaged file, or one of another `identity`; the message says what differs.
        """
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder; give a file name, such as {Path(path) / 'bound.safetensors'}")
        arrays, metadata = load_arrays(path, KIND, ARRAYS, SHAPE, AGAIN)
        if identity is not None:
            require_match(path, metadata["identity"], identity)
        names = ("dim", "evaluations", "vector_products", "identity")
        terms, indices, columns = arrays["terms"], arrays["indices"], tuple(metadata["columns"])
        if terms.shape[1] != len(columns) or len(np.unique(indices)) != len(indices) or (indices < 0).any():
            raise InputError(f"{path} is inconsistent: it was changed or is of another version; {AGAIN}")
        return cls(columns, terms, indices, *(metadata[name] for name in names))

    @classmethod
    def merge(cls, shards: Sequence[Bound], partial: bool = False) -> Bound:
        """One evaluation from those of its shards, in the order of the examples.

        Args:
            partial: accept that examples are missing.

        Raises:
            InputError: no shards, shards of different evaluations, an example that occurs twice, or one that is missing.
        """
        if not shards:
            raise InputError("no shards to merge: pass the bounds of all of them")
        for number, shard in enumerate(shards[1:], 2):
            require_match(f"shard {number}", shard.identity, shards[0].identity)
        indices = np.concatenate([shard.indices for shard in shards])
        order = np.argsort(indices, kind="stable")
        if len(np.unique(indices)) != len(indices):
            raise InputError("an example occurs in two shards: pass each shard once")
        total = shards[0].identity.get("examples", len(indices))
        if len(indices) < total and not partial:
            raise InputError(f"the shards hold {len(indices)} of {total} examples; pass all of them, or partial=True")
        return cls(
            columns=shards[0].columns,
            terms=np.concatenate([shard.terms for shard in shards])[order],
            indices=indices[order],
            dim=shards[0].dim,
            evaluations=sum(shard.evaluations for shard in shards),
            vector_products=sum(shard.vector_products for shard in shards),
            identity=shards[0].identity,
        )
