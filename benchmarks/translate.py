"""Image to image on digits: SDEdit's frontier, and whether the energies of EGSDE lie beyond it.

  python -m benchmarks.translate --mnist FOLDER [--tasks mnist digits] [--count 400] [--output docs]

mnist    unpaired: MNIST's test images, their 20 x 20 middle at 8 x 8, to UCI digits, by the shipped network; experts are a
         classifier of the two domains, trained here on one half of MNIST's images, and low-pass images; the others are sources
digits   one digit to another, by the shipped network of classes: 1 to 7, 3 to 8, 5 to 6, 4 to 9, 0 to 6

FOLDER holds MNIST's files t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz; without them the task is skipped. An empty
--tasks writes the page anew from what was measured before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_sde_analytic.configs import digits_classes, digits_vp
from score_sde_analytic.runners import classifier, datasets, domains
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from score_sde_analytic.compare.fidelity import displayed
from score_sde_analytic.data.sources import read_idx_images, read_idx_labels
from score_sde_analytic.data.splits import split
from score_sde_analytic.files import plain
from score_sde_analytic.guidance import CosineFeatures, Energy, LowPass
from score_sde_analytic.metrics import ClassifierFeatures, NoisyClassifier, Reference, load_classifier
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.report import translation as pictures
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study import Study, translation
from score_sde_analytic.study.translated import CRITERIA, Criteria, Scores, above_frontier
from score_sde_analytic.uncertainty import Estimate

FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
PAIRS = ((1, 7), (3, 8), (5, 6), (4, 9), (0, 6))
STRENGTHS = (0.3, 1.0, 3.0)
#: Weights of experts at strength 1.
WEIGHTS = {"cosine": 10.0, "low-pass": 1.0}
STEPS = 15
FEW = (5, 8, 15)
#: Levels of noise that classifiers are trained at.
TOLD = (-6.0, 8.0)
SHOWN = 16


@dataclass(frozen=True)
class Task:
    """What is translated, by what, and how it is measured.

    Attributes:
        starts: log-SNRs of SDEdit's frontier.
        compared: those of them that energies begin at.
        conditions: of samples, row by row.
        others: the same with other noise, of other sources where there are some: points beyond the frontier are tried again.
    """

    title: str
    study: Study
    source: Tensor
    criteria: Criteria
    experts: Mapping[str, Energy]
    starts: Sequence[float]
    compared: Sequence[float]
    conditions: Mapping[str, Tensor]
    seed: int = 0
    others: Task | None = None

    def results(self, log_snr: float, weights: Mapping[str, float], steps: int = STEPS, **how: Any) -> Tensor:
        """As they are shown."""
        energies = [(self.experts[name], weight) for name, weight in weights.items()]
        settings: dict[str, Any] = {"grid": "log_snr", "conditions": self.conditions} | how
        plan = translation(self.study, self.source, log_snr, steps, energies, **settings)
        return displayed(plan(len(self.source), seed=self.seed), self.criteria.data_range)


def experts_at(strength: float) -> dict[str, dict[str, float]]:
    """Each alone, and both."""
    alone = {name: {name: strength * weight} for name, weight in WEIGHTS.items()}
    return alone | {"both": {name: strength * weight for name, weight in WEIGHTS.items()}}


# --- tasks --------------------------------------------------------------------------------------------------------------


def mnist(options: argparse.Namespace, work: Path) -> Task | None:
    """MNIST to UCI digits; None without the files."""
    if options.mnist is None or not all((options.mnist / name).is_file() for name in FILES):
        print(f"task mnist skipped: pass --mnist=FOLDER, a folder with {' and '.join(FILES)}")
        return None
    x = read_idx_images(options.mnist / FILES[0])[:, 0, 4:24, 4:24].astype(np.uint8)
    y = read_idx_labels(options.mnist / FILES[1])
    known, new = (part.numpy() for part in split(torch.arange(len(x)), (0.5, 0.5), 0))
    np.savez(work / "known.npz", x=x[known], label=y[known])
    np.savez(work / "new.npz", x=x[new][: 2 * options.count], label=y[new][: 2 * options.count])
    config = digits_vp.get_config()
    config.data.resample = "box"
    config.classifier.against = str(work / "known.npz")
    net = trained(config, work, "domains")
    experiment = Experiment(config, work / "digits")
    every = domains.domain(config, experiment.splits, str(work / "new.npz"))
    target = torch.cat([experiment.splits.held(name) for name in ("validation", "test")])
    known_by = Criteria(
        every.x,
        experiment.splits.data_range,
        Reference.of(target, ClassifierFeatures.load("digits_classifier")),
        classes=load_classifier("digits_classifier")[0],
        noisy=net,
    )
    starts = (-2.5, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)

    def task(rows: slice, seed: int, others: Task | None = None) -> Task:
        x, labels = every.x[rows], None if every.labels is None else every.labels[rows]
        criteria = replace(known_by, source=x, labels=labels)
        settings = (experiment.study, x, criteria, experts(net), starts, (-0.5, 0.5, 1.5), {}, seed, others)
        return Task("MNIST to UCI digits", *settings)

    return task(slice(options.count), 0, task(slice(options.count, None), 1))


def digits(options: argparse.Namespace, work: Path) -> Task:
    """Digits to others, each to its partner."""
    config = digits_classes.get_config()
    net = trained(config, work, "classes")
    experiment = Experiment(config, work / "digits_classes")
    splits = experiment.splits
    x = torch.cat([splits.held(name) for name in ("validation", "test")])
    y = torch.cat(datasets.labels(config)[1:])
    source = torch.cat([x[y == a] for a, _ in PAIRS])
    wanted = torch.cat([torch.full((int((y == a).sum()),), b) for a, b in PAIRS])
    target = torch.cat([x[y == b] for _, b in PAIRS])
    criteria = Criteria(
        source,
        splits.data_range,
        Reference.of(target, ClassifierFeatures.load("digits_classifier")),
        classes=load_classifier("digits_classifier")[0],
        wanted=wanted,
        noisy=net,
    )
    starts = (-3.5, -2.5, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)
    given = {config.network.condition: wanted}
    task = Task("Digits to other digits", experiment.study, source, criteria, experts(net), starts, (-2.5, -1.5, -0.5), given)
    return replace(task, others=replace(task, seed=1))


def experts(net: NoisyClassifier) -> dict[str, Energy]:
    return {"cosine": CosineFeatures(net.states, digest_of(net)), "low-pass": LowPass(2)}


def trained(config: Any, work: Path, name: str) -> NoisyClassifier:
    """A classifier of noisy images."""
    config.classifier.log_snr, config.classifier.steps = TOLD, 4000
    config.classifier.channels, config.classifier.features = (32, 64), 64
    classifier.run(config, work / name)
    net = load_classifier(work / name / "classifier")[0]
    assert isinstance(net, NoisyClassifier)
    return net


TASKS: dict[str, Callable[[argparse.Namespace, Path], Task | None]] = {"mnist": mnist, "digits": digits}


# --- measurement --------------------------------------------------------------------------------------------------------


def measured(name: str, task: Task, figures: Path) -> dict[str, Any]:
    """All that the page says of a task; its pictures are written."""
    frontier = {lam: task.results(lam, {}) for lam in task.starts}
    own = {lam: task.criteria(y) for lam, y in frontier.items()}
    shown = {"source": task.source} | {f"SDEdit, from {lam:g}": frontier[lam] for lam in task.compared}
    points: dict[str, dict[float, Scores]] = {}
    for strength in STRENGTHS:
        for label, weights in experts_at(strength).items():
            results = {lam: task.results(lam, weights) for lam in task.compared}
            points[f"{label} x {strength:g}"] = {lam: scored(task, y, list(own.values())) for lam, y in results.items()}
            if strength == STRENGTHS[-1]:
                shown |= {f"{label} x {strength:g}, from {lam:g}": y for lam, y in results.items()}
    declared = task.criteria.data_range
    every = torch.linspace(0, len(task.source) - 1, SHOWN).round().long()
    pictures.side_by_side(figures / f"translate_{name}.png", {label: x[every] for label, x in shown.items()}, declared)
    return {
        "title": task.title,
        "count": len(task.source),
        "source": kept(task.criteria.of_source()),
        "sdedit": {lam: kept(one) for lam, one in own.items()},
        "points": {label: {lam: kept(one) for lam, one in by.items()} for label, by in points.items()},
        "again": {} if task.others is None else again(task.others, points),
        "few": few(task),
        "evaluations": task.study.moments.evaluations,
    }


def scored(task: Task, y: Tensor, frontier: Sequence[Scores]) -> Scores:
    """With how far above the frontier."""
    scores = task.criteria(y)
    above = above_frontier(scores, frontier)
    return scores if above is None else scores | {"above": above}


def again(task: Task, points: Mapping[str, Mapping[float, Scores]]) -> dict[str, tuple[float, float]]:
    """How far above the frontier those lie that were beyond it by more than two standard errors."""
    found = [(label, lam) for label, by in points.items() for lam, one in by.items() if beyond(one)]
    if not found:
        return {}
    ways = {f"{label} x {strength:g}": weights for strength in STRENGTHS for label, weights in experts_at(strength).items()}
    own = [task.criteria(task.results(lam, {})) for lam in task.starts]
    scores = {f"{label}, from {lam:g}": scored(task, task.results(lam, ways[label]), own) for label, lam in found}
    return {label: kept(one)["above"] for label, one in scores.items() if "above" in one}


def beyond(scores: Scores) -> bool:
    return "above" in scores and scores["above"].value < -2.0 * scores["above"].stderr


def kept(scores: Scores) -> dict[str, tuple[float, float]]:
    """Values and standard errors."""
    return {name: (one.value, one.stderr) for name, one in scores.items()}


def few(task: Task) -> dict[str, dict[str, Any]]:
    """With few calls, by the variance: from the middle level, without energies and with both at strength 1."""
    lam, both = task.compared[1], experts_at(1.0)["both"]
    ways = {"SDEdit": {}, "both x 1": both}
    variances = {"beta-tilde": "beta_tilde", "analytic": "isotropic"}
    return {
        f"{way}, {said}": {
            str(steps): kept(task.criteria(task.results(lam, weights, steps, covariance=covariance))) for steps in FEW
        }
        for way, weights in ways.items()
        for said, covariance in variances.items()
    }


# --- page ---------------------------------------------------------------------------------------------------------------

HEAD = """# Image to image: SDEdit and EGSDE on digits

    python -m benchmarks.translate --mnist=FOLDER

writes this page, its pictures and the JSON files beside it. Sources are diffused to a log-SNR and led back by {steps} network
calls at levels even in log-SNR, with the analytic variance of the network's own curve, the same noise in all rows. Energies are
"cosine" (weight 10 at strength 1), which drives the features of a classifier of noisy images away from the source's, and
"low-pass" (weight 1), which keeps means over 2 x 2 pixels; values ± one standard error.

{criteria}
- above frontier: Frechet distance less that of SDEdit's frontier at the same L2, linear between its points; below zero a point
  lies beyond it. The error is that of the difference: sources, noise and reference are shared. The line lies above a frontier
  that bends, here by up to about 0.02: read nothing into smaller differences. The classifier of domains was trained on sources
  of the same file; that points lie beyond the frontier for sources of which it saw none is not shown here.

"""


def text(name: str, found: Mapping[str, Any]) -> str:
    """The section of one task."""
    points = [(f"{label}, from {float(lam):g}", one) for label, by in found["points"].items() for lam, one in by.items()]
    own = [(f"SDEdit, from {float(lam):g}", one) for lam, one in found["sdedit"].items()]
    rows = {label: estimates(one) for label, one in [("source", found["source"]), *own, *points]}
    above = [(label, Estimate(*one["above"])) for label, one in points if "above" in one]
    lower = [label for label, one in above if one.value < -2.0 * one.stderr]
    least, lowest = min(above, key=lambda pair: pair[1].value / pair[1].stderr)
    return "\n\n".join(
        [
            f"## {found['title']}",
            f"{found['count']} sources; {found['evaluations']:,} evaluations measured the curve.",
            f"![sources and results](../figures/translate_{name}.png)",
            pictures.table(rows),
            f"![Frechet distance against L2](../figures/translate_{name}_frontier.png)",
            f"Of {len(above)} points with energies within the frontier's ends, {len(lower)} lie beyond it by more than two"
            f" standard errors; in errors the lowest is {least}, {lowest:+.3f}. {monotone(found)}",
            *_again(found),
            "Few calls, Frechet distance (and L2) from the middle level:",
            markdown(
                ["", *(f"K = {steps}" for steps in FEW)],
                [[label, *(_few(by[str(steps)]) for steps in FEW)] for label, by in found["few"].items()],
            ),
        ]
    )


def _again(found: Mapping[str, Any]) -> list[str]:
    if not found["again"]:
        return []
    rows = [[label, f"{Estimate(*one):+.3f}"] for label, one in found["again"].items()]
    said = "Those again, with other noise and, of MNIST, other sources, against the frontier of these:"
    return [said, markdown(["results", "above frontier"], rows)]


def _few(scores: Mapping[str, Any]) -> str:
    return f"{Estimate(*scores['frechet']):.2f} ({scores['l2'][0]:.3f})"


def monotone(found: Mapping[str, Any]) -> str:
    """Whether each expert moves its own measure the same way over strengths 0, .3, 1, 3, at every start."""
    words = []
    for expert, measure in (("cosine", "cosine"), ("low-pass", "low_pass")):
        by_strength = [found["sdedit"], *(found["points"][f"{expert} x {strength:g}"] for strength in STRENGTHS)]
        starts = list(by_strength[1])
        rows = [[by[lam][measure][0] for by in by_strength] for lam in starts]
        right = sum(row == sorted(row, reverse=True) for row in rows)
        words.append(f"{expert} lowers its own measure over strengths 0, 0.3, 1, 3 at {right} of {len(starts)} starts")
    return " ".join(f"{said[0].upper()}{said[1:]}." for said in words)


def levels(by: Mapping[str, Any]) -> dict[float, Scores]:
    return {float(lam): estimates(one) for lam, one in by.items()}


def estimates(scores: Mapping[str, Any]) -> Scores:
    return {name: Estimate(*one) for name, one in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = options.output / "results"
    for name in options.tasks:
        with tempfile.TemporaryDirectory() as work:
            task = TASKS[name](options, Path(work))
            if task is not None:
                found = plain(measured(name, task, options.output / "figures"))
                (folder / f"translate_{name}.json").write_text(json.dumps(found, indent=1) + "\n")
                print(f"\n{text(name, found)}")
    written(options.output)


def written(output: Path) -> None:
    """The page of all that was measured, and the pictures of its numbers."""
    folder = output / "results"
    done = [name for name in TASKS if (folder / f"translate_{name}.json").exists()]
    found = {name: json.loads((folder / f"translate_{name}.json").read_text()) for name in done}
    sections = [text(name, one) for name, one in found.items()]
    for name, one in found.items():
        points = {label: levels(by) for label, by in one["points"].items()}
        pictures.frontier(output / "figures" / f"translate_{name}_frontier.png", levels(one["sdedit"]), points)
    criteria = "\n".join(f"- {pictures.HEADS[name]}: {words}" for name, words in CRITERIA.items())
    (folder / "translate.md").write_text(HEAD.format(steps=STEPS, criteria=criteria) + "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
