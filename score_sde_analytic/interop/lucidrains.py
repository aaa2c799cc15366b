"""denoising-diffusion-pytorch (lucidrains): the network inside a `GaussianDiffusion`, wired as the object says.

    betas        a table of N steps, of which the network is fed the index 0 .. N - 1
    objective    pred_noise -> eps, pred_x0 -> x_0, pred_v -> v
    data         [-1, 1], in which their chain clips x_0; with auto_normalize, their images in [0, 1] are (x + 1) / 2

Nothing of the package is imported: the object is yours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from score_sde_analytic.arrays import as_array
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.models.model import Quantity, ScoreModel
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.models.weights import load_weights
from score_sde_analytic.process.schedule import Tabulated

OBJECTIVES: dict[str, Quantity] = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}
#: Classes of one network with one answer, plain or with a learned variance.
KINDS = ("GaussianDiffusion", "LearnedGaussianDiffusion")
READ = ("betas", "objective", "model", "channels", "self_condition")
YOURSELF = "; give ScoreModel(net, schedule, predicts=, times=) yourself"


def from_gaussian_diffusion(gd: nn.Module, ema: Any = None, **settings: Any) -> ScoreModel:
    """The network of a GaussianDiffusion, or of one with a learned variance (`Interpolated()` reads it).

    Settings, as of `ScoreModel`, replace.

    >>> net = nn.Identity()
    >>> gd = type("GaussianDiffusion", (nn.Module,), {"objective": "pred_v", "channels": 1, "self_condition": False})()
    >>> gd.model, gd.betas = net, [0.1, 0.2]
    >>> found = from_gaussian_diffusion(gd)
    >>> found.predicts, found.times.steps, found.clamp
    ('v', 2, (-1.0, 1.0))

    Args:
        gd: as you built it for their Trainer.
        ema: their EMA of it, whose average is taken; or a checkpoint of their Trainer, whose averages are loaded into gd.

    Raises:
        UnsupportedError: self-conditioning, or an object of another kind.
        InputError: a checkpoint that does not fit, or an objective that they do not know.
    """
    found = _averaged(gd, ema)
    if type(found).__name__ not in KINDS or any(not hasattr(found, name) for name in READ):
        raise UnsupportedError(
            f"{type(found).__name__} is none of {', '.join(KINDS)} with {', '.join(READ)}, which say how a network is fed and"
            f" read{YOURSELF}"
        )
    if found.self_condition:
        raise UnsupportedError(
            "self-conditioned networks are fed their own last x_0, so that a prediction depends on the steps before it: its"
            " error, and so every variance and bound, is not a function of x_t and t. Train with self_condition=False"
        )
    betas = as_array(found.betas)
    wiring: dict[str, Any] = {
        "predicts": _predicts(found),
        "times": ZeroBased(len(betas)),
        "clamp": (-1.0, 1.0),
        "conditions": (),
    }
    net: Any = LearnedRange(found.model) if _learned(found) else found.model
    return ScoreModel(net, **({"schedule": Tabulated(betas)} | wiring | settings))


def _averaged(gd: nn.Module, ema: Any) -> Any:
    """The object with the weights to use."""
    if ema is None:
        return gd
    if isinstance(ema, str | Path):
        return load_weights(gd, ema, key="ema")
    average = getattr(ema, "ema_model", None)
    if not isinstance(average, nn.Module):
        raise InputError(f"ema must be an EMA of ema_pytorch or the path of a Trainer's checkpoint, got {type(ema).__name__}")
    return average


def _learned(gd: Any) -> bool:
    return type(gd).__name__ != KINDS[0]


def _predicts(gd: Any) -> Quantity:
    """What their chain reads the network's answer as."""
    known = OBJECTIVES.get(str(gd.objective))
    if known is None:
        raise InputError(f"objective {gd.objective!r} is none of {', '.join(OBJECTIVES)}")
    if _learned(gd) and known != "eps":
        raise UnsupportedError(f"a learned variance with {gd.objective}, which their own chain reads as noise{YOURSELF}")
    return known
