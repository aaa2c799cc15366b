"""Time of a sampling step beyond the network: our sampler, a bare loop and diffusers' schedulers.

  python benchmarks/sampler.py [--steps 50] [--repeats 60] [--output FILE.md]

The network returns its input, so everything measured is overhead. Each row is a whole run of K steps, including what a user
pays per run: our plan and noise generators, diffusers' set_timesteps. Rows take turns within a round; a row runs a few times
in its turn, and the least counts: a run that another process interrupts finds its caches empty, as no run on a machine of its
own does. A ratio is taken within its round, of processor time.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.grids.grid import Grid, even
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import BatchNoise, Noise, SampleNoise
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import Ancestral, carry

SHAPE = (16, 3, 16, 16)
SCHEDULE = LinearVP()
#: y rises slowly from 0 to 3, as for images; its values do not affect the time.
CURVE = NoiseCurve(np.linspace(-9.0, 9.0, 40), np.linspace(0.0, 3.0, 40))
CLAMP = (-1.0, 1.0)
#: Runs of a row in its turn, of which the least counts.
RUNS = 8


class Identity:
    """A network that returns its input and counts its calls."""

    calls = 0

    def __call__(self, x: Tensor, t: object) -> Tensor:
        self.calls += 1
        return x


Row = Callable[[Identity, Tensor], Tensor]


def ours(grid: Grid, noise: Callable[[], Noise], clamp: tuple[float, float] | None = None) -> Row:
    """Plan and run, as `generate` does for every set of samples."""

    def row(net: Identity, x: Tensor) -> Tensor:
        model = ScoreModel(net, SCHEDULE, clamp=clamp)
        sampler = Ancestral(model, Isotropic(CURVE))
        with model.metered() as cost:
            x_0 = carry(sampler, sampler.plan(grid), x, noise())
        if cost.calls != grid.steps:
            raise RuntimeError(f"{cost.calls} counted calls for {grid.steps} steps")
        return x_0

    return row


def bare(grid: Grid) -> Row:
    """x = c1 x + c2 eps + std z with the same coefficients as Python floats, computed beforehand."""
    plan = Ancestral(ScoreModel(Identity(), SCHEDULE), Isotropic(CURVE)).plan(grid)
    table = [
        (s.kernel.a + s.kernel.b / s.t.alpha, -s.kernel.b * s.t.sigma / s.t.alpha, s.covariance.variance**0.5)  # type: ignore[attr-defined]
        for s in plan
    ]

    @torch.no_grad()
    def row(net: Identity, x: Tensor) -> Tensor:
        for c1, c2, std in table[:-1]:
            x = c1 * x + c2 * net(x, None) + std * torch.randn(x.shape)
        c1, c2, _ = table[-1]
        return c1 * x + c2 * net(x, None)

    return row


def theirs(name: str, steps: int) -> Row:
    """A diffusers scheduler's loop, at its defaults but for clip_sample."""
    import diffusers

    scheduler = getattr(diffusers, name)(clip_sample=False)

    @torch.no_grad()
    def row(net: Identity, x: Tensor) -> Tensor:
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x).prev_sample
        return x

    return row


def rows(steps: int) -> dict[str, Row]:
    grid = even(steps, 1e-3)
    batch, sample = (lambda: BatchNoise(0)), (lambda: SampleNoise(0, range(SHAPE[0]), draws=steps))
    return {
        "bare loop, coefficients precomputed": bare(grid),
        "ours, one noise stream": ours(grid, batch),
        "ours, a noise stream per sample": ours(grid, sample),
        "ours, one noise stream, x_0 clamped": ours(grid, batch, CLAMP),
        "ours, a noise stream per sample, x_0 clamped": ours(grid, sample, CLAMP),
        "diffusers DDPMScheduler": theirs("DDPMScheduler", steps),
        "diffusers DDIMScheduler": theirs("DDIMScheduler", steps),
    }


def measure(table: dict[str, Row], steps: int, repeats: int) -> np.ndarray:
    """Microseconds per network call, (repeats, rows); one untimed round first."""
    x, times = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), np.zeros((repeats, len(table)))
    for repeat in range(-1, repeats):
        for column, (name, row) in enumerate(table.items()):
            least = min(processor_time(name, row, x, steps) for _ in range(RUNS))
            if repeat >= 0:
                times[repeat, column] = 1e6 * least / steps
    return times


def processor_time(name: str, row: Row, x: Tensor, steps: int) -> float:
    """Seconds of one run."""
    net = Identity()
    start = time.thread_time()
    row(net, x)
    elapsed = time.thread_time() - start
    if net.calls != steps:
        raise RuntimeError(f"{name} made {net.calls} network calls in {steps} steps")
    return elapsed


def markdown(names: list[str], times: np.ndarray) -> str:
    ratios = times / times[:, :1]
    low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
    least, medians = times.min(0), np.median(times, 0)
    lines = [
        "| loop | µs per network call, least | median | ratio to the bare loop, of the least | median | quartiles |",
        "|---|---|---|---|---|---|",
    ]
    for i, name in enumerate(names):
        spread = f"{middle[i]:.2f} | {low[i]:.2f} - {high[i]:.2f}"
        lines.append(f"| {name} | {least[i]:.0f} | {medians[i]:.0f} | {least[i] / least[0]:.2f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="K, network calls per run")
    parser.add_argument("--repeats", type=int, default=60, help="rounds over all rows")
    parser.add_argument("--output", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = rows(args.steps)
    times = measure(table, args.steps, args.repeats)
    setting = (
        f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()} CPU,"
        f" batch {'x'.join(map(str, SHAPE))} float32, K = {args.steps}, {args.repeats} rounds of"
        f" {RUNS} runs, load {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores;"
        " every run made exactly K network calls."
    )
    text = f"{setting}\n\n{markdown(list(table), times)}\n"
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
