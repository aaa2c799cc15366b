"""A pipeline of diffusers taken apart: its network, how that was trained, its autoencoder, and what it is conditioned on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.interop.swapping import config_of
from score_sde_analytic.models.diffusers_folder import PARTS, Training, fed, training_of

CLASSES = "class_labels"
TEXT = "encoder_hidden_states"
#: What a network is given of a prompt, by place in what `encode_prompt` returns.
EMBEDDINGS = {TEXT: 0, "pooled_projections": 2}
#: Arguments that tell packed tokens from pictures.
PACKED = ("img_ids", "image_rotary_emb", "txt_ids")
AUTOENCODERS = ("vae", "vqvae", "movq")
BY_HAND = "make a ScoreModel of its network, and analyse that on latents and embeddings of your own (docs/diffusers.md)"


@dataclass(frozen=True)
class Parts:
    """What a pipeline consists of, as far as measuring it goes.

    Attributes:
        net: called as net(x, labels, **conditions).
        raw: the network as the pipeline has it.
        autoencoder: of pictures, None for a network of pixels.
        embeddings: what the network is given of a prompt: its arguments, and their places in what `encode_prompt` returns.
        classes: how many classes it knows; 0 for a network without.
    """

    net: nn.Module
    raw: Any
    training: Training
    autoencoder: Any
    embeddings: Mapping[str, int]
    classes: int

    @classmethod
    def of(cls, pipe: Any) -> Parts:
        """Raises UnsupportedError for a pipeline that hides its state, or feeds its network more than is known here."""
        raw = _first(pipe, PARTS)
        if raw is None:
            raise UnsupportedError(f"{type(pipe).__name__} has no {', '.join(PARTS)}: it is no pipeline of one network")
        _require_state(pipe, raw)
        training = training_of(config_of(pipe.scheduler))
        return cls(fed(raw), raw, training, _first(pipe, AUTOENCODERS), _embeddings(pipe, raw), _classes(raw))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of all that the network needs."""
        return (*self.embeddings, *((CLASSES,) if self.classes else ()))

    @property
    def highest(self) -> float:
        """Log-SNR of the least noise that the network was trained on: of a table its first entry, else without end."""
        steps = getattr(self.training.times, "steps", None)
        return math.inf if steps is None else float(self.training.schedule.log_snr(1.0 / steps))


def _first(pipe: Any, names: tuple[str, ...]) -> Any:
    return next((part for name in names if (part := getattr(pipe, name, None)) is not None), None)


def _arguments(raw: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(raw.forward).parameters


def _require_state(pipe: Any, raw: Any) -> None:
    """Refuse networks whose input is not the noisy state alone."""
    into, out = raw.config.get("in_channels"), raw.config.get("out_channels") or raw.config.get("in_channels")
    name = type(pipe).__name__
    if any(argument in _arguments(raw) for argument in PACKED):
        raise UnsupportedError(f"the network of {name} is fed packed tokens with their places; {BY_HAND}")
    if into is not None and out not in (into, 2 * into):
        raise UnsupportedError(
            f"the network of {name} is fed {into} channels and returns {out}: it sees more than the noisy state; {BY_HAND}"
        )


def _embeddings(pipe: Any, raw: Any) -> dict[str, int]:
    if not callable(getattr(pipe, "encode_prompt", None)):
        return {}
    extra = raw.config.get("addition_embed_type") or raw.config.get("caption_channels")
    if extra or TEXT not in _arguments(raw):
        raise UnsupportedError(
            f"the network of {type(pipe).__name__} is given more of a prompt than embeddings (sizes, masks); {BY_HAND}"
        )
    return {name: place for name, place in EMBEDDINGS.items() if name in _arguments(raw)}


def _classes(raw: Any) -> int:
    """Classes, without the one that stands for none."""
    if CLASSES not in _arguments(raw):
        return 0
    named = raw.config.get("num_class_embeds") or raw.config.get("num_embeds_ada_norm")
    return int(named or 0)
