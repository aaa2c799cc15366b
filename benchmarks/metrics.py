"""What the metrics read on real data: baselines of equal distributions, and how they rise with known corruption.

    python benchmarks/metrics.py [--only digits patches size intervals mixture exact] [--output FILE.md]

Digits are compared in classifier features and in pixels, patches in colour x DCT coefficients. "size" shows the Frechet
distance of two sets of real data against their size, with and without the correction; "intervals"
counts how often intervals hold the truth, for two normal distributions. "mixture" degrades exact draws; "exact" makes many.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import scipy
import torch
from score_sde_analytic.configs import digits_vp, patches
from score_sde_analytic.runners import datasets
from score_sde_analytic.runners.datasets import labels
from torch import Tensor

from score_sde_analytic.data.transforms import DCT, ColourDCT
from score_sde_analytic.files import write_text
from score_sde_analytic.metrics import (
    KID,
    ClassifierFeatures,
    Coefficients,
    EnergyDistance,
    ExtrapolatedFrechet,
    Features,
    Frechet,
    GaussianMMD,
    Metric,
    Pixels,
    Precision,
    Recall,
    Reference,
    SlicedWasserstein,
    evaluate,
    mixture_metrics,
)
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

GROUPS = 10
#: Of samples, for the share of intervals that hold the truth.
PAIRS = 200


def metrics() -> dict[str, Metric]:
    return {
        "Frechet": Frechet(groups=GROUPS),
        "KID": KID(),
        "Gaussian MMD²": GaussianMMD(),
        "energy": EnergyDistance(),
        "sliced W2²": SlicedWasserstein(groups=GROUPS, directions=64),
        "precision": Precision(),
        "recall": Recall(),
    }


def noisy(x: Tensor, level: float) -> Tensor:
    """Gaussian noise of this standard deviation."""
    return x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)


def blurred(x: Tensor, level: float) -> Tensor:
    """Diffusion for a time that takes a Gaussian of this standard deviation in pixels, border reflected."""
    variance = [torch.exp(-0.5 * (math.pi * level * torch.arange(n) / n) ** 2) for n in x.shape[-2:]]
    return DCT().inverse(DCT().forward(x) * variance[0][:, None] * variance[1])


def table(title: str, rows: Mapping[str, Tensor], reference: Tensor, features: Features) -> str:
    known, chosen = Reference.of(reference, features), metrics()
    found = [[name, len(x), *(str(value) for value in evaluate(chosen, x, known).values())] for name, x in rows.items()]
    return f"{title}\n\n{markdown(['samples', 'n', *chosen], found)}"


def digits() -> Iterator[str]:
    config = digits_vp.get_config()
    splits, truth = datasets.splits(config), labels(config)
    x, y = splits.test, splits.validation
    rows = {"test": x}
    rows |= {f"test, noise {level:g}": noisy(x, level) for level in (0.1, 0.2, 0.4, 0.8)}
    rows |= {f"test, blur {level:g}": blurred(x, level) for level in (0.4, 0.6, 0.8)}
    rows |= {"test without class 3": x[truth[2] != 3], "test without five classes": x[truth[2] < 5]}
    for features in (ClassifierFeatures.load("digits_classifier"), Pixels()):
        yield table(f"Digits in {features.name}, reference: {len(y)} of the validation split", rows, y, features)


def colour_patches() -> Iterator[str]:
    splits = datasets.splits(patches.get_config())
    x, y = splits.train[:1000], splits.train[1000:3000]
    rows = {"train, others": x, "validation tiles": splits.validation[:1000], "test tiles": splits.test[:1000]}
    rows |= {f"train, noise {level:g}": noisy(x, level) for level in (0.05, 0.1, 0.2)}
    rows |= {f"train, blur {level:g}": blurred(x, level) for level in (0.5, 1.0)}
    features = Coefficients(ColourDCT.of(splits.train))
    yield table(f"Patches in {features.name}, reference: {len(y)} of the training split", rows, y, features)


def size() -> Iterator[str]:
    """Real against real: the distance is 0, whatever is read is bias and chance."""
    train = datasets.splits(patches.get_config()).train
    features = Coefficients(ColourDCT.of(train))
    reference = Reference.of(train[:2000], features)
    rows: list[Iterable[str]] = []
    for count in (250, 500, 1000, 2000):
        x = train[2000 : 2000 + count]
        plain = evaluate({"Frechet": Frechet(groups=GROUPS)}, x, reference)["Frechet"]
        line = evaluate({"line": ExtrapolatedFrechet(groups=2)}, x, reference)["line"]
        rows.append([str(count), f"{plain.plug_in:.3f}", str(plain), f"{line.value:.3f}"])
    title = "Frechet distance between training patches and 2,000 other training patches, 768 colour x DCT coefficients"
    yield f"{title}\n\n{markdown(['n', 'uncorrected', 'jackknife', 'extrapolated'], rows)}"


def intervals() -> Iterator[str]:
    """Samples of N(shift, scale^2 I) in three dimensions against a reference of N(0, I)."""
    rows, pairs = [], {"equal": (0.0, 1.0), "different": (0.5, 1.5)}
    for name in ("Frechet", "energy", "sliced W2²"):
        cells: list[str] = []
        for shift, scale in pairs.values():
            metric, truth = metrics()[name], _truth(shift, scale)[name]
            found = [metric(scale * _normal(200, 2 * i) + shift, _normal(300, 2 * i + 1)) for i in range(PAIRS)]
            held = np.mean([each.low <= truth <= each.high for each in found])
            spread = np.std([each.value for each in found], ddof=1)
            cells += [f"{100 * held:.1f} %", f"{np.mean([each.stderr for each in found]) / spread:.2f}"]
        rows.append([name, *cells])
    columns = [f"{part}, {pair}" for pair in pairs for part in ("intervals hold the truth", "error / true error")]
    yield f"{PAIRS} pairs of 200 against 300 normal examples\n\n{markdown(['metric', *columns], rows)}"


def _normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _truth(shift: float, scale: float) -> dict[str, float]:
    """Distances of N(shift, scale^2 I) from N(0, I) in three dimensions."""
    first = 3.0 * shift**2
    directions = SlicedWasserstein(groups=GROUPS, directions=64)._theta(torch.zeros(1, 3, dtype=torch.float64))
    sliced = float((shift * directions.sum(0)).square().mean()) + (scale - 1.0) ** 2
    alone = scipy.stats.chi(3).mean() * math.sqrt(2.0) * (scale + 1.0)
    width = math.hypot(scale, 1.0)
    between = width * float(scipy.stats.ncx2(3, first / width**2).expect(np.sqrt)) if shift else alone / 2.0
    return {"Frechet": first + 3.0 * (scale - 1.0) ** 2, "energy": 2.0 * between - alone, "sliced W2²": sliced}


def _mixture(modes: int = 8) -> GaussianMixture:
    means = 0.6 * np.random.default_rng(0).normal(size=(8, 16))
    return GaussianMixture(np.ones(modes), means[:modes], np.geomspace(0.5, 0.002, 16))


def mixture() -> Iterator[str]:
    exact, fewer = _mixture(), _mixture(7).sample(2000, 5)
    x = exact.sample(2000, 5)
    cases = {"exact draws": x, "noise 0.05": noisy(x, 0.05), "noise 0.2": noisy(x, 0.2)}
    cases |= {"shrunk by 5 %": 0.95 * x, "a mode is missing": fewer}
    found = {name: mixture_metrics(samples, exact, groups=GROUPS) for name, samples in cases.items()}
    rows = [[name, *(str(value) for value in row.values())] for name, row in found.items()]
    yield f"16-d mixture of 8 Gaussians, 2,000 samples, nats\n\n{markdown(['samples', *next(iter(found.values()))], rows)}"


def exact() -> Iterator[str]:
    """Sets of exact draws: what the correction leaves, and how errors go with values."""
    known = _mixture()
    found = [mixture_metrics(known.sample(2000, 1000 + seed), known, seed=seed, groups=GROUPS) for seed in range(PAIRS)]
    rows = []
    for name in ("KL", "energy distance", "Frechet", "mean", "covariance"):
        own = [each[name] for each in found]
        values, errors = np.array([[each.value, each.stderr] for each in own]).T
        held, low = (
            f"{100 * np.mean(said):.1f} %" for said in ([each.low <= 0 <= each.high for each in own], values < -2 * errors)
        )
        rows.append([name, f"{Estimate.of(values):.2g}", f"{errors.mean() / values.std(ddof=1):.2f}", held, low])
    columns = ["metric", "mean", "error / true error", "intervals hold 0", "below 0 by two errors"]
    yield f"{PAIRS} sets of exact draws\n\n{markdown(columns, rows)}"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "digits": digits,
    "patches": colour_patches,
    "size": size,
    "intervals": intervals,
    "mixture": mixture,
    "exact": exact,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    text = ""
    for found in (found for part in args.only for found in PARTS[part]()):
        print(f"\n{found}", flush=True)
        text += f"{found}\n\n"
        if args.output:
            write_text(args.output, text)


if __name__ == "__main__":
    main()
