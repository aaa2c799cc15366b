"""Image networks: diffusers' `UNet2DModel`, built from plain settings and stored as diffusers stores it.

A network directory holds config.json and diffusion_pytorch_model.safetensors, plus `score_model.json`, which says how
the network is fed and read (predicts, times, coordinates) and how it was trained.

Wrappers let a network return more than its prediction: `WithFeatures` the features it read it from, `LearnedRange` the variance
channels of improved DDPM.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.errors import InputError, MissingFileError, RunError
from score_sde_analytic.extras import optional
from score_sde_analytic.files import write_text
from score_sde_analytic.models.model import Wrapper

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
        MissingFileError: the directory or a file of it is missing.
        InputError: a file is damaged.
    """
    folder = Path(directory)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", WIRING):
        if not (folder / name).is_file():
            raise MissingFileError(f"no {name} in {folder}; check network.path, or run --mode=train to make a network")
    try:
        net = _unet_class().from_pretrained(str(folder), use_safetensors=True, low_cpu_mem_usage=False)
        wiring = json.loads((folder / WIRING).read_text())
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read the network in {folder}: {error}; restore it or run --mode=train") from error
    missing = {"predicts", "coordinates", "times"} - set(wiring)
    if missing:
        raise InputError(f"{folder / WIRING} lacks {', '.join(sorted(missing))}: it must say how the network is fed and read")
    return net.eval(), wiring


@dataclass(frozen=True)
class Output:
    """What a network returns besides its prediction.

    Attributes:
        sample: the prediction.
        extra: features, or a learned variance.
    """

    sample: Float[Tensor, " batch *dims"]
    extra: Shaped[Tensor, " batch ..."]


class WithFeatures(Wrapper):
    """The network, returning also what its last layer reads: `Output(sample, extra=features)`.

    Calls from several threads do not meet, and nothing is kept between calls.

    Args:
        net: called as `net(x, labels)`.
        layer: name of the last layer, whose first input is taken.

    Raises:
        InputError: the network has no such layer.
    """

    def __init__(self, net: nn.Module, layer: str = "conv_out") -> None:
        super().__init__(net)
        self.layer = layer
        self._captured: dict[int, Tensor | None] = {}  # one entry per thread inside `forward`
        try:
            module = net.get_submodule(layer)
        except AttributeError as error:
            raise InputError(
                f"the network has no layer {layer!r}; name its last layer, as in WithFeatures(net, 'out')"
            ) from error
        module.register_forward_pre_hook(self._capture)

    def _capture(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if (thread := threading.get_ident()) in self._captured:  # else the network was called without this wrapper
            self._captured[thread] = inputs[0]

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"]) -> Output:
        """Raises RuntimeError where the network did not call the layer."""
        thread = threading.get_ident()
        self._captured[thread] = None
        try:
            out = self.wrapped(x, labels)
        finally:
            features = self._captured.pop(thread)
        if features is None:
            raise RunError(f"the network did not call its layer {self.layer!r}: there are no features to return")
        return Output(getattr(out, "sample", out), features)


class LearnedRange(Wrapper):
    """A network of 2C output channels, mean and variance: `Output(sample=mean, extra=v)` (Nichol & Dhariwal, 2021)."""

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"]) -> Output:
        """Raises RuntimeError unless the network returns twice its input's channels."""
        out = self.wrapped(x, labels)
        out = getattr(out, "sample", out)
        if out.shape[1] != 2 * x.shape[1] or out.shape[2:] != x.shape[2:]:
            raise RunError(
                f"the network returned shape {tuple(out.shape)} for input {tuple(x.shape)}, not twice its channels: it has no"
                " learned variance; use it without LearnedRange"
            )
        return Output(*out.chunk(2, 1))


def _unet_class() -> Any:
    # Deferred: importing diffusers takes seconds.
    return optional("diffusers", extra="images", user="an image network").UNet2DModel
