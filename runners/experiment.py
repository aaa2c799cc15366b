"""One experiment: its data, model, measurements and chains, each made on first use and kept in the workdir."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.head_networks import HEADS, load_head
from score_sde_analytic.covariance.heads import Interpolated, covariance_of
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, IsotropicCovariance
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.data.ranges import DataStatistics, as_dataset
from score_sde_analytic.files import write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.grids.optimal import Objective, closed_form, entropic, refined
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure.curve import Bound, NoiseCurve, Source, residual_bound
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.held_out import PLAIN, Choice, HeldOut, jackknife_error
from score_sde_analytic.measure.held_out import choose as choose_fit
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.process.decoder import CategoricalDecoder, Decoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.uncertainty import Estimate

from . import build

FROM_CURVE = {"closed_form": closed_form, "refined": refined, "entropic": entropic}
SOURCES: tuple[Source, ...] = ("residual", "score")
HANDCRAFTED: dict[str, IsotropicCovariance] = {"beta": Beta(), "beta_tilde": BetaTilde()}
ALIASES = {"isotropic": "residual", "zero": "beta_tilde"}


class Experiment:
    """Lazily built parts of one config + workdir.

    Args:
        covariances: recorded besides those that the config names, in a pass over the validation split of its own.
    """

    def __init__(self, config: ConfigDict, workdir: Path, covariances: Iterable[str] = ()) -> None:
        self.config, self.workdir, self._named = config, workdir, tuple(covariances)
        self.device = build.device(config)

    @cached_property
    def splits(self) -> build.Splits:
        return build.splits(self.config)

    @cached_property
    def schedule(self) -> Schedule:
        return build.schedule(self.config)

    @cached_property
    def model(self) -> ScoreModel:
        return build.model(self.config, self.workdir, self.device)

    @cached_property
    def statistics(self) -> DataStatistics:
        """Of the validation split, or exact."""
        if self.splits.statistics is not None:
            return self.splits.statistics
        return DataStatistics.of(as_dataset(self.splits.validation), self.splits.data_range)

    @cached_property
    def test(self) -> Tensor:
        """The test examples that bounds are measured on."""
        return self.splits.test[: self.config.evaluate.examples or None]

    @property
    def moments_path(self) -> Path:
        """A file of its own for every set of recorded bases and statistics, which are part of a pass."""
        if not self.recorders:
            return self.workdir / "moments.safetensors"
        recorded = digest({name: recorder.config() for name, recorder in self.recorders.items()})
        return self.workdir / f"moments_{recorded[:8]}.safetensors"

    @cached_property
    def moments(self) -> Moments:
        """Measured on the validation split, or continued from the workdir."""
        settings, validation = self.config.estimate, self.splits.validation
        low, high = self.schedule.log_snr_range
        knots = np.linspace(max(settings.log_snr_min, low), min(settings.log_snr_max, high), settings.knots)
        return estimate(
            self.model,
            validation,
            knots,
            statistics=self.statistics,
            data_range=self.splits.data_range,
            tolerance=settings.tolerance,
            min_draws=settings.min_draws,
            max_draws=settings.max_draws,
            batch_size=settings.batch_size,
            seed=self.config.seed,
            path=self.moments_path,
            observers=self.recorders,
            device=self.device,
        )

    @cached_property
    def training(self) -> Moments | None:
        """The same network on its training split, at every few knots: what it learned by heart shows as a smaller R."""
        settings, knots = self.config.estimate, self.moments.log_snr
        if not settings.train_knots or self.splits.statistics is not None:  # a closed form has no training data
            return None
        return estimate(
            self.model,
            self.splits.train,
            knots[np.linspace(0, len(knots) - 1, settings.train_knots).round().astype(int)],
            data_range=self.splits.data_range,
            min_draws=settings.min_draws,
            max_draws=settings.min_draws,
            batch_size=settings.batch_size,
            seed=self.config.seed,
            path=self.workdir / "moments_train.safetensors",
            device=self.device,
        )

    @cached_property
    def recorders(self) -> dict[str, Recorder]:
        """What the pass over the validation split keeps for covariances diagonal in a basis: all that any setting names."""
        settings, config = self.config.covariance, self.config
        # A closed form is not trained on examples: any of its draws will do.
        train = self.splits.train if self.splits.statistics is None else self.splits.validation
        named = [settings.name, config.sample.grid_variance, config.evaluate.agreement[1]]
        named = [name for name in (*named, *config.sample.variances, *config.evaluate.variances, *self._named) if name]
        pairs = [name.partition("|")[::2] for name in named if name.partition("|")[0] in build.BASES]
        usual = build.default_structure(train) if "auto" in named else ((), ())
        bases = dict.fromkeys([*(settings.bases or usual[0]), *(basis for basis, _ in pairs)])
        statistics = [*(settings.statistics or usual[1]), *(s for _, s in pairs if s)]
        made = {name: build.choose(build.STATISTICS, name, "statistic")() for name in dict.fromkeys(statistics)}
        everywhere = {name: statistic for name, statistic in made.items() if not statistic.local}
        return {
            name: Recorder(build.choose(build.BASES, name, "basis")(train, settings), made if name == "pixel" else everywhere)
            for name in bases
        }

    def draws(self, basis: str) -> ResidualDraws:
        """The recorded draws in one basis."""
        moments = self.moments
        if basis not in self.recorders:
            choices = ", ".join(self.recorders) or "none"
            raise ValueError(f"basis {basis!r} was not recorded (recorded: {choices}); add it to covariance.bases")
        if basis not in self._draws:
            self._draws[basis] = self.recorders[basis].result(moments.log_snr)
        return self._draws[basis]

    def choice(self, name: str) -> Choice:
        """The settings of a covariance, "dct" or "dct|high_frequency", that are best by held-out bits."""
        if name not in self._choices:
            settings, (basis, bar, statistic) = self.config.covariance, name.partition("|")
            if bar and not statistic:
                raise ValueError(f"{name!r} names no statistic; write {basis!r}, or '{basis}|high_frequency'")
            if statistic and max(settings.bins) < 2:
                raise ValueError(f"{name!r} needs bins to condition on: covariance.bins must hold a number above 1")
            if statistic and statistic not in self.recorders[basis].statistics:
                raise ValueError(f"statistic {statistic!r} was not recorded for {basis!r}; add it to covariance.statistics")
            ranked = choose_fit(
                self.draws(basis),
                settings.bins,
                settings.shrinkage,
                settings.smooth,
                [statistic] if statistic else [],
                settings.steps,
            )
            self._choices[name] = next((c for c in ranked if c.statistic == (statistic or None)), PLAIN)
        return self._choices[name]

    def diagonal(self, name: str) -> Diagonal:
        """A covariance diagonal in a basis: "dct", or conditioned, "dct|high_frequency", with the best held-out settings."""
        if name not in self._diagonals:
            basis, _, statistic = name.partition("|")
            draws, recorder, choice = self.draws(basis), self.recorders[basis], self.choice(name)
            correction = HeldOut(draws, choice).correction
            found = Diagonal(choice.fit(draws), recorder.basis, recorder.statistics.get(statistic), correction)
            self._diagonals[name] = found
        return self._diagonals[name]

    @cached_property
    def structures(self) -> dict[str, Estimate]:
        """Held-out nats per dimension that every recorded covariance saves over the isotropic one, best first.

        In a chain of `covariance.steps` steps even in log-SNR over the knots; errors are paired, over groups of examples.
        """
        steps = self.config.covariance.steps
        names = [name for basis, r in self.recorders.items() for name in (basis, *(f"{basis}|{s}" for s in r.statistics))]
        if not names:
            raise ValueError("no basis was recorded to choose from; set covariance.bases")

        def cost(name: str) -> Array:
            return HeldOut(self.draws(name.partition("|")[0]), self.choice(name)).chain(steps)

        isotropic = HeldOut(self.draws(names[0]).pooled(), PLAIN).chain(steps)
        saved = {name: isotropic - cost(name) for name in names}
        parts = {name: Estimate(float(values[0]), jackknife_error(values)) for name, values in saved.items()}
        return dict(sorted(parts.items(), key=lambda item: -item[1].value))

    def resolve(self, name: str) -> str:
        """The covariance that a setting means: "auto" and aliases spelt out, empty for config.covariance.name."""
        name = name or self.config.covariance.name or "residual"
        if name != "auto":
            return ALIASES.get(name, name)
        best, saved = next(iter(self.structures.items()))
        return best if saved.value > 0.0 else "residual"

    def variances(self, names: Iterable[str]) -> tuple[str, ...]:
        """Resolved names, and config.covariance.name among them."""
        return tuple(dict.fromkeys(self.resolve(name) for name in (*names, "")))

    @cached_property
    def tweedie(self) -> Tweedie:
        """The state-dependent covariance of the network's own Jacobian."""
        settings = self.config.covariance
        return Tweedie(self.model, settings.products, two_sided=settings.two_sided)

    def learned(self, name: str) -> Covariance:
        """A head's covariance: "npr", or as it was before calibration, "npr|uncalibrated"."""
        if name not in self._learned:
            kind, _, suffix = name.partition("|")
            if suffix not in ("", "uncalibrated"):
                raise ValueError(f"unknown variance {name!r}; a head is {kind!r} or '{kind}|uncalibrated'")
            if kind == "interpolated" and isinstance(self.model.net, LearnedRange):
                self._learned[name] = Interpolated()  # the network's own
                return self._learned[name]
            head = load_head(build.head_directory(self.config, self.workdir, kind), kind, self.model).to(self.device)
            if suffix:
                head.set_calibration(head.knots[:0], head.shift[:0])
            self._learned[name] = covariance_of(head)
        return self._learned[name]

    @cached_property
    def _learned(self) -> dict[str, Covariance]:
        return {}

    @cached_property
    def _diagonals(self) -> dict[str, Diagonal]:
        return {}

    @cached_property
    def _choices(self) -> dict[str, Choice]:
        return {}

    @cached_property
    def _draws(self) -> dict[str, ResidualDraws]:
        return {}

    @cached_property
    def bound(self) -> Bound:
        """What an exact score could have at most, from the data alone."""
        return residual_bound(self.statistics, self.splits.data_range)

    @cached_property
    def curves(self) -> dict[Source, NoiseCurve]:
        """Fitted curves by source; capped where config.estimate.bounds says so."""
        capped = self.config.estimate.bounds
        return {s: NoiseCurve.fit(self.moments, s, self.bound if s in capped else None) for s in SOURCES}

    @cached_property
    def reconstruction(self) -> Reconstruction:
        return Reconstruction.of(self.moments)

    @cached_property
    def lattice(self) -> Lattice:
        settings = self.config.grid
        if not settings.table:
            return Lattice.even_log_snr(self.schedule, settings.points, settings.log_snr_max)
        times = np.arange(1, settings.table + 1) / settings.table
        return Lattice(self.schedule, times[self.schedule.log_snr(times) <= settings.log_snr_max])

    @cached_property
    def first_cost(self) -> Array:
        """Reconstruction term at every lattice point."""
        return self.last_cost(self.moments, self.lattice.levels.log_snr)

    def last_cost(self, moments: Moments, log_snr: Array) -> Array:
        """Nats per dimension of the configured decoder's step to data from each of these log-SNRs, at its best."""
        name = self.config.evaluate.decoder
        if name == "gaussian":
            return Reconstruction.of(moments).best(log_snr)[0]
        if name == "none":  # bounds on data with different noise do not compare: the first time is the lattice's
            return np.where(log_snr == log_snr.max(), 0.0, np.inf)
        knots = np.linspace(log_snr.min(), log_snr.max(), 64)
        histogram = self.statistics.histogram
        if histogram is None:
            raise ValueError("evaluate.decoder='categorical' is for discrete data; set data.levels, or use 'gaussian'")
        tables = [CategoricalDecoder.table(self.schedule.level_at(lam), self.splits.data_range) for lam in knots]
        return PchipInterpolator(knots, np.array(tables) @ histogram)(log_snr)

    @staticmethod
    def check_covariance(name: str) -> None:
        """Refuse a name that no covariance has, before any work is done for it.

        Raises:
            ValueError: an unknown covariance, basis or statistic.
        """
        base, bar, given = ALIASES.get(name, name).partition("|")
        if base in build.BASES and bar:
            build.choose(build.STATISTICS, given, "statistic")
        if base not in {*HANDCRAFTED, *SOURCES, *build.BASES, *HEADS, "tweedie", "auto"}:
            choices = [*HANDCRAFTED, *ALIASES, *SOURCES, *build.BASES, "BASIS|STATISTIC", "tweedie", *HEADS, "auto"]
            raise ValueError(f"unknown variance {name!r}; choose one of {', '.join(choices)}")

    def covariance(self, name: str) -> Covariance:
        """A covariance by name, as in config.covariance.name."""
        name = self.resolve(name)
        if name.partition("|")[0] in build.BASES:
            return self.diagonal(name)
        if name == "tweedie":
            return self.tweedie
        if name.partition("|")[0] in HEADS:
            return self.learned(name)
        if name in SOURCES:
            return Isotropic(self.curves[name])
        self.check_covariance(name)
        return HANDCRAFTED[name]

    @cached_property
    def _optimal(self) -> dict[str, dict[int, Grid]]:
        return {}

    def objective(self, moments: Moments) -> Objective:
        """The cost of chains with the optimal variance, priced by these moments."""
        lam = self.lattice.levels.log_snr[::-1]
        last = None if self.config.evaluate.decoder == "none" else (lam, self.last_cost(moments, lam))
        return Objective(NoiseCurve.fit(moments), float(lam[0]), float(lam[-1]), last)

    @cached_property
    def moments_objective(self) -> Objective:
        return self.objective(self.moments)

    def grid(self, name: str, variance: str, steps: int) -> Grid:
        """A grid by name, from t = 1 to the lattice's first time; or read from NAME.json.

        "dp" optimises all times for this variance, NAME_tuned the first time only. "closed_form", "refined" and "entropic"
        follow from the curve, whatever the variance; "klub" is the optimal grid of beta-tilde.
        """
        if name.endswith(".json"):
            return self._read_grid(Path(name), steps)
        if name in FROM_CURVE:
            return FROM_CURVE[name](self.schedule, self.moments_objective, steps)
        if name == "klub":
            return replace(self.grid("dp", "beta_tilde", steps), objective="KLUB: dp with beta_tilde")
        variance = self.resolve(variance)
        covariance, price = self.covariance(variance), self.curves["residual"]
        if not covariance.priced and (name == "dp" or name.endswith("_tuned")):
            choices = ", ".join([*FROM_CURVE, *build.GRIDS])
            raise ValueError(f"no curve prices the variance {variance!r}, as grid {name!r} needs; choose one of {choices}")
        if name != "dp":
            if name.removesuffix("_tuned") not in build.GRIDS:
                choices = ", ".join(["dp", "klub", *FROM_CURVE, *build.GRIDS])
                raise ValueError(f"unknown grid {name!r}; choose one of {choices}, a fixed one with _tuned, or a file .json")
            make = partial(build.GRIDS[name.removesuffix("_tuned")], self.schedule, steps)
            if name.endswith("_tuned"):
                return self.lattice.best_first(make, price, covariance, self.first_cost)
            return make(float(self.lattice.times[0]))
        if steps not in self._optimal.get(variance, {}):
            most = max(steps, *self.config.evaluate.predicted_steps, *self.config.sample.steps)
            most = min(most, len(self.lattice.times))
            name, spacing = f"bits/dim with {variance}", self.config.grid.min_spacing
            self._optimal[variance] = self.lattice.optimal_grids(price, covariance, self.first_cost, most, name, spacing)
        if steps not in self._optimal[variance]:
            raise ValueError(f"no grid of {steps} steps fits the lattice; raise grid.points or lower grid.min_spacing")
        return self._optimal[variance][steps]

    def _read_grid(self, path: Path, steps: int) -> Grid:
        grid = Grid.load(path)
        if grid.steps != steps:
            raise ValueError(f"{path} has {grid.steps} steps, not {steps}; ask for that many steps")
        return grid

    def chain(self, grid: str, variance: str, steps: int) -> Chain:
        """Grid, variance and the decoder that is best for the grid's first time."""
        times = self.grid(grid, variance, steps)
        return Chain(times, self.covariance(variance), self.decoder(times.times[-2]))

    def decoder(self, t_1: float) -> Decoder:
        """The last step at first time t_1: the Gaussian decoder that is best there, or another as configured."""
        name = self.config.evaluate.decoder
        if name == "gaussian":
            return self.reconstruction.decoder(self.schedule.log_snr(t_1))
        other: dict[str, Callable[[], Decoder]] = {"categorical": CategoricalDecoder, "none": NoDecoder}
        return build.choose(other | {"gaussian": GaussianDecoder}, name, "decoder")()

    def first(self) -> tuple[float, Decoder]:
        """(t_1, decoder) that are best for infinitely many steps: where the continuous bound and the flow begin."""
        objective = self.moments_objective
        t_1 = float(self.schedule.time(objective.levels[objective.best_first(math.inf)]))
        return t_1, self.decoder(t_1)

    def record(self, section: str, content: Any) -> Path:
        """Merge a section into WORKDIR/report.json."""
        path = self.workdir / "report.json"
        try:
            report = json.loads(path.read_text()) if path.exists() else {}
        except json.JSONDecodeError:
            report = {}  # rewritten by this run
        report.pop("config", None)
        report.setdefault("configs", {})[section] = json.loads(self.config.to_json_best_effort())  # sections may differ
        report["model"] = self.model.fingerprint()
        report["versions"] = {"torch": torch.__version__, "numpy": np.__version__}
        report[section] = content
        write_text(path, json.dumps(report, indent=1, default=_plain) + "\n")
        return path


def calibration(moments: Moments) -> dict[str, Any]:
    """Moments with their errors at every knot, and how far 1 - Lambda is from R."""
    difference, size = moments.calibration()
    knots = {name: getattr(moments, name) for name in ("noise_power", "cross", "residual")}
    errors = {f"{name}_stderr": moments.stderr(name) for name in knots}
    contrast = {"1-noise_power-residual": difference, "1-noise_power-residual_in_standard_errors": size}
    return {"log_snr": moments.log_snr, "draws": moments.draws} | knots | errors | contrast


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in a report")
