"""Made-up but realistic content of a comparison report, with its sample sheets on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

SOLVERS = [
    ("ddpm_beta", "DDPM, beta", "analytic", "1", False, 60.0, 1.0, ("even", "dp")),
    ("analytic_residual", "Analytic-DPM, residual", "analytic", "1", False, 14.0, 1.0, ("even", "quadratic", "dp")),
    ("analytic_dct", "Analytic-DPM, DCT x colour, conditional", "analytic", "1", False, 10.0, 1.0, ("even", "dp")),
    ("ddim", "DDIM", "ode", "1", True, 22.0, 1.0, ("even", "dp")),
    ("heun", "Heun", "ode", "2", True, 90.0, 2.0, ("karras",)),
    ("dopri5", "Dormand-Prince", "ode", "5(4)", True, 0.0, 0.0, ("adaptive",)),
    ("euler_maruyama", "Euler-Maruyama", "sde", "1/2", False, 75.0, 1.0, ("even",)),
    ("dpm_solver_2m", "DPM-Solver++(2M)", "multistep", "2", True, 30.0, 1.8, ("even", "karras")),
    ("pc", "Predictor-corrector", "corrector", None, False, 95.0, 1.2, ("even",)),
]
BUDGETS = [5, 10, 25, 50, 100]
METRICS = [
    {
        "name": "frechet",
        "label": "Fréchet distance",
        "better": "lower",
        "unit": "classifier features",
        "about": "Distance between Gaussians fitted to features of samples and of held-out data.",
    },
    {
        "name": "mmd",
        "label": "Kernel distance",
        "better": "lower",
        "unit": "",
        "about": "Unbiased squared maximum mean discrepancy; it may come out negative when the two agree.",
    },
    {
        "name": "coverage",
        "label": "Coverage",
        "better": "higher",
        "unit": "share",
        "about": "Share of the data with a sample among their nearest neighbours.",
    },
]


def content(folder: Path, kind: str = "pixels") -> dict[str, Any]:
    """A whole report; `kind` "points" makes the paths those of a planar mixture."""
    rng = np.random.default_rng(0)
    imsave(folder / "data.png", _digits(rng, 0.0), cmap="gray")
    return {
        "title": "Solvers on scikit-learn's digits",
        "data": {"name": "digits", "shape": [1, 8, 8], "test_examples": 297, "reference_examples": 1500, "range": [-1, 1]},
        "command": ".venv/bin/python -m runners.main --mode=compare --config=configs/digits_vp.py --workdir=results/compare",
        "config": {"schedule": {"kind": "linear_vp", "beta_min": 0.1, "beta_max": 20.0}, "compare": {"budgets": BUDGETS}},
        "versions": {"torch": "2.13.0", "numpy": "2.4.0", "score_sde_analytic": "0.1.0"},
        "seed": 0,
        "model": {"kind": "unet", "parameters": 431617, "sha256": "9f2c4d" * 10 + "abcd"},
        "count": 2000,
        "device": "cpu (1 thread)",
        "created": "2026-11-21T09:00:00+00:00",
        "metrics": METRICS,
        "budgets": BUDGETS,
        "solvers": [
            {
                "name": name,
                "label": label,
                "family": family,
                "order": order,
                "deterministic": still,
                "about": f"{label} as its authors describe it, on the grid that each row names.",
            }
            for name, label, family, order, still, *_ in SOLVERS
        ],
        "cells": [cell for solver in SOLVERS for grid in solver[-1] for cell in _cells(solver, grid, folder, rng)],
        "calibration": _calibration(rng),
        "paths": _points(rng) if kind == "points" else _pixels(rng),
        "data_sheet": "data.png",
    }


def _cells(solver: tuple, grid: str, folder: Path, rng: np.random.Generator) -> list[dict[str, Any]]:
    name, _, family, _, _, scale, order, _ = solver
    if grid == "adaptive":
        return [_cell(name, grid, None, 31, 187.4, 0.42, family, folder, rng)]
    better = {"even": 1.0, "quadratic": 0.8, "karras": 0.7, "dp": 0.55}[grid]
    twice = 2 if name in ("heun", "pc") else 1
    found = []
    for budget in BUDGETS:
        if name == "pc" and budget == 5:
            reason = (
                "RuntimeError: 312 of 2000 feature vectors hold NaN or inf: the sampler diverged; lower the corrector's snr"
            )
            found.append(
                {"solver": name, "grid": grid, "budget": 5, "steps": 2, "calls": 4, "status": "failed", "reason": reason}
            )
            continue
        steps = budget // twice
        floor = 0.4 if family != "ode" else 0.42
        value = floor + better * scale * steps**-order * (1.0 + 0.05 * rng.normal())
        found.append(_cell(name, grid, budget, steps, steps * twice, value, family, folder, rng))
    return found


def _cell(
    name: str, grid: str, budget: int | None, steps: int, calls: float, value: float, family: str, folder: Path, rng: Any
) -> dict[str, Any]:
    error = 0.03 + 0.02 * value
    kernel, spread = 0.002 * (value - 0.41), 0.00008 + 0.0001 * value
    covered = 0.95 / (1 + 0.1 * value)
    sheet = f"{name}_{grid}_{budget}.png"
    imsave(folder / sheet, _digits(np.random.default_rng(1), 0.12 * value), cmap="gray")
    return {
        "solver": name,
        "grid": grid,
        "budget": budget,
        "steps": steps,
        "calls": calls,
        "status": "ok",
        "reason": None,
        "metrics": {
            "frechet": {"value": value, "stderr": error, "low": value - 1.96 * error, "high": value + 2.1 * error},
            "mmd": {"value": kernel + spread * rng.normal(), "stderr": spread},
            "coverage": {"value": math.nan if name == "heun" and budget == 5 else covered, "stderr": 0.006},
        },
        "bits": {"value": 1.7 + 0.2 * value / math.sqrt(calls), "stderr": 0.02, "kind": "bound"}
        if family == "analytic"
        else None,
        "seconds_per_sample": 2.1e-4 * calls * (1.1 if family == "analytic" else 1.3),
        "ratio_to_bare": (1.1 if family == "analytic" else 1.3) + 0.3 / calls,
        "sheet": sheet,
    }


def _digits(rng: np.random.Generator, noise: float) -> np.ndarray:
    """A sheet of 5 x 5 blobs of 8 x 8 pixels with a gap of one."""
    sheet = np.zeros((46, 46))
    y, x = np.mgrid[0:8, 0:8]
    for row in range(5):
        for column in range(5):
            cy, cx, radius = rng.uniform(2.5, 4.5, 3)
            ring = np.exp(-((np.hypot(y - cy, x - cx) - radius / 1.8) ** 2))
            sheet[9 * row + 1 : 9 * row + 9, 9 * column + 1 : 9 * column + 9] = ring + noise * rng.normal(size=(8, 8))
    return sheet.clip(0, 1)


def _calibration(rng: np.random.Generator) -> dict[str, Any]:
    log_snr = np.linspace(-9.5, 9, 40)
    residual = 1 / (1 + np.exp(-0.5 * (log_snr - 1)))
    error = 0.001 + 0.004 * residual
    difference = error * rng.normal(size=40) + 0.02 * (log_snr > 6)
    return {
        "log_snr": log_snr.tolist(),
        "difference": difference.tolist(),
        "stderr": error.tolist(),
        "residual": residual.tolist(),
        "noise_power": (1 - residual - difference).tolist(),
    }


def _times(steps: int) -> tuple[np.ndarray, list[float | None]]:
    log_snr = np.linspace(-9.5, 9, steps)
    return np.linspace(1, 0, steps + 1), [*log_snr.tolist(), None]


def _pixels(rng: np.random.Generator) -> dict[str, Any]:
    goal, start = np.array([-1.0, -0.4, 0.1, 0.6, 1.0]), rng.normal(size=5)
    solvers = {}
    for name, *_, still, _, _, _ in SOLVERS:
        times, log_snr = _times(25)
        alpha = np.sqrt(1 / (1 + np.exp(-np.array([*log_snr[:-1], 30.0]))))[:, None]
        noise = np.broadcast_to(start, (26, 5)) if still else start + np.cumsum(0.3 * rng.normal(size=(26, 5)), 0)
        states = alpha * goal + np.sqrt(1 - alpha**2) * noise
        solvers[name] = {"times": times.tolist(), "log_snr": log_snr, "states": states.tolist()}
    return {"kind": "pixels", "axes": [f"row {i}, column {i + 1}" for i in range(5)], "solvers": solvers}


def _points(rng: np.random.Generator) -> dict[str, Any]:
    means = 1.6 * np.array([[math.cos(a), math.sin(a)] for a in np.arange(8) * math.pi / 4])
    axis = np.linspace(-2.4, 2.4, 48)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    values = np.exp(-((grid[..., None, :] - means) ** 2).sum(-1) / (2 * 0.03)).sum(-1)
    start = rng.normal(size=(24, 2))
    goal = means[rng.integers(0, 8, 24)] + 0.17 * rng.normal(size=(24, 2))
    solvers = {}
    for name, *_, still, _, _, _ in SOLVERS:
        times, log_snr = _times(25)
        share = np.sqrt(1 - times**1.5)[:, None, None]
        walk = 0.0 if still else (0.12 * np.cumsum(rng.normal(size=(26, 24, 2)), 0)) * (1 - share)
        states = share * goal + np.sqrt(1 - share**2) * start + walk
        solvers[name] = {"times": times.tolist(), "log_snr": log_snr, "states": states.tolist()}
    density = {"x": axis.tolist(), "y": axis.tolist(), "values": values.tolist()}
    return {"kind": "points", "axes": ["x₁", "x₂"], "solvers": solvers, "density": density}
