"""Metrics compare samples with a reference in feature space; features are computed once, and what belongs to the reference too.

reference = Reference.of(test_set, ClassifierFeatures.load("digits_classifier"))
evaluate({"Frechet": Frechet(), "KID": KID()}, samples, reference)["Frechet"]      # 0.31 ± 0.02, with its interval
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.checks import settle, whole
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.features import Features, extract
from score_sde_analytic.metrics.measured import LEVEL, Measured, jackknife, without_groups


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of the data that samples are compared with, and what metrics have worked out about them.

    Attributes:
        values: float64.
        features: the map that made them, if one did.
        shape: of an example.
    """

    values: Float[Tensor, " ..."]
    features: Features | None = None
    shape: tuple[int, ...] = ()
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require_features(self.values, "the reference")
        object.__setattr__(self, "values", self.values.double())

    @classmethod
    def of(
        cls,
        data: Data,
        features: Features,
        batch_size: int = 500,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> Reference:
        """The features of a data set.

        Raises:
            InputError: no data, NaN, or features of a wrong shape.
        """
        values = extract(features, data, batch_size, device, "the reference", progress)
        return cls(values, features, as_dataset(data).shape)

    def once(self, key: Hashable, make: Callable[[Float64[Tensor, "n d"]], Any]) -> Any:
        """make(values), worked out the first time this key is asked for.

        >>> reference = Reference(torch.tensor([[0.0], [2.0]]))
        >>> reference.once("mean", lambda values: float(values.mean())), reference.once("mean", lambda values: 1 / 0)
        (1.0, 1.0)
        """
        if key not in self._known:
            self._known[key] = make(self.values)
        return self._known[key]


class Metric(ABC):
    """A number that compares samples with a reference, with its error."""

    #: Fewest examples of either side.
    least: int = 2

    def __call__(self, samples: Float[Tensor, " ..."], reference: Float[Tensor, " ..."] | Reference) -> Measured:
        """Compare features of samples (n, d) with those of the reference (m, d).

        >>> from score_sde_analytic.metrics import Frechet
        >>> print(Frechet()(mixture.sample(400, seed=1), mixture.sample(400, seed=2)))
        0.011 ± 0.013

        Raises:
            InputError: NaN, too few examples, or different numbers of features.
        """
        ready = reference if isinstance(reference, Reference) else Reference(reference.double())
        x = samples.double()
        y = ready.values
        require_features(x, "the samples")
        if x.shape[1] != y.shape[1]:
            raise InputError(f"the samples have {x.shape[1]} features, the reference {y.shape[1]}; compute both by one map")
        for count, what in ((len(x), "samples"), (len(y), "reference examples")):
            if count < self.least:
                raise InputError(f"{type(self).__name__} needs at least {self.least} {what}, got {count}{self._way_out(count)}")
        return self._measure(x.to(y.device), ready)

    def _way_out(self, count: int) -> str:
        """The setting that would do with so few examples."""
        return "; give more"

    @abstractmethod
    def _measure(self, x: Float64[Tensor, "n d"], reference: Reference) -> Measured:
        """The metric of checked features on one device."""


@dataclass(frozen=True, kw_only=True)
class Distance(Metric):
    """A distance between summaries of the two sides, with the delete-group jackknife over both.

    Args:
        groups: of the jackknife; there are 2 groups + 1 comparisons, and a `Reference` keeps groups + 1 summaries.
        seed: which examples make a group.
        level: of the interval.
    """

    groups: Annotated[int, whole(2)] = 20
    seed: Annotated[int, whole(0)] = 0
    level: Annotated[float, LEVEL] = 0.95

    def __post_init__(self) -> None:
        settle(self)

    @property
    def corrected(self) -> bool:
        """Whether the bias is c/n + c'/m, which the jackknife removes."""
        return True

    @property
    def least(self) -> int:  # type: ignore[override]
        return 2 * self.groups

    def _way_out(self, count: int) -> str:
        return f"; give more, or set groups={count // 2}" if count >= 4 else "; four are the least, with groups=2"

    @abstractmethod
    def summary(self, x: Float64[Tensor, "n d"]) -> Any:
        """What the distance needs to know of one side's features."""

    @abstractmethod
    def compare(self, x: Any, y: Any) -> float:
        """The distance between two summaries, uncorrected."""

    def _measure(self, x: Float64[Tensor, "n d"], reference: Reference) -> Measured:
        mine = self.summary(x)
        theirs = reference.once(self, self.summary)
        kept = reference.once((self, "parts"), lambda y: without_groups(self.summary, y, self.groups, self.seed + 1))
        without_x = without_groups(lambda part: self.compare(self.summary(part), theirs), x, self.groups, self.seed)
        without_y = [self.compare(mine, summary) for summary in kept]
        return jackknife(self.compare(mine, theirs), without_x, without_y, correct=self.corrected, level=self.level)


def require_features(x: Float[Tensor, " ..."], what: str) -> None:
    """Raise InputError unless x is (n, d) and finite.

    >>> require_features(torch.tensor([[0.0], [np.nan]]), "the samples")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: 1 of 2 feature vectors of the samples hold NaN or inf: the sampler diverged, or the
    data are damaged
    """
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"features of {what} must be (count, n), got {tuple(x.shape)}; flatten them, or use evaluate()")
    bad = int((~torch.isfinite(x)).any(1).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(x)} feature vectors of {what} hold NaN or inf: the sampler diverged, or the data are damaged"
        )


def evaluate(
    metrics: Mapping[str, Metric],
    samples: Data,
    reference: Data | Reference,
    features: Features | None = None,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, Measured]:
    """All metrics of samples against a reference; features of either are computed once.

    >>> from score_sde_analytic.metrics import KID, Pixels
    >>> samples = mixture.sample(100, seed=1)
    >>> {name: str(value) for name, value in evaluate({"KID": KID()}, samples, data, Pixels()).items()}
    {'KID': '-0.026 ± 0.036'}

    Args:
        samples: in data units, (n, *dims).
        reference: data, or a `Reference`, which also remembers what the metrics work out about it.
        features: may be left out with a `Reference`, whose own are used.

    Raises:
        InputError: NaN in samples, shapes that differ, too few examples, no features, or others than the reference's.
    """
    if not isinstance(reference, Reference):
        if features is None:
            raise InputError("say in which features to compare: pass features=, as Pixels() or ClassifierFeatures.load(...)")
        reference = Reference.of(reference, features, batch_size, device, progress)
    known = reference.features
    if known is None:
        raise InputError("this Reference does not know its features; make it by Reference.of(data, features)")
    if features is not None and features.config() != known.config():
        raise InputError(f"the reference is in features {known.name!r}, not {features.name!r}; make both by one map")
    shape = as_dataset(samples).shape
    if shape != reference.shape:
        raise InputError(f"a sample has shape {shape}, an example of the reference {reference.shape}; they must be equal")
    x = extract(known, samples, batch_size, reference.values.device, "the samples", progress)
    return {name: metric(x, reference) for name, metric in metrics.items()}
