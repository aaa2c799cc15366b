"""The data that solvers are compared on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.data.examples import Examples as Labelled
from score_sde_analytic.data.examples import Rows
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
        conditions: of the examples of every part by its name, row by row, where the network needs some.
    """

    train: Float[Tensor, " train *dims"]
    validation: Float[Tensor, " validation *dims"]
    test: Float[Tensor, " test *dims"]
    name: str = "data"
    exact: GaussianMixture | None = None
    conditions: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.test.shape[1:])

    def labelled(self, part: str) -> Labelled:
        """A part with its conditions.

        >>> examples = Examples(data, data, test_set, conditions={"test": {"component": torch.zeros(100, dtype=torch.long)}})
        >>> examples.labelled("test").conditions, examples.labelled("train").conditions
        (('component',), ())
        """
        return Labelled(SPLITS[part](self), conditions=self.conditions.get(part))

    @cached_property
    def free(self) -> LinearDenoiser:
        """The best linear denoiser, what K = 0 knows: of the distribution where it is known, else of the training examples."""
        return LinearDenoiser.of(self.train) if self.exact is None else LinearDenoiser.exact(*self.exact.moments())


#: The parts that samples may be compared with.
SPLITS: dict[str, Callable[[Examples], Tensor]] = {name: attrgetter(name) for name in ("train", "validation", "test")}
