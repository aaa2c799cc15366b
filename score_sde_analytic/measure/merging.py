"""The shards of a pass, measured by independent jobs, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_sde_analytic.declared import reading
from score_sde_analytic.files import load_arrays
from score_sde_analytic.measure.estimation import Observer
from score_sde_analytic.measure.moments import KIND, Moments
from score_sde_analytic.shards import parts_of


def merge_passes(path: str | Path, observers: Mapping[str, Observer] | None = None) -> Moments:
    """Write at `path` the pass whose shards lie beside it, as `estimate` wrote them under this path with `Budget.shard`.

    Args:
        observers: of the pass, which know how to put together what they kept.

    Raises:
        MissingFileError: a shard is missing.
        InputError: shards of different passes, one that is not finished, or a damaged file.

    >>> from score_sde_analytic.measure import Budget, estimate
    >>> for i in range(2):
    ...     _ = estimate(model, data, [0.0, 4.0], Budget(shard=(i, 2)), path="moments.safetensors", progress=False)
    >>> merge_passes("moments.safetensors").draws
    array([3000., 3000.])
    """
    files = parts_of(path)
    first = {name: value for name, value in Moments.load(files[0]).fingerprint.items() if name != "shard"}
    moments = Moments.merge([Moments.load(file, first) for file in files])
    kept = [load_arrays(file, KIND)[0] for file in files]
    observed: dict[str, np.ndarray] = {}
    for name, observer in (observers or {}).items():
        with reading(path):
            parts = [{k.removeprefix(f"{name}/"): v for k, v in a.items() if k.startswith(f"{name}/")} for a in kept]
            observed |= {f"{name}/{k}": v for k, v in observer.merge(parts).items()}
    moments.save(path, observed)
    return moments
