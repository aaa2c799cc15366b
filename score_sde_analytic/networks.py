"""Image networks: diffusers' `UNet2DModel`, built from plain settings and stored as diffusers stores it.

A network directory holds config.json and diffusion_pytorch_model.safetensors, plus `score_model.json`, which says how
the network is fed and read (predicts, times, coordinates) and how it was trained.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from score_sde_analytic.files import write_text

WIRING = "score_model.json"


def build_unet(settings: Mapping[str, Any]) -> nn.Module:
    """A fresh diffusers `UNet2DModel`.

    Raises:
        ImportError: diffusers is not installed.
    """
    return _unet_class()(**settings)


def save_unet(net: nn.Module, directory: str | Path, wiring: Mapping[str, Any]) -> None:
    """Write the network as safetensors with its config and wiring; each file appears whole."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        net.save_pretrained(temporary)  # type: ignore[operator]
        for file in Path(temporary).iterdir():
            file.chmod(0o644)
            os.replace(file, folder / file.name)
    write_text(folder / WIRING, json.dumps(dict(wiring), indent=2) + "\n")


def load_unet(directory: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read (network in eval mode, wiring) of a network directory; only safetensors weights are accepted.

    Raises:
        FileNotFoundError: the directory or a file of it is missing.
        ValueError: a file is damaged.
    """
    folder = Path(directory)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", WIRING):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; check network.path, or run --mode=train to make a network")
    try:
        net = _unet_class().from_pretrained(str(folder), use_safetensors=True, low_cpu_mem_usage=False)
        wiring = json.loads((folder / WIRING).read_text())
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"cannot read the network in {folder}: {error}; restore it or run --mode=train") from error
    missing = {"predicts", "coordinates", "times"} - set(wiring)
    if missing:
        raise ValueError(f"{folder / WIRING} lacks {', '.join(sorted(missing))}: it must say how the network is fed and read")
    return net.eval(), wiring


def _unet_class() -> Any:
    try:
        from diffusers import UNet2DModel  # deferred: importing diffusers takes seconds
    except ImportError as error:
        raise ImportError("image networks need diffusers: pip install 'score_sde_analytic[images]'") from error
    return UNet2DModel
