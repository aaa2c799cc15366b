"""What results of image to image are measured by: what they kept of their source, and how well they pass for the target's data.

More of one costs the other: SDEdit's starts trace the frontier that energies are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.metrics import (
    Classifier,
    Frechet,
    Measured,
    Reference,
    difference,
    evaluate,
    low_pass_difference,
    root_mean_square,
    structural_similarity,
)
from score_sde_analytic.metrics.measured import interpolated
from score_sde_analytic.uncertainty import Estimate

#: Groups of the jackknife of Frechet distances.
GROUPS = 20
#: Criteria that compare with the source.
OF_PAIRS = ("l2", "low_pass", "ssim", "cosine")
#: What each criterion is, in words.
CRITERIA = {
    "l2": "root mean square of the difference from the source",
    "low_pass": "the same of means over blocks of pixels, what `LowPass` keeps",
    "ssim": "structural similarity to the source",
    "cosine": "cosine of the domain classifier's features with the source's, what `CosineFeatures` drives apart",
    "kept": "share whose class, by the classifier, is the source's",
    "reached": "share whose class is the target's",
    "domain": "share that the domain classifier takes for data of the target",
    "frechet": "Frechet distance to data of the target, in the classifier's features",
}

Score = Estimate | Measured
Scores = dict[str, Score]


@dataclass(frozen=True, eq=False)
class Criteria:
    """Criteria of results, of which those are measured that what is known allows.

    Attributes:
        source: images that results began as, one each.
        target: data of the target, in features; None leaves Frechet distances out.
        data_range: of both.
        factor: side of the blocks of the low-pass difference.
        classes: a classifier of the target's data.
        labels: classes of the source, to be kept.
        wanted: classes that results are to be of.
        noisy: a classifier in whose features they are compared; where it has two classes, 0 is the source and 1 the target.

    >>> source = torch.zeros(3, 1, 4, 4)
    >>> scores = Criteria(source, DataRange(-1.0, 1.0))(source + 0.5)
    >>> scores["l2"].value, scores["low_pass"].value, sorted(scores)
    (0.5, 0.5, ['l2', 'low_pass', 'ssim'])
    """

    source: Float[Tensor, "n c h w"]
    data_range: DataRange
    target: Reference | None = None
    factor: int = 2
    classes: Classifier | None = None
    labels: Int64[Tensor, " n"] | None = None
    wanted: Int64[Tensor, " n"] | None = None
    noisy: Classifier | None = None

    def __call__(self, y: Float[Tensor, "n c h w"]) -> Scores:
        """Of results as they are shown, on the host."""
        scores: Scores = {name: measure(y) for name, measure in self._means().items()}
        if self.target is not None:
            groups = min(GROUPS, len(y) // 2, len(self.target.values) // 2)
            scores |= evaluate({"frechet": Frechet(groups=groups)}, y, self.target) if groups > 1 else {}
        return scores

    def of_source(self) -> Scores:
        """Of the source itself, without those that compare with it."""
        return {name: score for name, score in self(self.source).items() if name not in OF_PAIRS}

    def _means(self) -> dict[str, Callable[[Tensor], Estimate]]:
        """Those that are means over results."""
        x, found = self.source, {}
        found["l2"] = lambda y: Estimate.of(root_mean_square(y, x))
        found["low_pass"] = lambda y: Estimate.of(low_pass_difference(y, x, self.factor))
        found["ssim"] = lambda y: Estimate.of(structural_similarity(y, x, self.data_range))
        if self.noisy is not None:
            found |= self._by_domains(self.noisy)
        if self.classes is not None:
            found |= self._by_classes(self.classes)
        return found

    def _by_domains(self, net: Classifier) -> dict[str, Callable[[Tensor], Estimate]]:
        found: dict[str, Callable[[Tensor], Estimate]] = {}
        found["cosine"] = lambda y: _mean(cosine_similarity(net.features(y), net.features(self.source)))
        if net.settings["classes"] == 2:
            found["domain"] = lambda y: _share(net, y, torch.ones(len(y), dtype=torch.long))
        return found

    def _by_classes(self, net: Classifier) -> dict[str, Callable[[Tensor], Estimate]]:
        found: dict[str, Callable[[Tensor], Estimate]] = {}
        if self.labels is not None:
            truth = self.labels
            found["kept"] = lambda y: _share(net, y, truth)
        if self.wanted is not None:
            wanted = self.wanted
            found["reached"] = lambda y: _share(net, y, wanted)
        return found


@torch.no_grad()
def _share(net: Classifier, y: Tensor, truth: Tensor) -> Estimate:
    """Of images whose likeliest class is the true one."""
    return _mean(net(y).argmax(1) == truth)


def _mean(values: Tensor) -> Estimate:
    return Estimate.of(values.detach().double().cpu().numpy())


def above_frontier(scores: Mapping[str, Score], frontier: Sequence[Mapping[str, Score]]) -> Measured | None:
    """Frechet distance less that of the frontier at the same L2, linear between its points; None beyond its ends.

    Below zero the point lies beyond the frontier. All results share their sources, noise and reference, whose groups are left
    out together; the error is that of the distances, at their L2. A frontier that bends lies below the line between two starts:
    take them close.

    >>> def at(l2, frechet):
    ...     near = np.array([-0.1, 0.1])
    ...     return {"l2": Estimate(l2, 0.0), "frechet": Measured(frechet, 0.1, 0, 0, frechet, (frechet + near,))}
    >>> print(above_frontier(at(0.5, 1.2), [at(1.0, 1.0), at(0.0, 2.0)]))
    -0.3 ± 0.0
    """
    ordered = sorted(frontier, key=lambda point: point["l2"].value)
    for left, right in pairwise(ordered):
        low, high = left["l2"].value, right["l2"].value
        if low <= scores["l2"].value <= high and low < high:
            share = (scores["l2"].value - low) / (high - low)
            return difference(_frechet(scores), interpolated(_frechet(left), _frechet(right), share))
    return None


def _frechet(scores: Mapping[str, Score]) -> Measured:
    return cast("Measured", scores["frechet"])
