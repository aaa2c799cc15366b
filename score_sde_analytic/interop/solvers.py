"""Samplers as plain data: those that call the network once a step, which is when a pipeline calls it.

{"name": "UniPC", "order": 3, ..}    settings by their names; covariances and tables by their own content
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from score_sde_analytic.checks import unknown
from score_sde_analytic.covariance import of_content
from score_sde_analytic.declared import reading
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    Sampler,
    Table,
    TableSampler,
    UniPC,
    table_of,
)

SOLVERS: dict[str, type[Sampler[Any]]] = {
    kind.__name__: kind for kind in (Ancestral, AnalyticMultistep, TableSampler, DPMSolverPP, UniPC, DEIS, IPNDM)
}
#: Settings that are objects, and what reads their content.
PARTS = {"covariance": of_content, "table": Table.of_content}


def of_sampler(sampler: Sampler[Any], grid: Grid, start: LinearDenoiser | None = None) -> dict[str, Any]:
    """The plain data of a sampler; a deterministic one that begins elsewhere than at z is read out as a table.

    >>> from score_sde_analytic import grids
    >>> of_sampler(UniPC(model, order=3), grids.even(5, 0.01))
    {'name': 'UniPC', 'order': 3, 'solver_type': 'bh2', 'lower_order_final': True}

    Args:
        start: what it begins with, as of a plan of samples.

    Raises:
        UnsupportedError: it calls the network more than once a step, or begins elsewhere and takes noise.
    """
    name = type(sampler).__name__
    if name not in SOLVERS:
        raise UnsupportedError(
            f"{sampler.name} does not call the network just once a step, as pipelines do; known are {', '.join(SOLVERS)}"
        )
    if start is not None:
        return {"name": TableSampler.__name__, "table": table_of(sampler, grid, start).content()}
    settings = {each.name: getattr(sampler, each.name) for each in fields(sampler) if each.name != "model"}  # type: ignore[arg-type]
    return {"name": name} | {key: value.content() if key in PARTS else value for key, value in settings.items()}


def sampler_of(content: Mapping[str, Any], model: ScoreModel, path: str) -> Sampler[Any]:
    """The sampler of plain data, for another model.

    Raises:
        InputError: an unknown name, or settings that it does not take.
    """
    name = content["name"]
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    with reading(path):
        given = {key: _part(key, value, path) for key, value in content.items() if key != "name"}
        return SOLVERS[name](model, **given)  # type: ignore[call-arg]


def _part(key: str, value: Any, path: str) -> Any:
    read: Any = PARTS.get(key)
    return value if read is None else read(value, path)
