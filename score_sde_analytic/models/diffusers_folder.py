"""Networks as diffusers stores them: what a scheduler's config says of how a network was trained, and the network itself.

A pipeline's folder holds the network (unet/ or transformer/) and scheduler/scheduler_config.json; a folder of the network alone
does not say how it is fed. Where a key is absent the scheduler class's own default holds, as it does in diffusers.

    tables      alpha_bar by name or as trained; network fed the index 0 .. N - 1; eps, x_0 or v
    flow        x_t = (1 - t) x_0 + t eps, fed 1000 t, velocity eps - x_0; a shift moves times only
    EDM         x_0 + sigma eps, fed log(sigma) / 4, the raw F of Karras et al. (2022)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, MissingFileError, UnsupportedError
from score_sde_analytic.extras import optional
from score_sde_analytic.files import read_plain_json
from score_sde_analytic.models.clamps import Clamp, DynamicThreshold
from score_sde_analytic.models.identity import Wrapper
from score_sde_analytic.models.model import Coordinates, Quantity, ScoreModel
from score_sde_analytic.models.networks import CONFIG, LearnedRange
from score_sde_analytic.models.times import Interpolant, LogSNR, Times, ZeroBased
from score_sde_analytic.process.continuous import VE, RectifiedFlow
from score_sde_analytic.process.forward import Schedule
from score_sde_analytic.process.tabulated import Tabulated

RESTORE = "save it again with save_pretrained"
SCHEDULER = "scheduler_config.json"
#: Folders of a pipeline that hold the network.
PARTS = ("unet", "transformer", "prior")
#: Schedulers of one table of betas each; the last is of this package.
TABLES = {
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep"),
        *("DPMSolverSDE", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
        *("LMSDiscrete", "UniPCMultistep", "SASolver", "RePaint", "AnalyticDPM"),
    )
}
FLOWS = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "AnalyticFlowScheduler"}
EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}
PREDICTIONS: dict[str, Quantity] = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
#: Tables by what diffusers calls them; those with two ends take them.
BETAS: dict[str, Callable[..., Tabulated]] = {
    "linear": Tabulated.linear,
    "scaled_linear": Tabulated.scaled_linear,
    "sigmoid": Tabulated.sigmoid,
    "squaredcos_cap_v2": Tabulated.cosine,
    "laplace": Tabulated.laplace,
}
WITH_ENDS = ("linear", "scaled_linear", "sigmoid")


@dataclass(frozen=True)
class Training:
    """How a network is fed and read, as `ScoreModel` is told.

    Attributes:
        shift: of a flow's times, which the grids of its pipeline have; 1 for none.
    """

    schedule: Schedule
    predicts: Quantity
    times: Times
    coordinates: Coordinates = "schedule"
    clamp: Clamp | None = None
    sigma_data: float = 0.5
    shift: float = 1.0

    @property
    def wiring(self) -> dict[str, Any]:
        """As settings of `ScoreModel`, all but the schedule."""
        return {name: getattr(self, name) for name in ("predicts", "times", "coordinates", "clamp", "sigma_data")}

    def model(self, net: nn.Module, **settings: Any) -> ScoreModel:
        """The network so wired; settings replace."""
        return ScoreModel(net, **({"schedule": self.schedule} | self.wiring | settings))


def training_of(config: Mapping[str, Any]) -> Training:
    """What a scheduler's config says of the network's training.

    >>> training = training_of({"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"})
    >>> training.predicts, training.times, training.clamp
    ('v', ZeroBased(steps=1000, scale=None, integer=False), (-1.0, 1.0))

    Raises:
        UnsupportedError: a scheduler of distilled networks, or one that this package does not know.
        InputError: a name of a table or prediction that is none of diffusers'.
    """
    name = str(config.get("_class_name", ""))
    known = _defaults(name) | dict(config)
    if name in FLOWS or known.get("use_flow_sigmas"):
        steps, shift = int(known["num_train_timesteps"]), float(known.get("shift", known.get("flow_shift", 1.0)) or 1.0)
        return Training(RectifiedFlow(), "velocity", Interpolant(float(steps)), shift=shift)
    if name in EDM:
        if known["prediction_type"] != "epsilon":
            raise UnsupportedError(
                f"{name} with prediction_type {known['prediction_type']!r}; only 'epsilon', EDM's own, is known"
            )
        exploding, sigma_data = VE(known["sigma_min"], known["sigma_max"]), float(known["sigma_data"])
        return Training(exploding, "edm", LogSNR(scale=-0.125), "edm", sigma_data=sigma_data)
    if name not in TABLES:
        raise UnsupportedError(
            f"a scheduler {name or 'without _class_name'} is not one of a table of betas, a flow or EDM: distilled and other"
            " networks have no forward process here; give ScoreModel(net, schedule, predicts=, times=) yourself"
        )
    schedule = _table(known)
    predicts = PREDICTIONS.get(str(known["prediction_type"]))
    if predicts is None:
        raise InputError(f"prediction_type {known['prediction_type']!r} is none of {', '.join(PREDICTIONS)}")
    return Training(schedule, predicts, ZeroBased(len(schedule.betas)), clamp=_clamp(known))


def _defaults(name: str) -> dict[str, Any]:
    """Of a scheduler class."""
    kind = getattr(optional("diffusers", extra="images", user="a network of diffusers"), name, None)
    parameters = inspect.signature(kind.__init__).parameters if kind is not None else {}
    return {key: each.default for key, each in parameters.items() if each.default is not inspect.Parameter.empty}


def _table(known: Mapping[str, Any]) -> Tabulated:
    zero = bool(known.get("rescale_betas_zero_snr", False))
    if known.get("trained_betas") is not None:
        return Tabulated(known["trained_betas"], zero)
    law = BETAS.get(str(known["beta_schedule"]))
    if law is None:
        raise InputError(f"beta_schedule {known['beta_schedule']!r} is none of {', '.join(BETAS)}")
    ends = (known["beta_start"], known["beta_end"]) if known["beta_schedule"] in WITH_ENDS else ()
    return law(int(known["num_train_timesteps"]), *ends, zero_terminal_snr=zero)


def _clamp(known: Mapping[str, Any]) -> Clamp | None:
    """What confines x_0; thresholds go before ranges, as in diffusers."""
    if known.get("thresholding"):
        return DynamicThreshold(known["dynamic_thresholding_ratio"], known["sample_max_value"])
    half = float(known.get("clip_sample_range") or 1.0)
    return (-half, half) if known.get("clip_sample") else None


class Keyworded(Wrapper):
    """A network whose time is a keyword, as of diffusers' transformers: `net(x, timestep=labels, **conditions)`."""

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Any) -> Any:
        return self.wrapped(x, timestep=labels, **conditions)


def load_diffusers(folder: str | Path) -> tuple[nn.Module, Training | None]:
    """(network in eval mode, how it was trained) of a pipeline's folder, or of a network's, which does not say the second.

    Raises:
        MissingFileError: no such folder, or none of a pipeline or network.
        InputError: files that are damaged, or a network class that diffusers does not have.
        UnsupportedError: a scheduler of another kind.
    """
    root = Path(folder)
    part = next((root / name for name in PARTS if (root / name / CONFIG).is_file()), root)
    if not (part / CONFIG).is_file():
        raise MissingFileError(f"no {CONFIG} in {root} or its {', '.join(PARTS)}; name the folder that save_pretrained wrote")
    settings = read_plain_json(part / CONFIG, "config", dict, RESTORE)
    diffusers = optional("diffusers", extra="images", user="a network of diffusers")
    kind = getattr(diffusers, str(settings.get("_class_name")), None)
    if kind is None or not issubclass(kind, nn.Module):
        raise InputError(f"{part / CONFIG} names a network {settings.get('_class_name')!r}, which diffusers does not have")
    with reading(part, RESTORE):
        net = kind.from_pretrained(part, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False).eval()
    told = root / "scheduler" / SCHEDULER
    training = training_of(read_plain_json(told, "config", dict, RESTORE)) if told.is_file() else None
    return fed(net), training


def fed(net: Any) -> nn.Module:
    """Called as net(x, labels), with learned variances set apart."""
    called = net if list(inspect.signature(net.forward).parameters)[1:2] == ["timestep"] else Keyworded(net)
    if net.config.get("out_channels") == 2 * net.config.get("in_channels", 0):
        return LearnedRange(called)
    return called


def from_diffusers(folder: str | Path, **settings: Any) -> ScoreModel:
    """The network of a pipeline's folder as a `ScoreModel`; settings, as of `ScoreModel`, replace what the folder says.

    Raises:
        InputError: a folder that does not say how the network was trained, and no settings that do.
    """
    net, training = load_diffusers(folder)
    if training is not None:
        return training.model(net, **settings)
    if not {"schedule", "predicts", "times"} <= set(settings):
        raise InputError(
            f"{folder} holds no scheduler/{SCHEDULER}, which says how its network was trained: give schedule=, predicts= and"
            " times= as well, or the folder of the whole pipeline"
        )
    return ScoreModel(net, **settings)
