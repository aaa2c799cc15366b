"""Samplers as plain data: those that call the network once a step, which is when a pipeline calls it.

{"name": "UniPC", "order": 3, ..}    settings by their names; covariances and tables by their own content
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from score_sde_analytic.arrays import packed, unpacked
from score_sde_analytic.checks import unknown
from score_sde_analytic.covariance import of_content
from score_sde_analytic.declared import reading, require_arrays, require_shape
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.models.free import ARRAYS, LinearDenoiser
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
)
from score_sde_analytic.samplers.starts import Start

SOLVERS: dict[str, type[Sampler[Any]]] = {
    kind.__name__: kind for kind in (Ancestral, AnalyticMultistep, TableSampler, DPMSolverPP, UniPC, DEIS, IPNDM)
}
#: Settings that are objects, and what reads their content.
PARTS = {"covariance": of_content, "table": Table.of_content}


START = {"basis": {"name": str}, "arrays": {str: dict}}


def of_sampler(sampler: Sampler[Any], start: LinearDenoiser | None = None) -> dict[str, Any]:
    """The plain data of a sampler.

    >>> of_sampler(UniPC(model, order=3))
    {'name': 'UniPC', 'order': 3, 'solver_type': 'bh2', 'lower_order_final': True}

    Args:
        start: what its runs begin with; None for noise, or a table's own.

    Raises:
        UnsupportedError: it calls the network more than once a step, or holds what plain data cannot tell.
    """
    name = type(sampler).__name__
    if name not in SOLVERS:
        raise UnsupportedError(
            f"{sampler.name} does not call the network just once a step, as pipelines do; known are {', '.join(SOLVERS)}"
        )
    settings = {each.name: getattr(sampler, each.name) for each in fields(sampler) if each.name != "model"}  # type: ignore[arg-type]
    told = {"name": name} | {key: value.content() if key in PARTS else value for key, value in settings.items()}
    return told if start is None else told | {"start": _of_start(start)}


def _of_start(start: LinearDenoiser) -> dict[str, Any]:
    return {"basis": start.basis.config(), "arrays": {name: packed(array) for name, array in start.arrays().items()}}


def sampler_of(content: Mapping[str, Any], model: ScoreModel, path: str) -> tuple[Sampler[Any], Start | None]:
    """The sampler of plain data, for another model, and what its runs begin with.

    Raises:
        InputError: an unknown name, or settings that it does not take.
    """
    name = content["name"]
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    with reading(path):
        settings = {key: _part(key, value, path) for key, value in content.items() if key not in ("name", "start")}
        made = SOLVERS[name](model, **settings)  # type: ignore[call-arg]
        return made, _start(content["start"], path) if "start" in content else made.beginning


def _start(content: Mapping[str, Any], path: str) -> LinearDenoiser:
    require_shape(dict(content), START, path)
    arrays = {name: unpacked(array) for name, array in content["arrays"].items()}
    require_arrays(arrays, ARRAYS, path)
    return LinearDenoiser.of_arrays(arrays, content["basis"])


def _part(key: str, value: Any, path: str) -> Any:
    read: Any = PARTS.get(key)
    return value if read is None else read(value, path)
