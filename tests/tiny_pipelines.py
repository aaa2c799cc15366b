"""Pipelines of diffusers with tiny random networks, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn

from score_sde_analytic import Budget, Settings
from score_sde_analytic.study import Knots, Search

UNET = {
    "sample_size": 4,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "norm_num_groups": 2,
}
DIT = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 1, "patch_size": 2, "norm_num_groups": 1}
#: A pass of a few hundred evaluations.
QUICK: dict[str, Any] = {
    "budget": Budget(max_draws=40, min_draws=20, batch_size=40, groups=10),
    "settings": Settings(knots=Knots(count=10, most=10), search=Search(points=60, most=20)),
    "progress": False,
}
WORDS = ["<|startoftext|>", "<|endoftext|>", "l", "o", "w", "l</w>", "o</w>", "w</w>", "lo", "low</w>"]


def _quiet(net: nn.Module, last: str) -> Any:
    """With small outputs: one of v then knows that the data are about as large as the noise."""
    with torch.no_grad():
        for weight in net.get_submodule(last).parameters():
            weight.mul_(0.1)
    return net.eval()


def unconditional(scheduler: Any = None, classes: int | None = None, channels: int = 1) -> DDPMPipeline:
    torch.manual_seed(0)
    net = UNet2DModel(**UNET | {"out_channels": channels}, num_class_embeds=classes).eval()
    return DDPMPipeline(net, DDPMScheduler() if scheduler is None else scheduler)


def autoencoder(channels: int = 2, **settings: Any) -> AutoencoderKL:
    """Of pictures of 8 x 8, whose latents are 4 x 4."""
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 4), "norm_num_groups": 2, "latent_channels": channels, "sample_size": 8}
    return AutoencoderKL(**blocks, **sizes, **({"scaling_factor": 0.7} | settings)).eval()


def with_classes(scheduler: Any = None) -> DiTPipeline:
    """Of 1000 classes, as the pipeline takes it for granted, on latents, with a learned variance."""
    torch.manual_seed(0)
    net = _quiet(
        DiTTransformer2DModel(**DIT, in_channels=2, out_channels=4, sample_size=4, num_embeds_ada_norm=1000), "proj_out_2"
    )
    told = {"clip_sample": False, "prediction_type": "v_prediction"}
    return DiTPipeline(net, autoencoder(), DDPMScheduler(**told) if scheduler is None else scheduler)


def tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>", model_max_length=6)


def _clip(projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "projection_dim": 8, "num_attention_heads": 1, "num_hidden_layers": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPTextConfig(**sizes, **ends, vocab_size=len(WORDS), max_position_embeddings=6)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def stable_diffusion(folder: Path, scheduler: Any = None, prediction: str = "v_prediction") -> StableDiffusionPipeline:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 2}
    net = UNet2DConditionModel(4, 2, 2, **blocks, **sizes, cross_attention_dim=8)
    table = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": prediction}
    made = DDPMScheduler(**table, clip_sample=False, steps_offset=1) if scheduler is None else scheduler
    others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(autoencoder(), _clip(False), tokenizer(folder), _quiet(net, "conv_out"), made, **others)


def stable_diffusion_3(folder: Path, shift: float = 3.0) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "pos_embed_max_size": 4}
    widths = {"joint_attention_dim": 16, "caption_projection_dim": 8, "pooled_projection_dim": 16}
    net = SD3Transformer2DModel(4, 1, 2, **sizes, **widths, out_channels=2)
    words = tokenizer(folder)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    vae = autoencoder(shift_factor=0.1)
    texts = {"text_encoder": _clip(True), "tokenizer": words, "text_encoder_2": _clip(True), "tokenizer_2": words}
    return StableDiffusion3Pipeline(_quiet(net, "proj_out"), scheduler, vae, **texts, text_encoder_3=None, tokenizer_3=None)


def pictures(count: int = 40, channels: int = 1, side: int = 4) -> Tensor:
    """Of 8 bits."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator).div(127.5).sub(1.0)
