"""Samples of a report, by the chains whose bits it gives and by tables of the fewest calls, and how near they are to data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.data.examples import Data, as_dataset, batches
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import UserError
from score_sde_analytic.metrics import Measured, difference
from score_sde_analytic.report import comparison, study_page
from score_sde_analytic.study.few import gaussian
from score_sde_analytic.study.fewest import LEAST
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.race import JUDGED, Judge
from score_sde_analytic.study.reportable import Reportable

#: Most calls that are few, for which a table is fitted.
FEW = 10
#: Coordinates that a scatter plot can show.
MOST_COORDINATES = 3
#: Width in pixels that the pixels of small images are enlarged to fill, and images per row.
IMAGE_WIDTH, COLUMNS = 32, 8


@dataclass(frozen=True)
class Drawn:
    """Samples with what they cost.

    Attributes:
        plan: that drew them.
        x: samples, (count, *shape).
        calls, vector_products: network calls, and products with its Jacobian, per sample.
    """

    plan: SamplingPlan
    x: Tensor
    calls: float
    vector_products: float

    @classmethod
    def of(cls, plan: SamplingPlan, count: int, seed: int) -> Drawn:
        """Samples of a plan."""
        with plan.sampler.model.metered() as cost:
            x = plan(count, seed)
        return cls(plan, x.cpu(), cost.evaluations / count, cost.vector_products / count)

    def content(self) -> dict[str, Any]:
        """What the page says of them."""
        return {"calls": self.calls, "vector_products": self.vector_products, "points": points(self.x)}


#: Samples by number of network calls.
ByCalls = Mapping[int, Drawn]


@dataclass(frozen=True)
class Samples:
    """All samples of a report, from the same seeds.

    Attributes:
        chain: by the chains whose bits it gives.
        fewest: by the tables of the fewest calls.
        lost: why there are none of these.
    """

    chain: ByCalls
    fewest: ByCalls
    lost: str = ""


def fewest(study: Reportable, calls: tuple[int, ...], count: int, seed: int, path: str | Path | None) -> Samples:
    """By the tables of the fewest calls, of those that are few, without chains; none where no flow is worth following.

    Args:
        path: folder that keeps paths and tables.
    """
    try:
        plans = {k: study.fewest(k, path=path, progress=False) for k in calls if k <= FEW}
    except UserError as error:
        return Samples({}, {}, str(error))
    return Samples({}, {k: Drawn.of(plan, count, seed) for k, plan in plans.items()})


def quality(study: Reportable, samples: Samples, data: Data | None, count: int) -> dict[str, Any] | None:
    """Energy distance of samples of each kind to the data, in coordinates in which their Gaussian is white.

    Of `count` samples, or as many as there are examples. None without data or samples, or with too few examples to judge.
    Where both kinds have as many calls, also the difference, whose error is that of the difference: both begin with the same
    noise.
    """
    nothing = not (samples.chain or samples.fewest)
    if nothing or data is None or not count or study.free is None:
        return None
    examples = as_dataset(data, study.data_range)
    if len(examples) < LEAST:
        return None
    count = min(count, len(examples))
    judge = Judge.of(examples, gaussian(study), study.data_range, study.seed)
    kinds = {"chain": samples.chain, "fewest": samples.fewest}
    near = {kind: {k: judge(judge.draw(one.plan, 0, count)).white for k, one in drawn.items()} for kind, drawn in kinds.items()}
    both = [k for k in near["chain"] if k in near["fewest"]]
    return {
        "count": count,
        "examples": min(JUDGED, len(examples)),
        "distance": {kind: {str(k): _plain(one) for k, one in by_calls.items()} for kind, by_calls in near.items() if by_calls},
        "chain_beyond_fewest": {str(k): _plain(difference(near["chain"][k], near["fewest"][k])) for k in both},
    }


def _plain(measured: Measured) -> dict[str, float]:
    return {"value": measured.value, "stderr": measured.stderr, "low": measured.low, "high": measured.high}


def points(x: Float[Tensor, " n *dims"] | None) -> list[Any] | None:
    """Vectors that a scatter plot can show, as plain numbers."""
    return x.double().tolist() if x is not None and x.ndim == 2 and x.shape[1] <= MOST_COORDINATES else None


def examples(data: Data | None, count: int) -> Float[Tensor, " n *dims"] | None:
    """The first examples of the data."""
    if data is None:
        return None
    dataset = as_dataset(data)
    return next(iter(batches(dataset, range(min(count, len(dataset))), count)))


def sheets(study: Reportable, samples: Samples, shown: Float[Tensor, " n *dims"] | None, folder: Path) -> list[Path]:
    """Sheets of images, of the samples for each K and of examples of the data, where the samples are images."""
    if len(study.shape) != 3:
        return []
    pictures = {study_page.SHEET.format(k): one.x for k, one in samples.chain.items()}
    pictures |= {study_page.FEWEST_SHEET.format(k): one.x for k, one in samples.fewest.items()}
    if shown is not None:
        pictures[study_page.DATA_SHEET] = shown
    if not pictures:
        return []
    declared = study.data_range or _range(torch.cat(list(pictures.values())))
    scale = max(1, IMAGE_WIDTH // study.shape[-1])
    return [_sheet(folder / name, x, declared, scale) for name, x in pictures.items()]


def _sheet(path: Path, x: Tensor, declared: DataRange, scale: int) -> Path:
    """Images of one channel or three; of any other number, the first channel."""
    pixels = x if x.shape[1] in (1, 3) else x[:, :1]
    return comparison.sheet(path, pixels, pixels, declared, COLUMNS, scale)


def _range(x: Tensor) -> DataRange:
    """The range of values that was not declared."""
    low, high = (float(end) for end in x.aminmax())
    return DataRange(low, high if high > low else low + 1.0)
