"""A measured network: its curve, and from it every covariance, grid, sample and bound, for any number of steps.

Nothing here measures the network again, but for samples (K calls each) and bounds on other data.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import each, whole
from score_sde_analytic.coding import Codec
from score_sde_analytic.coding.ladder import require_diagonal
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.data.examples import Data
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import Bound, Chain, ContinuousTime, Method, Priced, bits_per_dim, price
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.conditions import OfSamples
from score_sde_analytic.models.free import FreeModel, LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.report import drawing
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.samplers.starts import Examples
from score_sde_analytic.study import few, fewest, storage
from score_sde_analytic.study.budgets import steps_within
from score_sde_analytic.study.covariances import covariance
from score_sde_analytic.study.free import named
from score_sde_analytic.study.measured import Measured
from score_sde_analytic.study.names import AUTO, DP, CovarianceName, GridName
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.record import Kept
from score_sde_analytic.study.remarks import remarks
from score_sde_analytic.study.search import GridSearch
from score_sde_analytic.study.structures import Structures
from score_sde_analytic.study.table import Bits

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, eq=False, repr=False)
class Study(Measured):
    """What one Monte Carlo pass over a network makes possible (`analyse` makes it).

    Names are those of `study.names`: covariances "isotropic", "pca", "dct|high_frequency", "auto", ..; grids "dp",
    "refined", "even_tuned", .. An empty name of a covariance stands for `settings.covariance`. What it holds is a `Record`.
    """

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before it is trusted: assumptions that the data contradict, optima on the edge of a search."""
        return remarks(self, self.search, self.structures)

    # --- covariances ---

    @cached_property
    def structures(self) -> Structures:
        """The covariances diagonal in a basis that the pass recorded, and which is best."""
        return Structures(self.moments, self.recorders, self.settings.structure, dict(self.kept.covariances), self.kept.best)

    def resolve(self, name: str | CovarianceName = "") -> CovarianceName:
        """The covariance that a name means: aliases spelt out, "auto" the best recorded one by held-out bits.

        Raises:
            ValueError: an unknown name, or "auto" where nothing was recorded.
        """
        if str(name) in self.own:
            return CovarianceName(str(name))
        parsed = CovarianceName.parse(self.settings.covariance if isinstance(name, str) and not name else name)
        return self.structures.best if parsed.base == AUTO else parsed

    def covariance(self, name: str | CovarianceName = "") -> Covariance:
        """A covariance by name, ready for samplers, bounds and grids.

        Raises:
            ValueError: an unknown name, or a basis that the pass did not record.
            MissingFileError: a head that was not trained.
        """
        resolved = self.resolve(name)
        if resolved not in self._covariances:
            made = self.structures.covariance if resolved.structured else partial(covariance, self, self.curves)
            self._covariances[resolved] = made(resolved)
        return self._covariances[resolved]

    @cached_property
    def _covariances(self) -> dict[CovarianceName, Covariance]:
        return {}

    # --- grids ---

    @cached_property
    def search(self) -> GridSearch:
        """Grids by name, with their costs and limits."""
        made = {name: dict(grids) for name, grids in self.kept.grids.items()}
        return GridSearch(self.schedule, self.moments, self.curve, self.last_step, self.settings.search, made)

    @cached_property
    def _searches(self) -> dict[FreeModel | None, GridSearch]:
        return {None: self.search}

    def _search(self, prior: FreeModel | str | None) -> GridSearch:
        """Grids of chains with a prior."""
        known = named(prior, self.free, self.shape)
        if known not in self._searches:
            self._searches[known] = replace(self.search, prior=known, made={})
        return self._searches[known]

    def grid(
        self,
        steps: int,
        name: str | GridName = DP,
        covariance: str | CovarianceName = "",
        prior: FreeModel | str | None = None,
    ) -> Grid:
        """The times of so many steps.

        Args:
            name: "dp" is optimal for the covariance, all times together; others are named in `study.names`.
            prior: a free model of the data, or "gaussian" for the study's own: optimal grids choose where they begin; None for
                N(0, prior_variance I), at t = 1.

        Raises:
            ValueError: an unknown name, a covariance without a price, or no grid of so many steps.

        >>> study.grid(10).steps
        10
        """
        steps, label = whole(1)("steps", steps), self.resolve(covariance)
        return self._search(prior).grid(GridName.parse(name), self.covariance(label), label, steps)

    def first(self) -> tuple[float, Decoder]:
        """(t_1, decoder) that are best for infinitely many steps.

        >>> study.first()
        (0.00116, GaussianDecoder(std=0.0114))
        """
        return self.search.first, self.decoder(self.search.first)

    def steps_for(self, excess: float) -> int:
        """The fewest steps within `excess` bits/dim of infinitely many, with the optimal isotropic variance.

        By dynamic programming up to `settings.search.most` steps, beyond by the law 1 + I^2 / (4 excess).

        Raises:
            ValueError: the excess is not positive.

        >>> study.steps_for(0.05)
        16
        """
        return steps_within(self, excess)

    # --- chains and their bits ---

    def chain(
        self,
        steps: int,
        grid: str | GridName = DP,
        covariance: str | CovarianceName = "",
        prior: FreeModel | str | None = None,
    ) -> Chain:
        """Grid, covariance, prior (as `grid` has it) and the decoder that is best for the grid's first time."""
        times = self.grid(steps, grid, covariance, prior)
        resolved = self.resolve(covariance)

        def choice(moments: Moments, fold: int) -> Chain:
            return self.without(fold, moments).chain(steps, grid, resolved, prior)

        return Chain(times, self.covariance(resolved), self.decoder(times.times[-2]), choice, self._search(prior).prior)

    def without(self, fold: int, moments: Moments) -> Study:
        """The study that the moments without a fold of the examples would have led to.

        Its covariances diagonal in a basis are fitted to the other folds, and priced by this one.
        """
        if fold not in self._parts:
            search = replace(self.settings.search, most=1)  # what is asked for, and not more
            part = replace(self, moments=moments, kept=Kept(), settings=replace(self.settings, search=search))
            vars(part)["structures"] = self.structures.without(fold)
            self._parts[fold] = part
        return self._parts[fold]

    @cached_property
    def _parts(self) -> dict[int, Study]:
        return {}

    def continuous(
        self, times: int = 16, importance_sampling: bool = True, prior: FreeModel | str | None = None
    ) -> ContinuousTime:
        """The bound of infinitely many steps between the best ends.

        Args:
            times: noise levels per example.
            importance_sampling: draw them in proportion to the curve's R, instead of uniformly in log-SNR.
            prior: a free model of the data; None begins at t = 1.
        """
        search, curve = self._search(prior), self.curve if importance_sampling else None

        def choice(moments: Moments, fold: int) -> ContinuousTime:
            return self.without(fold, moments).continuous(prior=prior)

        return ContinuousTime(search.first, self.decoder(search.first), times, curve, choice, search.prior, search.top)

    def bits(
        self,
        *steps: int,
        grid: str | GridName = DP,
        covariance: str | CovarianceName = "",
        prior: FreeModel | str | None = None,
    ) -> Bits[Priced]:
        """Priced bits/dim of chains of so many steps, with errors; no network call. Of a guided study, without guidance."""
        if self.model.guidance:
            warnings.warn(f"predicted bits leave out the price of what is {self.model.guidance}", stacklevel=2)
        chains = {k: self.chain(k, grid, covariance, prior) for k in each(whole(1))("steps", steps)}
        return Bits(self.price(chains), self.space)

    def price(self, methods: Mapping[Name, Chain | ContinuousTime]) -> dict[Name, Priced]:
        """Priced bits/dim of chains, and of continuous time, from the moments alone, with errors.

        Raises:
            TypeError: a covariance depends on the state, so that no curve knows its price (`priceable`).
            ValueError: a decoder without a price.
        """
        priced = price(self.moments, self.schedule, {str(name): method for name, method in methods.items()}, self.statistics)
        return {name: priced[str(name)] for name in methods}

    def priceable(self, chain: Chain) -> bool:
        """Whether `bits` can price a chain: by its covariance, first time and decoder."""
        level = self.schedule.level(chain.grid.times[-2])
        if not chain.covariance.priced or level.log_snr > self.moments.log_snr[-1] + 1e-9:
            return False
        try:
            chain.decoder.expected_nats(level, self.reconstruction, self.statistics.histogram, self.data_range)
        except ValueError:  # a width that was not measured
            return False
        return True

    def measure(
        self,
        data: Data,
        *steps: int,
        grid: str | GridName = DP,
        covariance: str | CovarianceName = "",
        prior: FreeModel | str | None = None,
        path: str | Path | None = None,
        **options: Any,
    ) -> Bits[Bound]:
        """Measured bits/dim of chains of so many steps on data that the pass did not see, K network calls per example.

        Args:
            path: folder that keeps results; an interrupted evaluation goes on.
            options: of `bits_per_dim`: draws, batch_size, progress, ..

        >>> print(study.measure(mixture.sample(400, seed=1), 3, progress=False))
        K = 3: 1.392 ± 0.071 bits/dim
        """
        steps = each(whole(1))("steps", steps)
        chains = {str(k): self.chain(k, grid, covariance, prior) for k in steps}
        bounds = self.evaluate(data, chains, path, **options)
        return Bits({k: bounds[str(k)] for k in steps}, self.space)

    def evaluate(
        self, data: Data, methods: Mapping[str, Method], path: str | Path | None = None, draws: int = 1, **options: Any
    ) -> dict[str, Bound]:
        """Measured bits/dim by any methods, on the same examples with the same noise; unfinished work is continued.

        Args:
            path: folder that keeps results, in files that are named by method, seed, draws and number of examples: other
                settings never meet them, and other examples, as many, are refused there.
            options: of `bits_per_dim`.
        """
        if not methods:
            return {}
        asked = options.get("seed", self.seed + 1), draws, len(data), *self.marks  # type: ignore[arg-type]
        files = {name: f"{name}-{digest(method.config(self.model), *asked)[:8]}" for name, method in methods.items()}
        settings = {"draws": draws, "seed": self.seed + 1, "device": self.device, "path": path} | options
        named = {files[name]: method for name, method in methods.items()}
        bounds = bits_per_dim(self.model, data, named, self.data_range, **settings)
        return {name: bounds[files[name]] for name in methods}

    def codec(self, steps: int = 10, **settings: Any) -> Codec:
        """Lossless coding of images by `chain(steps, grid=, covariance=, prior=)`; other settings are those of `Codec`."""
        named = {name: settings.pop(name) for name in ("grid", "covariance", "prior") if name in settings}
        require_diagonal(self.covariance(named.get("covariance", "")), self.schedule)
        return Codec(self.model, self.chain(steps, **named), self.data_range, **{"device": self.device} | settings)

    # --- samples ---

    def sampler(
        self,
        steps: int,
        grid: str | GridName = DP,
        covariance: str | CovarianceName = "",
        prior: FreeModel | str | None = None,
        conditions: OfSamples | None = None,
        start: Examples | None = None,
        **settings: Any,
    ) -> SamplingPlan:
        """The ancestral sampler on its grid: exactly `steps` network calls per sample.

        Args:
            prior: a free model of the data, from whose x_t samples start.
            conditions: of samples, as `generate` takes them; None for those of the examples of the pass, in turn.
            start: (x_0, log_snr), examples that samples start from, diffused to that level (SDEdit).
            settings: of `Ancestral`: eta, final, clip.
        """
        sampler = Ancestral(self.model, self.covariance(covariance), **settings)
        if start is not None:
            label, count = self.resolve(covariance), whole(1)("steps", steps)
            times = self.search.grid_from(start[-1], GridName.parse(grid), sampler.covariance, label, count)
            first = None
        else:
            times, first = self.grid(steps, grid, covariance, prior), self._search(prior).prior
        given = self.of_samples if conditions is None else conditions
        return self.plan(sampler, times, start=first, conditions=given, examples=start)

    def fewest(self, steps: int, data: Data | None = None, free: LinearDenoiser | None = None, **options: Any) -> SamplingPlan:
        """The sampler for so few calls: a table fitted to the network's own flow, or noise too where examples say so.

        Bits are those of `chain`: this is for samples, and has no likelihood. Its `reason` says what was chosen and why. Of a
        `guided` study it is fitted to the guided model's flow, a table per scale.

        Args:
            data: examples by which the table, the family between flow and chain, and others are judged; None takes the table.
            free: mean, basis and spectrum of the data; None for those of `analyse`.
            options: of `few.Few`: path of a folder that keeps paths and tables, count and levels of paths, fitting, progress.

        >>> study.fewest(3, progress=False).sampler.name
        'fewest(K=3)'
        """
        return fewest.of(self, steps, data, few.settings(self, free, options))

    def sample(
        self, count: int, steps: int = 10, seed: int = 0, batch_size: int = 64, **names: Any
    ) -> Float[Tensor, " {count} *dims"]:
        """`count` samples, each a function of (seed, its index) whatever the batch size.

        Args:
            names: of `sampler`: grid, covariance, conditions, eta, ..

        >>> study.sample(count=3, steps=5).shape
        torch.Size([3, 2])
        """
        return self.sampler(steps, **names)(count, seed, batch_size)

    # --- report ---

    def report(self, folder: str | Path, data: Data | None = None, **shown: Any) -> list[Path]:
        """Write a page, with its pictures and its numbers beside it, about how few network calls suffice, and at what cost.

        Args:
            data: that the pass did not see: their bits/dim are measured, K network calls per example, and samples judged by
                their distance to them.
            shown: of `study.report.Request`: steps=(3, 5, 10, 25, 50), network calls K whose bits/dim and times are given;
                samples_at=(1, 2, 3, 5, 10), K that samples are drawn with; count=24 of each; seed, fewest, judged, date.

        Returns:
            report.html, study_report.json, and the pictures.

        Raises:
            InputError: what makes no report.
        """
        drawing("figures", user="a report")
        from score_sde_analytic.study import report  # pictures take long to import

        return report.write(self, folder, data, report.Request.of(shown))

    # --- files ---

    def kept_now(self) -> Kept:
        """What would have to be worked out again, were it not kept."""
        best = self.structures.best if "best" in vars(self.structures) else self.kept.best
        return Kept(self.structures.made, best, self.search.made)

    def save(self, folder: str | Path) -> list[Path]:
        """Write everything to a folder (`study.storage` names the files); returns what was written."""
        return storage.save(self, self.curves, self.kept_now(), folder)

    @classmethod
    def load(cls, folder: str | Path, model: ScoreModel, device: torch.device | str = "cpu") -> Study:
        """Read a saved study of this model: nothing is measured or fitted again.

        Raises:
            FileNotFoundError, ValueError: a missing or damaged file, or one of another model; the message says what differs.
        """
        return cls(**storage.load(folder, model, device))
