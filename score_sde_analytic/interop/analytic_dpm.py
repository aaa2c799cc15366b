"""Analytic-DPM and Extended-Analytic-DPM: their files of E||eps_hat||^2 / d as noise curves, and curves as their files.

A file is a numpy array of N + 1 float32 that torch.save wrote. Entry n, 1 .. N, belongs to t = n / N; entry 0 is unused:

    ms_eps[n] = E||eps_hat||^2 / d = Lambda = 1 - R,   cov_x_0 = (1 - alpha_bar_n) / alpha_bar_n * (1 - ms_eps[n]) = V0

so their variances are those of `Isotropic(curve, max_posterior_variance=1)`, whose grids and kernels may be any.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from score_sde_analytic.arrays import Array, numbers
from score_sde_analytic.data.pickled import STANDING_IN, PickledArray
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.interpolant import determines_y, y_of
from score_sde_analytic.models.checkpoints import torch_content
from score_sde_analytic.process.schedule import Schedule

MEASURED = (
    "ms_eps of Analytic-DPM: measured by its authors' code on the data that the network was trained on, in float32, without"
    " standard errors; of the score, so that prices (bits/dim, optimal grids) need a pass of one's own"
)


def load_ms_eps(path: str | Path, schedule: Schedule) -> NoiseCurve:
    """The curve that a file of theirs holds, with its values at the times n / N; what it was measured on is its remark.

    >>> from score_sde_analytic import Tabulated
    >>> save_ms_eps(curve, Tabulated.linear(), "ms_eps.pth")
    >>> loaded = load_ms_eps("ms_eps.pth", Tabulated.linear())
    >>> loaded.source, float(abs(loaded.residual(0.0) - curve.residual(0.0))) < 1e-4
    ('score', True)

    Args:
        schedule: of the network, which the file does not say; a table has as many steps as the file.

    Raises:
        MissingFileError: there is no such file.
        InputError: it would run code, is damaged, no array of N + 1 numbers, of another N than the table, or none has a
            Lambda in (0, 1).
    """
    ms_eps = _array(Path(path))
    steps = len(ms_eps) - 1
    _check_steps(schedule, steps, f"{path} holds a table for {steps} steps")
    log_snr = np.asarray(schedule.log_snr(np.arange(steps, 0, -1) / steps))
    residual = 1.0 - ms_eps[:0:-1]
    usable = determines_y(residual) & np.isfinite(log_snr)
    if not usable.any():
        raise InputError(f"no value of {path} lies in (0, 1) as E||eps_hat||^2 / d of a network does; is it a file of ms_eps?")
    lost = len(usable) - int(usable.sum())
    remarks = [MEASURED, *([f"{lost} of {steps} values are not in (0, 1): interpolated there"] if lost else [])]
    digest = hashlib.sha256(ms_eps.tobytes()).hexdigest()[:16]
    said = {"ms_eps": digest, "schedule": schedule.config()}
    y = y_of(residual[usable], log_snr[usable])
    return NoiseCurve(log_snr[usable], y, "score", said, tuple(remarks))


def save_ms_eps(curve: NoiseCurve, schedule: Schedule, path: str | Path, steps: int = 0) -> None:
    """Write 1 - R at the times n / N for their code; of a curve of the residual, their variances become optimal for it.

    Args:
        steps: N; 0 for that of a table.

    Raises:
        InputError: a schedule without a table, and no N; or another N than the table's.
    """
    steps = steps or len(getattr(schedule, "betas", ()))
    if not steps:
        raise InputError(f"their files hold one value per step of a table, and {schedule} has none: give steps=, as N")
    _check_steps(schedule, steps, f"steps={steps}")
    lam = np.asarray(schedule.log_snr(np.arange(1, steps + 1) / steps))
    torch.save(np.append(0.0, 1.0 - np.asarray(curve.residual(lam))).astype(np.float32), path)


def _check_steps(schedule: Schedule, steps: int, what: str) -> None:
    betas = getattr(schedule, "betas", None)
    if betas is not None and len(betas) != steps:
        raise InputError(f"{what}, the schedule one for {len(betas)}: give the schedule of the same network")


def _array(path: Path) -> Array:
    """N + 1 finite numbers."""
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}; name that of ms_eps, as their train or calc script wrote it")
    content = torch_content(path, STANDING_IN)
    try:
        known = content.numbers("f4", "f8").astype(np.float64) if isinstance(content, PickledArray) else content
        table = numbers("ms_eps", known)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no ms_eps, N + 1 numbers ({error})") from error
    if table.ndim != 1 or len(table) < 2:
        raise InputError(f"{path} holds no ms_eps, N + 1 numbers, but an array of shape {table.shape}")
    return table
