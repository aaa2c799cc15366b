"""A study in a folder: what was measured, what was decided, and what was made of it.

study.safetensors         settings, shape, range and statistics of the data, and the arrays of recorded bases
moments*.safetensors      the pass, with what was recorded
curve_*.safetensors       the fitted curves
covariances/*.safetensors the structured covariances that were asked for
free.safetensors          the Gaussian that is the prior "gaussian", with its price
grids/*.json              the grids by dynamic programming that were asked for
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.data import bases
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.declared import reading, require_arrays, shape_of
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, plain, read_json, save_arrays, write_json
from score_sde_analytic.grids.grid import SHAPE as GRID
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure import statistics
from score_sde_analytic.measure.curve import NoiseCurve, Source
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.moments import KIND as MOMENTS
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.summed import SummingRecorder
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.study import free
from score_sde_analytic.study.names import CovarianceName
from score_sde_analytic.study.record import Kept, Record
from score_sde_analytic.study.settings import Knots, Search, Settings, Structure
from score_sde_analytic.study.structures import moments_file

KIND = "study"
GRIDS = "grids of a study"
FILE = "study.safetensors"
#: Before the name of a condition among the arrays.
CONDITION = "condition."
COUNT = range(1 << 63)
_SETTINGS = shape_of(Settings)
#: Of the metadata; a shrinkage without end is null.
SHAPE = {
    "settings": _SETTINGS | {"structure": _SETTINGS["structure"] | {"shrinkage": [(float, None)]}},
    "seed": int,
    "shape": [COUNT],
    "dtype": {"float16", "bfloat16", "float32", "float64"},
    "data_range": ([(float, None)], None),
    "statistics": {"count": COUNT, "variance": float, "digest": str},
    "recorded": {str: {"basis": {"name": str}, "statistics": {str: {"name": str}}}},
    "free?": bool,
    "kept": {"covariances": [str], "best": (str, None), "grids": [str]},
}


def save(study: Record, curves: Mapping[Source, NoiseCurve], kept: Kept, folder: str | Path) -> list[Path]:
    """Write a study; returns what was written."""
    target = Path(folder)
    written = [target / FILE, moments_file(target, study.recorders)]
    save_arrays(written[0], _arrays(study), _metadata(study, kept))
    observed = {f"{name}/{key}": array for name, r in study.recorders.items() for key, array in r.arrays().items()}
    study.moments.save(written[1], observed)
    for source, curve in curves.items():
        written.append(target / f"curve_{source}.safetensors")
        curve.save(written[-1])
    for name, covariance in kept.covariances.items():
        written.append(_covariance_file(target, name))
        covariance.save(written[-1], study.moments.fingerprint["model"])
    if study.free is not None:
        written.append(target / free.FILE)
        free.save(study.free, written[-1])
    for name, grids in kept.grids.items():
        written.append(_grids_file(target, name))
        write_json(written[-1], GRIDS, {"grids": {steps: grid.content() for steps, grid in grids.items()}})
    return written


def load(folder: str | Path, model: ScoreModel, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The fields of a saved record of this model.

    Raises:
        FileNotFoundError, ValueError: a missing or damaged file, or one of another model; the message says what differs.
    """
    source = Path(folder)
    arrays, metadata = load_arrays(source / FILE, KIND, shape=SHAPE)
    with reading(source / FILE):
        require_arrays(arrays, _of_statistics(metadata), source / FILE)
        recorded = {name: _recorder(name, config, arrays) for name, config in metadata["recorded"].items()}
    file = moments_file(source, recorded)
    expected = {
        "model": model.fingerprint(),
        "data": metadata["statistics"]["digest"],
        "seed": metadata["seed"],
        "observers": metadata["recorded"],
    }
    moments = Moments.load(file, expected)
    observed = load_arrays(file, MOMENTS)[0]
    with reading(file):
        for name, recorder in recorded.items():
            recorder.restore({key.removeprefix(f"{name}/"): a for key, a in observed.items() if key.startswith(f"{name}/")})
    declared = metadata["data_range"]
    with reading(source / FILE):
        return {
            "model": model,
            "moments": moments,
            "statistics": _statistics(metadata["statistics"], arrays),
            "data_range": None if declared is None else DataRange(*declared),
            "shape": tuple(metadata["shape"]),
            "recorders": recorded,
            "settings": _settings(metadata["settings"]),
            "seed": metadata["seed"],
            "device": device,
            "dtype": getattr(torch, metadata["dtype"]),
            "conditions": _conditions(arrays),
            "free": free.load(source / free.FILE) if metadata.get("free") else None,
            "kept": _kept(metadata["kept"], source, model),
        }


def _conditions(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    given = {name: array for name, array in arrays.items() if name.startswith(CONDITION)}
    return {name.removeprefix(CONDITION): torch.from_numpy(array.copy()) for name, array in given.items()}


def _of_statistics(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The arrays of a study besides those of bases."""
    shape = metadata["shape"]
    levels = "levels" if metadata["data_range"] is None else metadata["data_range"][-1]
    mean = " ".join(["float64", *map(str, shape)])
    return {"mean": mean, "eigenvalues?": f"float64 {math.prod(shape)}", "histogram?": f"float64 {levels}"}


def _metadata(study: Record, kept: Kept) -> dict[str, Any]:
    declared = study.data_range
    return {
        "kind": KIND,
        "settings": plain(asdict(study.settings)),
        "seed": study.seed,
        "shape": list(study.shape),
        "dtype": str(study.dtype).removeprefix("torch."),
        "data_range": None if declared is None else [declared.lo, declared.hi, declared.levels],
        "statistics": {name: getattr(study.statistics, name) for name in ("count", "variance", "digest")},
        "recorded": {name: recorder.config() for name, recorder in study.recorders.items()},
        "free": study.free is not None,
        "kept": {
            "covariances": [str(name) for name in kept.covariances],
            "best": None if kept.best is None else str(kept.best),
            "grids": [str(name) for name in kept.grids],
        },
    }


def _arrays(study: Record) -> dict[str, np.ndarray]:
    known = study.statistics
    arrays = {"mean": known.mean.numpy(), "eigenvalues": known.eigenvalues, "histogram": known.histogram}
    arrays |= {CONDITION + name: rows.numpy() for name, rows in study.conditions.items()}
    for name, recorder in study.recorders.items():
        arrays |= {f"{name}/{key}": array for key, array in bases.to_arrays(recorder.basis).items()}
    return {name: array for name, array in arrays.items() if array is not None}


def _recorder(name: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Recorder:
    mine = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    basis = bases.from_config(config["basis"], mine)
    known = {key: statistics.from_config(settings) for key, settings in config["statistics"].items()}
    return SummingRecorder(basis, known, config["summed"]["bins"]) if "summed" in config else Recorder(basis, known)


def _statistics(scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> DataStatistics:
    mean = torch.from_numpy(arrays["mean"].copy())
    return DataStatistics(
        scalars["count"], mean, scalars["variance"], arrays.get("eigenvalues"), scalars["digest"], arrays.get("histogram")
    )


def _settings(content: Mapping[str, Any]) -> Settings:
    """The settings as they were, lists being tuples again."""
    inner = {"knots": Knots, "structure": Structure, "search": Search}
    made = {name: cls(**_tuples(content[name])) for name, cls in inner.items()}
    plain = {f.name: content[f.name] for f in fields(Settings) if f.name not in inner}
    return Settings(**_tuples(plain), **made)


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples; an entry without a value is a number without end."""
    ends = {None: math.inf}
    lists = {name: tuple(ends.get(item, item) for item in value) for name, value in content.items() if isinstance(value, list)}
    return {**content, **lists}


def _kept(content: Mapping[str, Any], folder: Path, model: ScoreModel) -> Kept:
    names = [CovarianceName.parse(name) for name in content["covariances"]]
    covariances = {name: Diagonal.load(_covariance_file(folder, name), model.fingerprint()) for name in names}
    optimised = [CovarianceName.parse(name) for name in content["grids"]]
    grids = {name: _read_grids(_grids_file(folder, name)) for name in optimised}
    return Kept(covariances, content["best"] and CovarianceName.parse(content["best"]), grids)


def _covariance_file(folder: Path, name: CovarianceName) -> Path:
    return folder / "covariances" / f"{name.label}.safetensors"


def _grids_file(folder: Path, name: CovarianceName) -> Path:
    return folder / "grids" / f"dp_{name.label}.json"


def _read_grids(path: Path) -> dict[int, Grid]:
    content = read_json(path, GRIDS, {"grids": {str: GRID}}, "delete it and save the study again")["grids"]
    grids = {steps: Grid.of_content(grid, path) for steps, grid in content.items()}
    if not grids or any(str(grid.steps) != steps for steps, grid in grids.items()):
        raise InputError(f"{path} does not hold grids of the steps that it names; delete it and save the study again")
    return {grid.steps: grid for grid in grids.values()}
