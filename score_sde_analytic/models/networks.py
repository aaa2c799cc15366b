"""Image networks: diffusers' `UNet2DModel`, built from plain settings and stored as diffusers stores it.

A network directory holds config.json and diffusion_pytorch_model.safetensors, plus `score_model.json`, which says how
the network is fed and read (predicts, times, coordinates), how it was trained, and which network it is: `load_unet` takes no
other weights and no other config.

Wrappers let a network return more than its prediction: `WithFeatures` the features it read it from, `LearnedRange` the variance
channels of improved DDPM. `FourierFeatures` gives it more than its input, and is part of what is written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.jit import ScriptModule

from score_sde_analytic.declared import reading, require_shape
from score_sde_analytic.errors import InputError, MissingFileError, RunError
from score_sde_analytic.extras import optional
from score_sde_analytic.files import read_bytes, read_json, read_plain_json, write_bytes, write_json, write_text
from score_sde_analytic.models.fourier import SHAPE as FOURIER
from score_sde_analytic.models.fourier import FourierFeatures
from score_sde_analytic.models.identity import (
    Wrapper,
    design,
    digest_of,
    network_digest,
    plain_names,
    settings_of,
    unwrapped,
    weights_digest,
    wrappers,
)
from score_sde_analytic.models.model import Coordinates, Quantity

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
WIRING = "score_model.json"
KIND = "network"
#: What the wiring says.
FED_AND_READ = {
    "predicts": set(get_args(Quantity)),
    "coordinates": set(get_args(Coordinates)),
    "times": {"name": str, str: (str, float)},
    "fourier?": FOURIER,
}
RESTORE = "restore it or run --mode=train"
WHOLE = "; check network.source, or run --mode=train to make a network"
LACKING = {
    WIRING: ": a folder of diffusers does not say how its network is fed; read it with from_diffusers(folder,"
    " schedule=, predicts=, times=), as network.source=diffusers:FOLDER, or write it with save_unet(net, folder, wiring)"
}
RECORD = (
    "restore it, or write the folder anew with save_unet(net, directory, wiring), which records how the network is fed and read"
    " (predicts, coordinates, times) and which it is"
)


def build_unet(settings: Mapping[str, Any]) -> nn.Module:
    """A fresh diffusers `UNet2DModel`.

    Raises:
        ImportError: diffusers is not installed.
    """
    return _unet_class()(**settings)


def save_unet(net: nn.Module, directory: str | Path, wiring: Mapping[str, Any]) -> None:
    """Write the network as safetensors with its config and wiring, which records its identity; each file appears whole.

    Raises:
        InputError: the network is none of diffusers', or the wiring does not say how it is fed and read.
        WriteError: a file cannot be written.
    """
    folder = Path(directory)
    inner: Any = unwrapped(net)
    if not hasattr(inner, "to_json_string"):
        raise InputError(f"save_unet writes networks of diffusers, not {type(inner).__name__}; build one with build_unet")
    require_shape(dict(wiring), FED_AND_READ, "the wiring", "say how the network is fed and read")
    tensors = {name: value.detach().cpu().contiguous() for name, value in plain_names(inner.state_dict()).items()}
    write_bytes(folder / WEIGHTS, serialise(tensors, metadata={"format": "pt"}))
    write_text(folder / CONFIG, inner.to_json_string())
    write_json(folder / WIRING, KIND, {**wiring, **settings_of(net), "fingerprint": digest_of(net)})


def load_unet(directory: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read (network in eval mode, wiring) of a network directory; only safetensors weights are accepted.

    Raises:
        MissingFileError: the directory or a file of it is missing.
        InputError: a file is damaged, or the network is not the one whose identity was recorded.
    """
    folder = Path(directory)
    for name in (CONFIG, WEIGHTS, WIRING):
        if not (folder / name).is_file():
            raise MissingFileError(f"no {name} in {folder}{LACKING.get(name, WHOLE)}")
    wiring = read_json(folder / WIRING, KIND, FED_AND_READ | {"fingerprint": str}, RECORD)
    settings = read_plain_json(folder / CONFIG, "config", dict, RESTORE)
    tensors = _tensors(folder / WEIGHTS)
    kind = _unet_class()
    wrapping = {"fourier": wiring["fourier"]} if "fourier" in wiring else {}
    found = network_digest(design(kind, settings), weights_digest(tensors), wrapping)
    if found != wiring["fingerprint"]:
        raise InputError(
            f"{CONFIG} and {WEIGHTS} in {folder} make the network {found}, but {WIRING} records {wiring['fingerprint']}:"
            f" a file was damaged or exchanged; {RESTORE}"
        )
    with reading(folder, RESTORE):
        net = kind.from_config(settings)
        net.load_state_dict(tensors, assign=True)  # in the dtypes of the file
        whole = FourierFeatures(net, **wrapping["fourier"]) if wrapping else net
    return whole.eval(), wiring


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return plain_names(deserialise(read_bytes(path, "weights", RESTORE)))
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or not a safetensors file ({error}); {RESTORE}") from error


@dataclass(frozen=True)
class Output:
    """What a network returns besides its prediction.

    Attributes:
        sample: the prediction.
        extra: features, or None.
        learned_range: v of a learned variance, or None.
    """

    sample: Float[Tensor, " batch *dims"]
    extra: Shaped[Tensor, " batch ..."] | None = None
    learned_range: Float[Tensor, " batch *dims"] | None = None


class WithFeatures(Wrapper):
    """The network, returning also what its last layer reads: `Output(sample, extra=features)`.

    Calls from several threads do not meet, and nothing is kept between calls.

    Args:
        net: called as `net(x, labels)`.
        layer: name of the last layer, whose first input is taken.

    Raises:
        InputError: the network has no such layer, or is TorchScript.
    """

    def __init__(self, net: nn.Module, layer: str = "conv_out") -> None:
        super().__init__(net)
        if isinstance(unwrapped(net), ScriptModule):
            raise InputError("TorchScript shows no inputs of its layers; give the network as Python")
        self.layer = layer
        self._captured: dict[int, Tensor | None] = {}  # one entry per thread inside `forward`
        try:
            module = unwrapped(net).get_submodule(layer)
        except AttributeError as error:
            raise InputError(
                f"the network has no layer {layer!r}; name its last layer, as in WithFeatures(net, 'out')"
            ) from error
        module.register_forward_pre_hook(self._capture)

    def _capture(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if (thread := threading.get_ident()) in self._captured:  # else the network was called without this wrapper
            self._captured[thread] = inputs[0]

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Any) -> Output:
        """Raises RuntimeError where the network did not call the layer."""
        thread = threading.get_ident()
        self._captured[thread] = None
        try:
            out = self.wrapped(x, labels, **conditions)
        finally:
            features = self._captured.pop(thread)
        if features is None:
            raise RunError(f"the network did not call its layer {self.layer!r}: there are no features to return")
        return Output(getattr(out, "sample", out), features, getattr(out, "learned_range", None))


class LearnedRange(Wrapper):
    """A network of 2C channels, mean and variance: `Output(sample=mean, learned_range=v)` (Nichol & Dhariwal, 2021)."""

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Any) -> Output:
        """Raises RuntimeError unless the network returns twice its input's channels."""
        answer = self.wrapped(x, labels, **conditions)
        out = getattr(answer, "sample", answer)
        if out.shape[1] != 2 * x.shape[1] or out.shape[2:] != x.shape[2:]:
            raise RunError(
                f"the network returned shape {tuple(out.shape)} for input {tuple(x.shape)}, not twice its channels: it has no"
                " learned variance; use it without LearnedRange"
            )
        mean, v = out.chunk(2, 1)
        return Output(mean, getattr(answer, "extra", None), v)


def learns_range(net: Any) -> bool:
    """Whether a network is wrapped to return a learned variance.

    >>> learns_range(LearnedRange(mixture)), learns_range(mixture)
    (True, False)
    """
    return any(isinstance(one, LearnedRange) for one in wrappers(net))


def _unet_class() -> Any:
    # Deferred: importing diffusers takes seconds.
    return optional("diffusers", extra="images", user="an image network").UNet2DModel
