"""score_sde and score_sde_pytorch: checkpoints in the network that you built with their code, and how it is fed and read.

    config.training.sde   schedule                 reads    labels, continuous          discrete, t = n / N
    vpsde                 LinearVP, or its table    eps      999 t                       n - 1 of N = model.num_scales
    subvpsde              SubVP                    eps      999 t                       the same
    vesde                 VE                       score    sigma(t)                    round((1 - t) (N - 1))

The table of discrete VP has beta_n from beta_min / N to beta_max / N: another process than `LinearVP`. Where data.centered is
False, data lie in [0, 1] and the network rescales them itself: `data_range`. Their code is not imported: NCSN++ compiles its
kernels when it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from score_sde_analytic.checks import flag, one_of, whole
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.checkpoints import SHADOWS, Part, checkpoint_parts
from score_sde_analytic.models.identity import unwrapped
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import Continuous, DescendingIndex, Sigma, Times, ZeroBased
from score_sde_analytic.models.weights import load_weights
from score_sde_analytic.process.schedule import VE, LinearVP, Schedule, SubVP, Tabulated

Net = TypeVar("Net", bound=nn.Module)
#: Label of t = 1 in continuous training.
LABELS = 999.0


def load_checkpoint(path: str | Path, module: Net, ema: bool = True) -> Net:
    """The network with the weights of a checkpoint {"model", "ema", "optimizer", "step"}, in eval mode.

    Averages have no names: they stand for the parameters that are trained, in order; the model beside them has the rest.

    >>> net = nn.Linear(2, 3)
    >>> averages = [0.5 * p.detach() for p in net.parameters()]
    >>> torch.save({"model": net.state_dict(), "ema": {"shadow_params": averages}, "step": 1}, "checkpoint_1.pth")
    >>> torch.equal(load_checkpoint("checkpoint_1.pth", nn.Linear(2, 3)).weight, 0.5 * net.weight)
    True

    Args:
        module: built with their code by the config of the checkpoint, alone or in DataParallel.
        ema: take the averages, which their samples are made with.

    Raises:
        MissingFileError: there is no such file.
        InputError: it would run code, is damaged, or does not fit: the message has the first parameter that differs.
    """
    averages = _averages(path) if ema else None
    if averages is not None:
        _check_fit(module, averages, path)
    load_weights(module, path, key="model")
    if averages is not None:
        with torch.no_grad():
            for (_, parameter), average in zip(_trained(module), averages.tensors.values(), strict=True):
                parameter.copy_(average)
    return module


def _averages(path: str | Path) -> Part:
    parts = checkpoint_parts(path)
    found = next((part for part in parts if part.key == f"ema.{SHADOWS}"), None)
    if found is None:
        raise InputError(f"{path} holds no ema.{SHADOWS} but {'; '.join(map(str, parts))}: give ema=False for the model itself")
    return found


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in unwrapped(module).named_parameters() if p.requires_grad]


def _check_fit(module: nn.Module, averages: Part, path: str | Path) -> None:
    """As many as the parameters that are trained, each of its shape."""
    shapes = [tuple(tensor.shape) for tensor in averages.tensors.values()]
    own = _trained(module)
    for i, ((name, parameter), shape) in enumerate(zip(own, shapes, strict=False)):
        if tuple(parameter.shape) != shape:
            raise InputError(
                f"{path}: average {i} of {len(shapes)} has shape {shape}, but parameter {i} of {len(own)} that is trained,"
                f" {name}, has {tuple(parameter.shape)}; build the network by the config of the checkpoint"
            )
    if len(own) != len(shapes):
        first = f"the first without an average is {own[len(shapes)][0]}" if len(own) > len(shapes) else "the rest is in excess"
        raise InputError(
            f"{path} has {len(shapes)} averages, the network {len(own)} parameters that are trained (requires_grad): {first};"
            " build it by the config of the checkpoint, and freeze nothing before its weights are read"
        )


def from_score_sde(module: nn.Module, config: Any, **settings: Any) -> ScoreModel:
    """The network under the process that their config says: an ml_collections config, or mappings of the same names.

    Settings, as of `ScoreModel`, replace.

    >>> config = {"training": {"sde": "vesde", "continuous": True}, "model": {"sigma_min": 0.01, "sigma_max": 50.0}}
    >>> exploding = from_score_sde(nn.Identity(), config)
    >>> exploding.schedule, exploding.times
    (VE(sigma_min=0.01, sigma_max=50.0), Sigma())

    Raises:
        InputError: a setting that is missing, or has a value that they do not know.
    """
    sde = one_of(("vpsde", "subvpsde", "vesde"))("config.training.sde", str(_setting(config, "training.sde")).lower())
    continuous = flag()("config.training.continuous", _setting(config, "training.continuous"))
    steps = None if continuous else whole(2)("config.model.num_scales", _setting(config, "model.num_scales"))
    wiring: dict[str, Any] = {"schedule": _process(sde, config, steps), "times": _times(sde, steps)}
    return ScoreModel(module, **(wiring | {"predicts": "score" if sde == "vesde" else "eps"} | settings))


def _process(sde: str, config: Any, steps: int | None) -> Schedule:
    names = ("sigma_min", "sigma_max") if sde == "vesde" else ("beta_min", "beta_max")
    low, high = (float(_setting(config, f"model.{name}")) for name in names)
    if sde == "vpsde" and steps is not None:
        return Tabulated(np.linspace(low / steps, high / steps, steps))
    return {"vpsde": LinearVP, "subvpsde": SubVP, "vesde": VE}[sde](low, high)


def _times(sde: str, steps: int | None) -> Times:
    if sde == "vesde":
        return Sigma() if steps is None else DescendingIndex(steps)
    return ZeroBased(steps) if steps is not None and sde == "vpsde" else Continuous(LABELS)


def data_range(config: Any) -> DataRange:
    """What the images of their config lie in: [-1, 1] where config.data.centered, else [0, 1], on 256 levels.

    >>> data_range({"data": {"centered": False}})
    DataRange(lo=0.0, hi=1.0, levels=256)
    """
    return DataRange(-1.0 if flag()("config.data.centered", _setting(config, "data.centered")) else 0.0, 1.0, 256)


def _setting(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    if config is None:
        raise InputError(f"the config has no {name}, which says how the network was trained: give the config of the checkpoint")
    return config
