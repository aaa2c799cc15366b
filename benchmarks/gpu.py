"""Sampling and measuring on a GPU against the network alone: K bare calls, step by step, compiled, as one CUDA graph.

  python -m benchmarks.gpu [--output FOLDER] [--networks NAME ..] [--seconds 150]      measures, writes gpu.json and gpu.md
  python -m benchmarks.gpu --page --output FOLDER                                      writes gpu.md from gpu.json again

Networks: that of the digits, shipped, 8x8, in 25 steps, and in 5, which are compiled as one program too; and UNets of
diffusers of random weights in bfloat16 with the channels last, 64x64 and 256x256 in colour. Bare calls are a loop of
nothing but the network, each fed what the one before said; everything else takes exactly as many calls. Times are
medians of some rounds, the device waited for at both ends of each; what is made once (compiled, recorded) is told by
itself. Rows that the time does not suffice for are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_page import page
from score_sde_analytic import Budget, DataRange, LinearVP, LogSNR, ScoreModel, ZeroBased, bits_per_dim
from score_sde_analytic.covariance import BetaTilde, Diagonal, Isotropic
from score_sde_analytic.data import DCT, Examples
from score_sde_analytic.data.bases import BASES
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.measure import NoiseCurve, Recorder, Spectrum, estimate
from score_sde_analytic.models import load_unet
from score_sde_analytic.models.compiled import compiled
from score_sde_analytic.process import BatchNoise, SampleNoise
from score_sde_analytic.samplers import Ancestral, Heun, OneGraph, Sampler, carry

ASSETS = Path(__file__).resolve().parents[1] / "score_sde_analytic" / "assets"
VP = LinearVP()
LOG_SNR = np.linspace(-9.0, 9.0, 20)
#: y rises slowly from 0 to 3, as for images; its values do not affect the time.
CURVE = NoiseCurve(LOG_SNR, np.linspace(0.0, 3.0, 20))
RANGE = DataRange(levels=256)


@dataclass(frozen=True)
class Case:
    """A network with what it is used for.

    Attributes:
        make: the model on a device.
        shape: of an example.
        batch: samples per call.
        steps: K.
        fuse: whether all steps are compiled as one program, too.
    """

    make: Callable[[torch.device], ScoreModel]
    shape: tuple[int, ...]
    batch: int
    steps: int
    fuse: bool

    def grid(self) -> Any:
        return even_log_snr(VP, self.steps, 1e-3)


def digits(device: torch.device) -> ScoreModel:
    net, wiring = load_unet(ASSETS / "digits_unet")
    times = LogSNR(**{key: value for key, value in wiring["times"].items() if key != "name"})
    return ScoreModel(net.to(device), VP, wiring["predicts"], times, wiring["coordinates"], (-1.0, 1.0), "digits")


def unet(channels: tuple[int, ...], size: int) -> Callable[[torch.device], ScoreModel]:
    """Random weights in bfloat16, the channels last; attention at the two coarsest levels."""

    def make(device: torch.device) -> ScoreModel:
        from diffusers import UNet2DModel

        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=channels[-1] // 4,
        )
        net = net.eval().requires_grad_(False).to(device, torch.bfloat16, memory_format=torch.channels_last)
        return ScoreModel(net, VP, "eps", ZeroBased(1000), clamp=(-1.0, 1.0), fingerprint=f"unet{size}")

    return make


CASES = {
    "digits": Case(digits, (1, 8, 8), 256, 25, False),
    "digits5": Case(digits, (1, 8, 8), 256, 5, True),
    "unet64": Case(unet((128, 256, 384, 384), 64), (3, 64, 64), 64, 25, False),
    "unet256": Case(unet((128, 256, 384, 384), 256), (3, 256, 256), 8, 10, False),
    "tiny": Case(unet((32, 32, 32, 32), 16), (3, 16, 16), 4, 3, True),  # to try this file itself
}


class Clock:
    """Seconds of work on a device."""

    def __init__(self, device: torch.device, rounds: int, seconds: float, uncompiled: bool) -> None:
        self.device = device
        self.uncompiled = uncompiled
        self._rounds = rounds
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        return self._end - time.perf_counter()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def median(self, work: Callable[[], object]) -> tuple[float, float]:
        """(median, seconds of the first time beyond it)."""
        first, second = self.once(work), self.once(work)
        rounds = max(0, min(self._rounds - 1, int(self.left / 20 / max(second, 1e-3))))
        middle = statistics.median([second, *(self.once(work) for _ in range(rounds))])
        return middle, max(first - middle, 0.0)

    def memory(self) -> float:
        """Largest in use since the last time it was asked for, in GB."""
        if self.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak / 1e9


# --- samples -------------------------------------------------------------------------------------------------------------


def bare(net: nn.Module, x: Tensor, labels: Tensor, calls: int) -> Callable[[], Tensor]:
    """Nothing but the network."""

    @torch.no_grad()
    def work() -> Tensor:
        y = x
        for _ in range(calls):
            said = net(y, labels)
            y = getattr(said, "sample", said)
        return y

    return work


def recorded(work: Callable[[], Tensor]) -> Callable[[], object]:
    """The same as a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def drawn(sampler: Sampler[Any], case: Case, device: torch.device, streams: bool = True) -> Callable[[], object]:
    """A batch of samples, as `generate` makes them."""
    plan = sampler.plan(case.grid())
    like = torch.empty(case.batch, *case.shape, device=device)

    def work() -> Tensor:
        noise = SampleNoise(0, range(case.batch), device) if streams else BatchNoise(0, device)
        return carry(sampler, plan, noise.draw(like).clone(), noise)

    return work


def diagonal(case: Case) -> Diagonal:
    """In cosines, a curve for every coefficient."""
    d = int(np.prod(case.shape))
    y = np.linspace(-1.0, 3.0, d)[None, None] + 0.1 * LOG_SNR[:, None, None]
    return Diagonal(Spectrum(LOG_SNR, y, np.zeros((len(LOG_SNR), 0)), np.ones(d)), DCT())


def ways(case: Case, model: ScoreModel, device: torch.device) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """(name, what makes the work), the bare loops first."""
    x = torch.randn(case.batch, *case.shape, device=device, dtype=next(model.net.parameters()).dtype)
    if model.net is not None and _last(model):
        x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.full((case.batch,), 0.5, device=device)
    chain = lambda of: Ancestral(of, Isotropic(CURVE))  # noqa: E731
    fast = compiled(model, "default")
    cuda = device.type == "cuda"
    yield "bare calls", lambda: bare(model.net, x, labels, case.steps)
    yield "step by step", lambda: drawn(chain(model), case, device)
    yield "step by step, one noise stream", lambda: drawn(chain(model), case, device, streams=False)
    yield "step by step, diagonal in cosines", lambda: drawn(Ancestral(model, diagonal(case)), case, device)
    yield "one graph", lambda: drawn(OneGraph(chain(model)), case, device)
    if cuda:
        yield "bare calls as a CUDA graph", lambda: recorded(bare(model.net, x, labels, case.steps))
    yield "one graph, diagonal in cosines", lambda: drawn(OneGraph(Ancestral(model, diagonal(case))), case, device)
    yield "one graph of Heun's steps, two calls each", lambda: drawn(OneGraph(Heun(model)), case, device)
    yield "bare calls, compiled", lambda: bare(fast.net, x, labels, case.steps)
    yield "compiled, step by step", lambda: drawn(chain(fast), case, device)
    if cuda:
        yield "bare calls, compiled, as a CUDA graph", lambda: recorded(bare(fast.net, x, labels, case.steps))
    yield "compiled, one graph", lambda: drawn(OneGraph(chain(fast)), case, device)
    if case.fuse:
        yield "one program of all steps", lambda: drawn(OneGraph(chain(model), fuse=True), case, device)


def _last(model: ScoreModel) -> bool:
    return any(p.ndim == 4 and p.stride(1) == 1 and not p.is_contiguous() for p in model.net.parameters())


def calls_of(name: str, case: Case) -> int:
    return 2 * case.steps - 1 if "Heun" in name else case.steps


def sampled(name: str, case: Case, clock: Clock) -> Iterator[dict[str, Any]]:
    """A row per way."""
    model = case.make(clock.device)
    for way, make in ways(case, model, clock.device):
        if clock.left < 10.0 or (clock.uncompiled and "compiled" in way):
            print(f"  left out: {way}")
            continue
        clock.memory()
        try:
            begun = time.perf_counter()
            work = make()
            seconds, first = clock.median(work)
            made = time.perf_counter() - begun
        except Exception as error:
            traceback.print_exc()
            yield {"network": name, "way": way, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            continue
        calls = calls_of(way, case)
        yield {
            "network": name,
            "way": way,
            "ms_per_call": 1e3 * seconds / calls,
            "samples_per_second": case.batch / seconds,
            "first_seconds": first,
            "total_seconds": made,
            "gigabytes": clock.memory(),
        }


# --- the pass ------------------------------------------------------------------------------------------------------------


class Answering(nn.Module):
    """A network that times itself on the device."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.marks: list[tuple[Any, Any]] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if not x.is_cuda:
            said = self.net(x, labels)
            return getattr(said, "sample", said)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        said = self.net(x, labels)
        end.record()
        self.marks.append((begin, end))
        return getattr(said, "sample", said)

    def seconds(self) -> float:
        """Of all its calls, and forget them."""
        total = sum(begin.elapsed_time(end) for begin, end in self.marks) / 1e3
        self.marks.clear()
        return total


def measured(name: str, case: Case, clock: Clock) -> Iterator[dict[str, Any]]:
    """A pass of 10 knots, four batches each, plain and with residuals recorded, and bits/dim of two batches."""
    model = case.make(clock.device)
    net = Answering(model.net)
    timed = ScoreModel(net, VP, model.predicts, model.times, model.coordinates, model.clamp, fingerprint=name)
    levels = np.random.default_rng(0).integers(0, 256, (4 * case.batch, *case.shape))
    data, draws = RANGE.encode(levels), 4 * case.batch
    budget = Budget(min_draws=draws, max_draws=draws, batch_size=case.batch, groups=4)
    knots, calls = np.linspace(-6.0, 6.0, 10), 4 * 10
    chain = Chain(case.grid(), BetaTilde(), 0.02)

    def passed(**observers: Recorder) -> object:
        return estimate(timed, data, knots, budget, data_range=RANGE, observers=observers, device=clock.device, progress=False)

    def bits() -> object:
        some = data[: 2 * case.batch]
        return bits_per_dim(timed, some, chain, RANGE, batch_size=case.batch, device=clock.device, progress=False)

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "the pass of `estimate`": (calls, passed),
        "the pass, cosines recorded": (calls, lambda: passed(dct=Recorder(BASES["dct"](Examples(data), None)))),
        "bits/dim": (2 * case.steps, bits),
    }
    for work, (asked, run) in works.items():
        if clock.left < 10.0:
            return
        clock.once(run)
        net.seconds()
        clock.memory()
        seconds = clock.once(run)
        inside = net.seconds()
        yield {
            "network": name,
            "work": work,
            "ms_per_call": 1e3 * seconds / asked,
            "in_network": inside / seconds if inside else None,
            "gigabytes": clock.memory(),
        }


# --- record -----------------------------------------------------------------------------------------------------


def measure(names: list[str], clock: Clock, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All rows; what there is so far is kept after each."""
    cuda = clock.device.type == "cuda"
    card = torch.cuda.get_device_name(clock.device) if cuda else f"no GPU: {platform.processor() or platform.machine()}"
    record: dict[str, Any] = {"card": card, "torch": torch.__version__, "cases": {}, "samples": [], "pass": []}
    for name in names:
        case = CASES[name]
        weights = sum(p.numel() for p in case.make(torch.device("cpu")).net.parameters())
        record["cases"][name] = {"weights": weights, "shape": case.shape, "batch": case.batch, "steps": case.steps}
        for section, rows in (("pass", measured), ("samples", sampled)):
            for row in rows(name, case, clock):
                record[section].append(row)
                print(" ", json.dumps(row), flush=True)
                keep(record)
    return record


def keep(folder: Path | None, record: dict[str, Any]) -> None:
    """Write the record and its page."""
    if folder is not None:
        write_text(folder / "gpu.json", json.dumps(record, indent=1) + "\n")
        write_text(folder / "gpu.md", page(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of gpu.json and gpu.md")
    parser.add_argument("--networks", nargs="+", choices=CASES, default=["digits", "unet64", "unet256", "digits5"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=150.0, help="after which no other row is begun")
    parser.add_argument("--uncompiled", action="store_true", help="leave out what waits for torch.compile of a network")
    parser.add_argument("--page", action="store_true", help="write the page from the record alone")
    args = parser.parse_args()
    if args.page:
        record = json.loads((args.output / "gpu.json").read_text(encoding="utf-8"))
    else:
        if args.device == "cuda" and not torch.cuda.is_available():
            print("torch finds no GPU here: nothing was measured")
            return
        record = measure(
            args.networks,
            Clock(torch.device(args.device), args.rounds, args.seconds, args.uncompiled),
            partial(keep, args.output),
        )
    print(page(record))
    keep(args.output, record)


if __name__ == "__main__":
    main()
