"""The page of benchmarks/dalle2.py, from its JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from score_sde_analytic.report.tables import markdown

CASES = {"features": "The prior: class to 32 features of the shipped classifier", "digits": "Digits given their class"}
HEAD = """# DALL-E 2's way of sampling, in small

    python -m benchmarks.dalle2
    python -m benchmarks.prior

The first measures all of it, with `--cases` and `--parts` some; every part leaves a JSON file beside this page, which a run
with an empty `--parts` writes anew. The second trained the prior, in a minute on one core. DALL-E 2 (Ramesh et al., 2022)
samples its prior, from the embedding of a text to that of an image, by 64 strided steps of a cosine schedule with the
analytic variance, under guidance, by a network that predicts x_0. `--config=dalle2` does so from the class of a digit to
the 32 hidden features of the shipped classifier; `--config=dalle2:digits` with digits themselves, whose network predicts v.

Strided: even in t from t = 1 to 1/1000. All other grids have the same ends, log-SNR -12 to 10.1. w = scale - 1. The analytic
variance is that of the conditional curve at every scale, but where the trap is shown.
"""
SAYS = """## What it says

- **Bits.** What is predicted is measured, for every variance on every grid. The analytic variance is the best of every
  step, but strided steps are the greater loss: on the optimal grid between the same ends 25 steps of the prior, and 9 of
  digits, pay no more than 64 strided ones. On digits most of the loss is the last strided step, over which grey levels
  become distinct. The learned head is for 1000 steps: better than the scalar variance with 64 of them, far worse with few.
- **Samples under guidance.** On the prior strided steps of the cosine schedule suit guidance: they are small where the
  class is told. The grid that is optimal for the bits of the conditional chain is not, and with few steps it is far off;
  the one that is optimal for the price of the guided chain (`covariance.Guided`: w^2 G per step besides) is as good as
  strided ones. On digits, where details are more of the sample, both are better than strided steps with the analytic
  variance.
- **Variances.** The guided residual is a trap that grows with the scale, worse than the conditional curve in every row
  where the two differ; beta is too loud. With few steps beta-tilde is nearer to the limit than the analytic variance, whose
  noise is what the bits want; with 64 they are one. On the prior DDIM's limit is another distribution, farther from data as
  w grows.
- **The fewest calls.** A table is fitted per scale. With 3 calls it is nearer to data than DDIM and DPM-Solver++ at their
  best, at every scale; with 5 calls DPM-Solver++ of third order is as near where guidance is weak, and farther at scale 4.
  With 10 calls and more the chain with the conditional curve has an accuracy of 0.99 or more at every scale.
- **Calibration.** The curves claim more of the class than log2(10) / d bits/dim, the most that it can tell: without a class
  these networks, which were trained so now and then, know less than they could.
"""
BITS = """Bits/dim of K steps over those of infinitely many between the same ends (transitions, no guidance): predicted from the
pass over the validation split with the errors of the jackknife, and measured on the test split, example by example over the
continuous bound. The continuous bound itself is {limit} bits/dim. {head}"""
HEADS = {
    "features": "No variance is learned here: heads are for images.",
    "digits": "Learned is a head that interpolates between the handcrafted variances per pixel and state (Improved DDPM's),\n"
    "trained for the bound of 1000 steps; it has no price.",
}
QUALITY = """Frechet distance to held-out examples, and to the chain's own limit of 250 steps, in the classifier's features; its
accuracy. {count} samples each, with the classes of the held-out examples in turn, so that a perfect sampler is a little below
0: the bias that is removed is that of independent classes. Accuracy on the held-out examples themselves: {real:.3f}."""
FEW = """Means of {seeds} seeds of {count} samples. Public solvers are the best of their kind among three grids and four first
times, chosen on this distance by samples of another seed. "Beyond the table": paired, same noise; the table (`Study.fewest`)
is fitted to paths of the guided model, one per scale."""
ENERGY = """The features are the samples themselves here, of which a Gaussian has means and covariances right, for no call: the
energy distance sees the whole law."""


def page(folder: Path) -> str:
    return "\n".join([HEAD, SAYS, "\n\n".join(_sections(folder)), ""])


def _sections(folder: Path) -> Iterator[str]:
    for case, title in CASES.items():
        yield f"## {title}"
        for part, text in {"bits": _bits, "quality": _quality, "few": _few}.items():
            file = folder / f"dalle2_{case}_{part}.json"
            if file.exists():
                yield text(case, json.loads(file.read_text()))


def _shown(pair: list[float] | None, digits: int = 2) -> str:
    return "-" if pair is None else f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def _bits(case: str, found: dict[str, Any]) -> str:
    rows = []
    for name, row in found["rows"].items():
        steps, _, chain = name.partition(" ")
        rows.append([steps, chain, _shown(row["predicted"], 3), _shown(row["measured"], 3), _apart(row)])
    enough = " and ".join(f"{count} on the grid {name!r}" for name, count in found["enough"].items())
    told = BITS.format(limit=_shown(found["limit"], 3), head=HEADS[case])
    table = markdown(["K", "variance, grid", "predicted", "measured", "apart / s.e."], rows)
    return f"{told}\n\n{table}\n\nThe excess of 64 strided steps with the analytic variance takes {enough}.{_informed(found)}"


def _apart(row: dict[str, Any]) -> str:
    if row["predicted"] is None:
        return "-"
    (known, of_known), (value, error) = row["predicted"], row["measured"]
    return f"{(value - known) / (of_known**2 + error**2) ** 0.5:+.1f}"


def _informed(found: dict[str, Any]) -> str:
    if "information" not in found:
        return ""
    return f" The class is worth {_shown(found['information'], 3)} bits/dim by the two curves."


def _quality(case: str, found: dict[str, Any]) -> str:
    tables = [QUALITY.format(count=found["count"], real=found["real"])]
    for scale in dict.fromkeys(row["scale"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["scale"] == scale]
        limit = next(row for row in rows if row["own"] is None)
        told = f"Scale {scale:g} (w = {scale - 1:g}); the limit itself: {_shown(limit['data'])} from held-out examples,"
        tables.append(f"{told} accuracy {limit['accuracy']:.3f}.\n\n{_by_steps(row for row in rows if row['own'])}")
    return "\n\n".join(tables)


def _by_steps(rows: Iterable[dict[str, Any]]) -> str:
    """A line per sampler: data / own limit / accuracy at every K."""
    known: dict[str, dict[int, str]] = {}
    for row in rows:
        cell = f"{row['data'][0]:.2f} / {_shown(row['own'])} / {row['accuracy']:.3f}"
        known.setdefault(row["sampler"], {})[row["steps"]] = cell
    steps = sorted({k for cells in known.values() for k in cells})
    lines = [[name, *(cells.get(k, "-") for k in steps)] for name, cells in known.items()]
    return markdown(["data / own limit / accuracy", *(f"K = {k}" for k in steps)], lines)


def _few(case: str, found: dict[str, Any]) -> str:
    columns = ["scale", "K", "sampler", "Frechet", "beyond the table", "accuracy"]
    told = FEW.format(seeds=found["seeds"], count=found["count"])
    rows = [[*_judged(row), *([_thousandths(row["energy"])] if "energy" in row else [])] for row in found["rows"]]
    if any(len(row) > len(columns) for row in rows):
        told, columns = f"{told}\n{ENERGY}", [*columns, "energy distance x 1000"]
    return f"{told}\n\n{markdown(columns, rows)}"


def _judged(row: dict[str, Any]) -> list[str]:
    named = [f"{row['scale']:g}", str(row["steps"]), row["sampler"]]
    return [*named, _shown(row["data"]), _beyond(row), f"{row['accuracy']:.3f}"]


def _thousandths(pair: list[float]) -> str:
    return _shown([1000.0 * value for value in pair], 1)


def _beyond(row: dict[str, Any]) -> str:
    return "-" if not any(row["beyond"]) else _shown(row["beyond"])
