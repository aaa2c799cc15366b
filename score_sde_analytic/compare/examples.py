"""The data that solvers are compared on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture


@dataclass(frozen=True, eq=False)
class Examples:
    """Disjoint parts of a data set.

    Attributes:
        train: what bases of features and the free model are fitted to.
        validation: what the study was measured on.
        test: what bounds are measured on, and what is shown beside samples.
        name: of the data set, for titles; "digits" and "mnist" have classifiers whose features are compared.
        exact: the distribution itself where it is known: samples are compared with it then, not with examples.
    """

    train: Float[Tensor, " train *dims"]
    validation: Float[Tensor, " validation *dims"]
    test: Float[Tensor, " test *dims"]
    name: str = "data"
    exact: GaussianMixture | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.test.shape[1:])

    @cached_property
    def free(self) -> LinearDenoiser:
        """The best linear denoiser, what K = 0 knows: of the distribution where it is known, else of the training examples."""
        return LinearDenoiser.of(self.train) if self.exact is None else LinearDenoiser.exact(*self.exact.moments())


#: The parts that samples may be compared with.
SPLITS: dict[str, Callable[[Examples], Tensor]] = {name: attrgetter(name) for name in ("train", "validation", "test")}
