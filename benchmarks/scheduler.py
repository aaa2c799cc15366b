"""Our schedulers in the place of diffusers': time beyond the network, and how far their steps lie apart.

  python benchmarks/scheduler.py [--steps 50] [--repeats 200] [--output FILE.md]

A row is a pipeline's loop, set_timesteps and K steps, with a network that returns its input; all steps are taken from one
state, so that none grows out of the range of numbers. Rows take turns within a round; a ratio is taken within its round, so
that load on the machine, which changes more slowly, cancels.

Distances are the largest of any step of a run of 10, relative to the largest coordinate, each step from the same x_t.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data.basis import Channel
from score_sde_analytic.interop import AnalyticDPMScheduler, AnalyticFlowScheduler
from score_sde_analytic.interop.timesteps import grid_of_indices
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.samplers import AnalyticMultistep, Ancestral

SHAPE = (16, 3, 16, 16)
#: y rises slowly from 0 to 3, as for images; its values do not affect the time.
KNOTS, Y = np.linspace(-9.0, 9.0, 40), np.linspace(0.0, 3.0, 40)
CURVE = NoiseCurve(KNOTS, Y)
HALF = torch.bfloat16
TABLES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTIONS = ("epsilon", "sample", "v_prediction")

Row = tuple[Any, torch.dtype]


def structured() -> AnalyticDPMScheduler:
    """One curve per channel."""
    spectrum = Spectrum(KNOTS, np.repeat(Y[:, None, None], 3, 2), np.zeros((40, 0)), np.full(3, 256.0))
    return AnalyticDPMScheduler(clip_sample=False).with_curve(Diagonal(spectrum, Channel()))


def multistep(steps: int) -> AnalyticDPMScheduler:
    made = AnalyticDPMScheduler(clip_sample=False)
    model = training_of({**made.config, "_class_name": "DDPMScheduler"}).model(lambda x, t: x, fingerprint="x")
    times = (*np.linspace(1.0, 1e-3, steps).tolist(), 0.0)
    return made.with_curve(CURVE, {steps: times}).with_sampler(AnalyticMultistep(model, Isotropic(CURVE)), made.grids[steps])


def rows(steps: int) -> dict[str, tuple[Row, Row]]:
    """name -> (ours, what it stands for)."""
    pairs = {}
    for clip in (False, True):
        for dtype in (torch.float32, HALF):
            ours = AnalyticDPMScheduler(clip_sample=clip).with_curve(CURVE)
            name = f"AnalyticDPMScheduler{', clipped' if clip else ''}{', bfloat16' if dtype == HALF else ''}"
            pairs[name] = ((ours, dtype), (DDPMScheduler(clip_sample=clip), dtype))
    free: Row = DDPMScheduler(clip_sample=False), torch.float32
    pairs["the same, one curve per channel"] = (structured(), torch.float32), free
    pairs["the same, multistep"] = (multistep(steps), torch.float32), free
    flow = AnalyticFlowScheduler(shift=3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)
    pairs["AnalyticFlowScheduler, eta = 0"] = (flow[0], torch.float32), (flow[1], torch.float32)
    pairs["(DDIMScheduler)"] = (DDIMScheduler(clip_sample=False), torch.float32), free
    return pairs


@torch.no_grad()
def run(row: Row, x: torch.Tensor, steps: int) -> None:
    scheduler, dtype = row
    x = x.to(dtype)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        scheduler.step(x, t, x)


def microseconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


def measure(pairs: dict[str, tuple[Row, Row]], steps: int, repeats: int) -> np.ndarray:
    """(repeats, rows, 2): of a step; one untimed round first."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    rounds = []
    for _ in range(repeats + 1):
        rounds.append([[microseconds(lambda row=row: run(row, x, steps)) / steps for row in pair] for pair in pairs.values()])
    return np.array(rounds[1:])


def planning(repeats: int) -> list[str]:
    """set_timesteps, anew and again."""
    asked = {"50": {"num_inference_steps": 50}, "50 timesteps of one's own": {"timesteps": list(range(999, 0, -20))}}
    lines = ["| set_timesteps | first, µs | again, µs |", "|---|---|---|"]
    for name, settings in asked.items():
        scheduler = AnalyticDPMScheduler().with_curve(CURVE)
        len(scheduler.grids)  # reads what is carried
        first = microseconds(lambda s=scheduler, k=settings: s.set_timesteps(**k))
        again = [microseconds(lambda s=scheduler, k=settings: s.set_timesteps(**k)) for _ in range(repeats)]
        lines.append(f"| {name} | {first:.0f} | {np.median(again):.1f} |")
    return lines


def distances() -> list[str]:
    """Steps against Ancestral's, against DDPM's on tables of float64, and those of DDPM's own tables against the latter."""
    lines = [
        "| table | prediction | ours to Ancestral | ours to DDPM, float64 | DDPM, float32 to float64 |",
        "|---|---|---|---|---|",
    ]
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for table in TABLES:
        for prediction in PREDICTIONS:
            told = " | ".join(f"{value:.1e}" if value else "0" for value in furthest(table, prediction, x))
            lines.append(f"| {table} | {prediction} | {told} |")
    return lines


def furthest(table: str, prediction: str, x: torch.Tensor) -> np.ndarray:
    settings = {"beta_schedule": table, "prediction_type": prediction, "clip_sample": False}
    ours, own, exact = AnalyticDPMScheduler(**settings), DDPMScheduler(**settings), DDPMScheduler(**settings)
    schedule = ours.schedule
    exact.alphas_cumprod = torch.from_numpy(schedule.alpha(schedule.times) ** 2)
    exact.one = torch.ones((), dtype=torch.float64)
    model = training_of({**ours.config, "_class_name": "DDPMScheduler"}).model(lambda x, t: torch.tanh(x), fingerprint="tanh")
    for scheduler in (ours, own, exact):
        scheduler.set_timesteps(10)
    sampler = Ancestral(model, ours.covariance)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    found = []
    steps = sampler.plan(grid_of_indices(ours.timesteps.tolist(), len(ours)))
    for t, step in zip(ours.timesteps, steps, strict=True):
        taken = ours.step(torch.tanh(x), t, x, variance_noise=z).prev_sample
        ancestral, _ = sampler.step(x, step, None, Repeated(z))
        float32, float64 = (s.step(torch.tanh(x), t, x, torch.Generator().manual_seed(1)).prev_sample for s in (own, exact))
        pairs = (taken, ancestral), (taken, float64), (float32, float64)
        found.append([float((one - other).abs().max() / other.abs().max()) for one, other in pairs])
    return np.max(found, axis=0)


class Repeated:
    """The same draw each time."""

    def __init__(self, z: torch.Tensor) -> None:
        self.z = z

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        return self.z


def markdown(names: list[str], times: np.ndarray) -> list[str]:
    ratios = times[..., 0] / times[..., 1]
    low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
    lines = ["| scheduler | µs a step | of the one it stands for | ratio, median | quartiles |", "|---|---|---|---|---|"]
    for i, name in enumerate(names):
        one, other = np.median(times[:, i], axis=0)
        lines.append(f"| {name} | {one:.0f} | {other:.0f} | {middle[i]:.2f} | {low[i]:.2f} - {high[i]:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="K, network calls per run")
    parser.add_argument("--repeats", type=int, default=200, help="rounds over all rows")
    parser.add_argument("--output", type=Path, help="also write the tables here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = rows(args.steps)
    setting = (
        f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()} CPU,"
        f" batch {'x'.join(map(str, SHAPE))}, K = {args.steps}, {args.repeats} rounds."
    )
    timed = markdown(list(pairs), measure(pairs, args.steps, args.repeats))
    text = "\n".join([setting, "", *timed, "", *planning(args.repeats), "", *distances(), ""])
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
