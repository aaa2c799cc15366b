"""What every field of the config may be. All of it is checked before any work, whatever the mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from ml_collections import ConfigDict

from score_sde_analytic.checks import (
    COUNT,
    COUNT_OR_NONE,
    LOG_SNR,
    SEED,
    Check,
    checks_of,
    each,
    flag,
    hint,
    named,
    number,
    one_of,
    optional,
    text,
    whole,
)
from score_sde_analytic.coding.arithmetic import ARITHMETICS
from score_sde_analytic.coding.codec import MOST_BATCH, RATIO
from score_sde_analytic.compare.likelihoods import Evaluation
from score_sde_analytic.compare.settings import FINALS, ComparisonSettings
from score_sde_analytic.covariance.head_networks import HEADS
from score_sde_analytic.covariance.head_training import Recipe
from score_sde_analytic.data.pictures import FILTERS
from score_sde_analytic.data.splits import SIZE as PART
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance.energies import DRAWN
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe
from score_sde_analytic.models.model import Coordinates, Quantity
from score_sde_analytic.models.network_training import NetworkRecipe
from score_sde_analytic.models.ode_solvers import ADAPTIVE, FIXED
from score_sde_analytic.models.probability_flow import CLOCKS
from score_sde_analytic.process.density import check_sampling
from score_sde_analytic.study.names import COVARIANCE, CovarianceName, GridName, choose
from score_sde_analytic.study.settings import Knots, Search, Settings, Structure

from . import build, classifier, compare, datasets, networks, train, train_head, translate
from .main import fields

METHODS = ("predicted", "bound", "continuous", "flow", "exact")


def _choice(table: Mapping[str, Any], what: str) -> Check[str]:
    return named(lambda name: choose(table, name, what), f"the name of a {what}")


def _grid(name: str) -> None:
    file = GridName.parse(name).file
    if file is not None and not file.is_file():
        raise InputError(f"there is no saved grid {file}; check the path, or name a kind of grid")


def _part(section: str, settings: type, *names: str) -> dict[str, Check[Any]]:
    """The checks of a class for the fields of its own names; all of them, or these."""
    return {f"{section}.{name}": check for name, check in checks_of(settings).items() if not names or name in names}


def _pair(value: Any) -> tuple[str, str]:
    grid, covariance = value
    return GRID.read(grid), COVARIANCE_OR_USUAL.read(covariance)


def _energy(value: Any) -> tuple[str, float]:
    name, weight = value
    return one_of(translate.EXPERTS).read(name), number().read(weight)


GRID = named(_grid, "the name of a grid")
COVARIANCE_OR_USUAL = named(lambda name: name and CovarianceName.parse(name), "the name of a covariance")
STEPS = whole(1, 100_000)
SECONDS = number(0.0, math.inf)
TOLERANCE = number(above=0.0, most=1e3)
WIDTH = whole(1, 100_000)
#: Of data: squares of it are numbers in float32.
SIZE = number(-1e9, 1e9)

#: Blocks of diffusers' UNet2DModel.
BLOCKS = ("{}Block2D", "Attn{}Block2D", "Resnet{}sampleBlock2D", "Skip{}Block2D", "AttnSkip{}Block2D", "K{}Block2D")

#: Every field, in the order of configs/default.py.
FIELDS: dict[str, Check[Any]] = {
    "seed": SEED,
    "device": text(),
    "threads": whole(0, 4096),
    "data.name": _choice(datasets.DATA, "data set"),
    "data.directory": optional(text()),
    "data.source": text(),
    "data.column": text(),
    "data.label": optional(text()),
    "data.groups": text(),
    "data.size": whole(0, 65_536),
    "data.channels": whole(0, 4),
    "data.resample": one_of(FILTERS),
    "data.workers": whole(0, 1024),
    "data.prefetch": COUNT,
    "data.lo": SIZE,
    "data.hi": SIZE,
    "data.levels": whole(0, 65_536),
    "data.split": each(PART, 3, 3),
    "data.split_seed": SEED,
    "data.patch_size": WIDTH,
    "data.variants": COUNT,
    "schedule.name": _choice({**networks.SCHEDULES, networks.TRAINED: None}, "schedule"),
    "network.source": text(),
    "network.weights": text(),
    "network.predicts": one_of((networks.AUTO, *get_args(Quantity))),
    "network.times.name": _choice({**networks.TIMES, networks.AUTO: None}, "time label"),
    "network.coordinates": one_of((networks.AUTO, *get_args(Coordinates))),
    "network.sigma_data": number(0.0, 1e6),
    "network.condition": text(),
    "network.features": text(),
    "network.channels_last": flag(),
    "network.dtype": one_of((networks.AUTO, *networks.DTYPES)),
    "network.clamp": one_of(("data", networks.TRAINED, "none")),
    "network.recalibrate": one_of(("off", "auto", "mean", "linear")),
    "network.recalibration_draws": whole(32, 10**6),
    "estimate.knots": checks_of(Knots)["count"],
    "estimate.most_knots": checks_of(Knots)["most"],
    "estimate.log_snr_min": LOG_SNR,
    "estimate.log_snr_max": LOG_SNR,
    **_part("estimate", Budget, "answer", "tolerance", "min_draws", "max_draws", "batch_size"),
    "estimate.train_knots": whole(0, 10_000),
    "estimate.condition_knots": whole(0, 10_000),
    "estimate.bounds": checks_of(Settings)["capped"],
    "covariance.name": COVARIANCE_OR_USUAL,
    **_part("covariance", Structure),
    **_part("covariance", Settings, "products", "two_sided"),
    **_part("grid", Search, "points", "table", "min_spacing", "log_snr_max"),
    "grid.name": GRID,
    "grid.steps": STEPS,
    "grid.compare": each(GRID, 1),
    "grid.steps_table": each(STEPS, 1),
    "grid.shown_steps": STEPS,
    "grid.max_steps": whole(2, 100_000),
    "grid.excess": each(number(above=0.0, most=1e3), 1),
    "learned.sampling": check_sampling,
    "learned.ends": each(LOG_SNR, 0, 2),
    "learned.tolerance": number(above=0.0, most=1.0),
    "sample.steps": each(STEPS, 1),
    "sample.fewest": each(STEPS),
    "sample.grids": each(GRID),
    "sample.grid_variance": COVARIANCE_OR_USUAL,
    "sample.variances": each(COVARIANCE),
    "sample.seed": SEED,
    "sample.choose": flag(),
    "sample.guidance": number(0.0, 1e3),
    "sample.null": whole(-1, 10**6),
    "sample.eta": number(0.0, 1.0),
    "sample.final": one_of(FINALS),
    "sample.clip_pixels": number(0.0, 65_536.0),
    "sample.count": COUNT,
    "sample.batch_size": COUNT,
    "evaluate.methods": each(one_of(METHODS), 1),
    "evaluate.decoder": checks_of(Settings)["decoder"],
    "evaluate.agreement": Check("a grid and a covariance", _pair),
    "evaluate.steps": each(STEPS, 1),
    "evaluate.grids": each(GRID),
    "evaluate.paper": flag(),
    "evaluate.predicted_steps": each(STEPS, 1),
    "evaluate.variances": each(COVARIANCE),
    "evaluate.predicted_grids": each(GRID),
    **_part("evaluate", Evaluation),
    "evaluate.continuous.times": COUNT,
    "evaluate.continuous.importance_sampling": flag(),
    "evaluate.flow.entry": one_of(("diffused", "uniform", "direct")),
    "evaluate.flow.log_snr_max": LOG_SNR,
    "evaluate.flow.variable": one_of(CLOCKS),
    "evaluate.flow.solver": one_of((*ADAPTIVE, *FIXED)),
    "evaluate.flow.rtol": TOLERANCE,
    "evaluate.flow.atol": TOLERANCE,
    "evaluate.flow.max_steps": COUNT,
    "evaluate.flow.steps": COUNT_OR_NONE,
    "evaluate.flow.probes": COUNT_OR_NONE,
    "evaluate.flow.law": one_of(("rademacher", "gaussian")),
    "evaluate.flow.importance_samples": COUNT,
    "evaluate.flow.examples_per_block": COUNT,
    **{name: check for name, check in _part("compare", ComparisonSettings).items() if name != "compare.final"},
    "compare.flow": flag(),
    "code.input": text(),
    "code.output": text(),
    "code.steps": STEPS,
    "code.grid": GRID,
    "code.covariance": COVARIANCE_OR_USUAL,
    "code.prior": one_of(("gaussian", "")),
    "code.ratio": RATIO,
    "code.arithmetic": one_of(ARITHMETICS),
    "code.batch_size": whole(1, MOST_BATCH),
    "code.embed": flag(),
    "translate.source": text(),
    "translate.count": COUNT_OR_NONE,
    "translate.start": each(LOG_SNR, 1),
    "translate.energies": each(Check("an expert (cosine, lowpass) and its weight", _energy)),
    "translate.strengths": each(number(0.0)),
    "translate.factor": whole(1, 65_536),
    "translate.classifier": text(),
    "translate.reference": DRAWN,
    "translate.steps": STEPS,
    "translate.grid": GRID,
    "translate.covariance": COVARIANCE_OR_USUAL,
    "translate.source_label": whole(-1, 10**6),
    "translate.label": whole(-1, 10**6),
    "translate.seed": SEED,
    "translate.batch_size": COUNT,
    "translate.shown": whole(1, 100),
    "head.kinds": each(one_of(HEADS)),
    "head.path": optional(text()),
    "head.architecture": one_of(train_head.ARCHITECTURES),
    "head.hidden": WIDTH,
    "head.blocks": whole(0, 1000),
    "head.position": flag(),
    **_part("head", Recipe),
    "head.calibrate": flag(),
    "head.calibrate_knots": whole(1, 10_000),
    "head.held_out_draws": COUNT,
    "head.checkpoint_seconds": SECONDS,
    **_part("train", NetworkRecipe),
    "train.grid": text(),
    "train.grid_steps": STEPS,
    "train.fourier": whole(0, 16),
    "train.validate_draws": COUNT,
    "train.checkpoint_seconds": SECONDS,
    **{f"train.unet.{name}": WIDTH for name in ("sample_size", "in_channels", "out_channels", "layers_per_block")},
    **{f"train.unet.{name}": WIDTH for name in ("norm_num_groups", "attention_head_dim")},
    "train.unet.block_out_channels": each(WIDTH, 1),
    "train.unet.down_block_types": each(one_of(block.format("Down") for block in BLOCKS), 1),
    "train.unet.up_block_types": each(one_of(block.format("Up") for block in BLOCKS), 1),
    "train.unet.dropout": number(0.0, below=1.0),
    **_part("classifier", ClassifierRecipe),
    "classifier.against": text(),
}
#: Fields that some configs have.
OPTIONAL: dict[str, Check[Any]] = {
    "schedule.steps": STEPS,
    "schedule.path": text(),
    **{
        f"schedule.{name}": number(-1e6, 1e6)
        for name in ("beta_min", "beta_max", "beta_start", "beta_end", "max_beta", "sigma_min", "sigma_max", "offset", "shift")
    },
    "schedule.log_snr_min": number(-math.inf, 1e6),
    "schedule.zero_terminal_snr": flag(),
    **{f"schedule.{name}": each(number(0.0, 1e9), 1, 100_000) for name in ("betas", "alpha_bar", "sigmas")},
    "network.times.steps": STEPS,
    "network.times.scale": number(),
    "network.times.shift": number(),
    "network.times.lo": number(-math.inf),
    "network.times.hi": number(most=math.inf),
    "network.times.integer": flag(),
    "network.times.from_noise": flag(),
    "mixture.weights": each(number(above=0.0, most=1e9), 1),
    "mixture.means": each(each(SIZE, 1), 1),
    "mixture.stds": each(each(number(0.0, 1e9), 1), 1),
    "mixture.components": whole(1, 10_000),
    "mixture.dim": WIDTH,
    "mixture.scale": number(0.0, 1e9),
    "mixture.seed": SEED,
    "mixture.variance_max": number(above=0.0, most=1e9),
    "mixture.variance_min": number(above=0.0, most=1e9),
}
#: Settings of other packages, which check them themselves.
FOREIGN = ("train.unet.",)

#: What fields must be together: part of the config -> what is made of it.
TOGETHER: dict[str, Callable[[ConfigDict], object]] = {
    "data": datasets.data_range,
    "schedule": networks.configured,
    "mixture": lambda config: datasets.mixture(config) if config.data.name == "mixture" else None,
    "estimate": build.budget,
    "config": build.study_settings,
    "evaluate.flow": lambda config: (build.divergence(config.evaluate.flow), build.ode_solver(config.evaluate.flow)),
    "compare": compare.settings,
    "head": train_head.recipe,
    "train": train.recipe,
    "classifier": classifier.recipe,
}


def validate(config: ConfigDict) -> None:
    """Check every field, and what they must be together; scalars of numpy and torch become Python's own.

    Raises:
        InputError: naming a field, its value, and what is allowed.
    """
    known = FIELDS | OPTIONAL
    values = dict(fields(config))
    for name, value in values.items():
        if name in known:
            _keep(config, name, known[name](name, value))
        elif not name.startswith(FOREIGN):
            raise InputError(f"nothing reads a field {name!r} of the config{hint(name, known)}")
    if missing := set(FIELDS) - set(values):
        raise InputError(f"the config lacks {', '.join(sorted(missing))}; begin it with get_config() of configs/default.py")
    for part, make in TOGETHER.items():
        try:
            make(config)
        except InputError as error:
            raise InputError(f"{part}: {error}") from error


def _keep(config: ConfigDict, name: str, value: Any) -> None:
    *sections, field = name.split(".")
    for section in sections:
        config = config[section]
    if type(config[field]) is not type(value):
        with config.ignore_type():
            config[field] = value
