"""guided-diffusion and improved-diffusion: a network built by their scripts, wired by the arguments it was built with.

    noise_schedule, diffusion_steps    betas: "linear" from 0.1 / N to 20 / N, "cosine" capped at 0.999
    rescale_timesteps                  fed index * 1000 / N, else the index 0 .. N - 1
    learn_sigma                        2 C channels, mean and v of a learned variance: `Interpolated()` reads it
    predict_xstart                     x_0, else eps
    class_cond                         conditions=("y",)
    clip_denoised (of the samplers)    x_0 confined to [-1, 1], as is their default

timestep_respacing places their sampling steps; the network is the same, and grids here take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from score_sde_analytic.checks import flag, hint, one_of, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.schedule import Tabulated

TABLES: dict[str, Callable[[int], Tabulated]] = {
    "linear": lambda steps: Tabulated.linear(steps, 0.1 / steps, 20.0 / steps),
    "cosine": Tabulated.cosine,
}
#: What decides how the network is fed and read; the defaults differ between the two repositories.
DECISIVE = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "learn_sigma", "predict_xstart", "class_cond")
#: What the network was built by, and settings of losses and of their own samplers.
HARMLESS = (
    *("image_size", "num_channels", "num_res_blocks", "num_heads", "num_heads_upsample", "num_head_channels"),
    *("attention_resolutions", "channel_mult", "dropout", "use_checkpoint", "use_scale_shift_norm", "resblock_updown"),
    *("use_fp16", "use_new_attention_order", "use_kl", "rescale_learned_sigmas", "sigma_small", "timestep_respacing"),
    "clip_denoised",
)
#: Of the classes, as their networks call it.
LABEL = "y"


def from_guided_diffusion(model: Any, args: Mapping[str, Any], **settings: Any) -> ScoreModel:
    """The network with the table, labels, reading and conditions that its arguments say.

    Settings, as of `ScoreModel`, replace.

    >>> args = {"diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True, "learn_sigma": False}
    >>> net = torch.nn.Identity()
    >>> from_guided_diffusion(net, args | {"predict_xstart": False, "class_cond": True}).times
    ZeroBased(steps=4000, scale=1000.0, integer=False)

    Args:
        model: of their create_model or create_model_and_diffusion, with its weights (`models.load_weights`).
        args: their model_and_diffusion_defaults() with your changes.

    Raises:
        InputError: an argument that decides is missing, has a value that they do not know, or one that is not theirs.
    """
    _check_names(args)
    steps = whole(1)("diffusion_steps", args["diffusion_steps"])
    table = TABLES[one_of(TABLES)("noise_schedule", args["noise_schedule"])]
    said = {name: flag()(name, args[name]) for name in DECISIVE[2:]}
    wiring: dict[str, Any] = {
        "schedule": table(steps),
        "predicts": "x_0" if said["predict_xstart"] else "eps",
        "times": ZeroBased(steps, scale=1000.0 if said["rescale_timesteps"] else None),
        "clamp": (-1.0, 1.0) if flag()("clip_denoised", args.get("clip_denoised", True)) else None,
        "conditions": (LABEL,) if said["class_cond"] else (),
    }
    return ScoreModel(LearnedRange(model) if said["learn_sigma"] else model, **(wiring | settings))


def _check_names(args: Mapping[str, Any]) -> None:
    known = (*DECISIVE, *HARMLESS)
    foreign = next((name for name in args if name not in known), None)
    if foreign is not None:
        raise InputError(
            f"{foreign} is no argument of their model_and_diffusion_defaults(){hint(foreign, known)}; leave it out if it does"
            " not change how the network is fed and read"
        )
    missing = [name for name in DECISIVE if name not in args]
    if missing:
        raise InputError(
            f"the arguments lack {', '.join(missing)}: give all of model_and_diffusion_defaults() with your changes, as the"
            " defaults of guided- and improved-diffusion differ"
        )
