"""The network of a config, from wherever it lies, fed and read as its source says or as config.network does.

config.network.source: empty for the one that --mode=train left in WORKDIR; the name of a shipped network; a folder that
save_unet wrote; "diffusers:FOLDER", a pipeline's or network's; "MODULE:FUNCTION", which makes a network, or a whole ScoreModel;
"torchscript:FILE".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

import score_sde_analytic
from score_sde_analytic.checks import hint
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.models.building import load_torchscript, network_from
from score_sde_analytic.models.diffusers_folder import load_diffusers
from score_sde_analytic.models.identity import unwrapped
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange, WithFeatures, load_unet
from score_sde_analytic.models.times import (
    Continuous,
    DescendingIndex,
    Interpolant,
    LogSNR,
    OneBased,
    Sigma,
    Times,
    ZeroBased,
)
from score_sde_analytic.models.weights import load_weights
from score_sde_analytic.process.schedule import (
    VE,
    CosineVP,
    Learned,
    LinearVP,
    RectifiedFlow,
    Schedule,
    Sigmas,
    SubVP,
    Tabulated,
)
from score_sde_analytic.study.names import construct

from .datasets import is_mixture, mixture

ASSETS = Path(score_sde_analytic.__file__).parent / "assets"
#: What a source may be.
KINDS = "name a shipped one, a folder, diffusers:FOLDER, file.py:FUNCTION, MODULE:FUNCTION or torchscript:FILE"
#: The name of the schedule that a network was trained with.
TRAINED = "trained"
#: As the source says.
AUTO = "auto"
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear_vp": LinearVP,
    "cosine_vp": CosineVP,
    "sub_vp": SubVP,
    "ve": VE,
    "rectified_flow": RectifiedFlow,
    "learned": Learned.load,
    "ddpm_linear": Tabulated.linear,
    "ddpm_scaled_linear": Tabulated.scaled_linear,
    "ddpm_cosine": Tabulated.cosine,
    "ddpm_sigmoid": Tabulated.sigmoid,
    "ddpm_laplace": Tabulated.laplace,
    "betas": Tabulated,
    "alpha_bar": Tabulated.of_alpha_bar,
    "sigmas": Sigmas,
}
TIMES: dict[str, Callable[..., Times]] = {
    "continuous": Continuous,
    "zero_based": ZeroBased,
    "one_based": OneBased,
    "descending_index": DescendingIndex,
    "interpolant": Interpolant,
    "sigma": Sigma,
    "log_snr": LogSNR,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Found:
    """A network, and what its source says of it.

    Attributes:
        wiring: settings of `ScoreModel` that the source knows.
        schedule: that it was trained with; None where it does not say, or where any will do.
    """

    net: nn.Module
    wiring: dict[str, Any]
    schedule: Schedule | None = None


def directory(config: ConfigDict, workdir: Path) -> Path:
    """The folder of a network of ours."""
    if not config.network.source:
        return workdir / "network"
    shipped, own = ASSETS / config.network.source, Path(config.network.source)
    if shipped.is_dir():
        return shipped
    if not own.exists():
        near = hint(config.network.source, (folder.name for folder in ASSETS.glob("*_unet")))
        raise MissingFileError(
            f"there is no network {config.network.source}{near or f': {KINDS}'} (or run --mode=train to make one)"
        )
    return own


def _ours(folder: Path) -> Found:
    net, wiring = load_unet(folder)
    settings: Any = unwrapped(net).config
    learned_range = settings.out_channels == 2 * settings.in_channels
    times = construct(TIMES, wiring["times"], "network time label")
    told = {"predicts": wiring["predicts"], "times": times, "coordinates": wiring["coordinates"]}
    single = net.float()  # however it is stored; what it runs in is for network.dtype to say
    return Found((LearnedRange if learned_range else WithFeatures)(single), told)


def _diffusers(folder: str) -> Found:
    net, training = load_diffusers(folder)
    return Found(net, {}) if training is None else Found(net, training.wiring, training.schedule)


def find(config: ConfigDict, workdir: Path) -> Found | ScoreModel:
    """The network of config.network.source; a ScoreModel where a function makes one."""
    kind, _, rest = config.network.source.partition(":")
    if config.network.weights and (not rest or kind in ("diffusers", "torchscript")):
        raise InputError("network.weights are for a network that a function makes; this source has its own, so set it to ''")
    if not rest or Path(config.network.source).exists():
        return _ours(directory(config, workdir))
    if kind == "diffusers":
        return _diffusers(rest)
    made = load_torchscript(rest) if kind == "torchscript" else network_from(config.network.source)
    if isinstance(made, ScoreModel):
        return made
    if config.network.weights:
        load_weights(made, config.network.weights)
    return Found(made.eval(), {})


def schedule(config: ConfigDict, found: Found) -> Schedule:
    """The forward process: that of the config, or the one that the network was trained with."""
    process = configured(config) or found.schedule
    if process is None:
        raise InputError(f"{config.network.source} does not say its schedule: set schedule.name; --mode=inspect tries several")
    return process


def configured(config: ConfigDict) -> Schedule | None:
    """The forward process of config.schedule; None for that which the network was trained with."""
    if config.schedule.name == TRAINED:
        return None
    return construct(SCHEDULES, config.schedule.to_dict(), "schedule")


def wiring(config: ConfigDict, found: Found) -> dict[str, Any]:
    """Settings of `ScoreModel`, those of config.network before those of the source."""
    own = config.network
    told = dict(found.wiring) | {name: own[name] for name in ("predicts", "coordinates") if own[name] != AUTO}
    if own.times.name != AUTO:
        told["times"] = construct(TIMES, own.times.to_dict(), "network time label")
    if own.sigma_data:
        told["sigma_data"] = own.sigma_data
    if own.dtype != AUTO:
        told["dtype"] = DTYPES[own.dtype]
    if own.clamp != TRAINED:
        told["clamp"] = (config.data.lo, config.data.hi) if own.clamp == "data" else None
    if own.condition:
        told["conditions"] = [own.condition]
    lacking = [name for name in ("predicts", "times") if name not in told]
    if lacking:
        fields = " and ".join(f"network.{name}{'.name' if name == 'times' else ''}" for name in lacking)
        raise InputError(
            f"{own.source} does not say how its network is fed and read: set {fields}; --mode=inspect tries what is usual"
            " (settings of times go with them: --config.network.times=\"{'name': 'zero_based', 'steps': 1000}\")"
        )
    return told


def model(config: ConfigDict, workdir: Path, target: torch.device) -> ScoreModel:
    """The pretrained network (or the mixture's exact score) under its schedule."""
    if is_mixture(config):
        _without_features(config, "a mixture has no layers")
        return mixture(config).to(target).score_model(configured(config) or LinearVP())
    found = find(config, workdir)
    if isinstance(found, ScoreModel):
        _without_features(config, "this source is a ScoreModel, whose network is wrapped where it is made, by WithFeatures")
        return found
    settings, process = wiring(config, found), schedule(config, found)
    trained = found.schedule
    if (
        trained is not None
        and isinstance(settings["times"], ZeroBased | DescendingIndex)
        and process.config() != trained.config()
    ):
        raise InputError(
            f"this network was trained with {trained} and is fed its index: set schedule.name={TRAINED}, or network.times to"
            " something that speaks of the noise itself"
        )
    net = found.net.to(target)
    if config.network.features:
        net = WithFeatures(net, config.network.features)
    if config.network.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ScoreModel(net, process, **settings)


def _without_features(config: ConfigDict, why: str) -> None:
    if config.network.features:
        raise InputError(f"network.features={config.network.features}: {why}; leave it empty")


def head_directory(config: ConfigDict, workdir: Path, kind: str) -> Path:
    """Where the head of this kind is: config.head.path, else WORKDIR/heads, else among those shipped with the network."""
    if config.head.path:
        return Path(config.head.path)
    own = workdir / "heads"
    if is_mixture(config) or not config.network.source or (own / f"{kind}.json").is_file():
        return own
    shipped = ASSETS / config.network.source.replace("_unet", "_heads")
    return shipped if (shipped / f"{kind}.json").is_file() else own
