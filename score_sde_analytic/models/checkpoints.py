"""Checkpoints as others saved them: state dicts inside containers and behind prefixes, averages of weights among them.

Only tensors are read, from safetensors or by torch's `weights_only`; a file that would run code is refused.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.models.identity import COMPILED

Tensors = Mapping[str, Shaped[Tensor, " ..."]]

#: Containers of weights, the likeliest first; averages have "ema" or "shadow" in their name.
CONTAINERS = ("state_dict", "model_state_dict", "model", "params", "net", "network", "module", "unet", "score_model", "weights")
#: What a folder of diffusers or transformers calls its weights.
FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
)
#: Averages without names, as score_sde and diffusers keep them: one tensor per parameter, in order.
SHADOWS = "shadow_params"


@dataclass(frozen=True)
class Part:
    """Some tensors of a checkpoint.

    Attributes:
        key: where they are, as "ema.shadow_params"; "" for the whole file.
        tensors: by name; averages without names are called by their number.
    """

    key: str
    tensors: Tensors

    @property
    def averaged(self) -> bool:
        """Whether their place calls them an average."""
        return says_average(self.key)

    @property
    def listed(self) -> bool:
        """Whether they are known by their order alone."""
        return self.key.endswith(SHADOWS)

    def __str__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.tensors.values())
        return f"{self.key or 'the whole'} ({len(self.tensors)} tensors, {numbers:,} numbers)"


def says_average(name: str) -> bool:
    """Whether a name is that of an average of weights."""
    words = re.split(r"[^a-z]+", name.lower())
    return any(word in ("ema", "shadow", "averaged", "average", "swa") for word in words)


def checkpoint_parts(path: str | Path) -> list[Part]:
    """All state dicts of a checkpoint, the likeliest weights first.

    >>> torch.save({"step": 3, "model": {"module.weight": torch.zeros(2)}, "ema": {"weight": torch.ones(2)}}, "all.pt")
    >>> [str(part) for part in checkpoint_parts("all.pt")]
    ['model (1 tensors, 2 numbers)', 'ema (1 tensors, 2 numbers)']

    Args:
        path: a file .safetensors, .pt, .pth, .ckpt or .bin; an index of several; or a folder of diffusers that holds one.

    Raises:
        MissingFileError: there is none.
        InputError: it is damaged, holds no tensors, or more than tensors.
    """
    file = checkpoint_file(Path(path).expanduser())
    parts = [part for part in _parts(_read(file), "") if part.tensors]
    if not parts:
        raise InputError(f"{file} holds no state dict; give a checkpoint that holds the weights of a network")
    return sorted(parts, key=_likelihood)


def _likelihood(part: Part) -> tuple[bool, int]:
    last = part.key.rpartition(".")[2]
    return part.averaged, CONTAINERS.index(last) if last in CONTAINERS else len(CONTAINERS)


def read_state_dict(path: str | Path, key: str = "") -> dict[str, Shaped[Tensor, " ..."]]:
    """The tensors of a checkpoint, without prefixes that all of them have.

    >>> torch.save({"state_dict": {"module.weight": torch.zeros(2)}}, "weights.pt")
    >>> list(read_state_dict("weights.pt"))
    ['weight']

    Args:
        key: of the container, as "ema" or "model.ema"; "" for the likeliest.

    Raises:
        MissingFileError, InputError: as `checkpoint_parts`; or it has no such key.
    """
    part = named_parts(checkpoint_parts(path), key, path)[0]
    tensors = {name.replace(f"{COMPILED}.", ""): tensor for name, tensor in part.tensors.items()}
    while len(firsts := {name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        prefix = f"{firsts.pop()}."
        if prefix not in ("module.", "ema_model.", "network.", "model."):
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def named_parts(parts: list[Part], key: str, path: str | Path) -> list[Part]:
    """Those of a key, or all."""
    chosen = [part for part in parts if not key or part.key == key or part.key.startswith(f"{key}.")]
    if not chosen:
        raise InputError(f"{path} holds no {key!r}; it holds {'; '.join(map(str, parts))}")
    return chosen


def _parts(content: Any, key: str) -> Iterator[Part]:
    """State dicts and lists of averages anywhere inside."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield Part(key, tensors)
        for name, value in content.items():
            if not isinstance(value, Tensor) and not str(name).startswith("opt"):
                yield from _parts(value, f"{key}.{name}".lstrip("."))
    elif key.endswith(SHADOWS) and isinstance(content, list | tuple) and all(isinstance(x, Tensor) for x in content):
        yield Part(key, {str(i): value for i, value in enumerate(content)})


def checkpoint_file(path: Path) -> Path:
    """The file itself, or that of a folder."""
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise MissingFileError(f"{path} holds none of {', '.join(FILES[:4])}; give the file of the weights")
        return found[0]
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}; check the path")
    return path


def _read(path: Path) -> Any:
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or no safetensors file ({error}); copy it again") from error
    return torch_content(path)


def torch_content(path: Path, harmless: Sequence[Any] = ()) -> Any:
    """What torch.save wrote, by its `weights_only`.

    >>> torch.save({"weight": torch.ones(1), "step": 3}, "all.pt")
    >>> torch_content(Path("all.pt"))
    {'weight': tensor([1.]), 'step': 3}

    Args:
        harmless: further types and functions that it may name, as of `torch.serialization.safe_globals`.

    Raises:
        InputError: it is damaged, or names something else, which might run code.
    """
    # A namespace of settings holds values and runs nothing; TorchScript is told below.
    known = [argparse.Namespace, *harmless]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("Unsupported global: ")[2].partition(" was not")[0] or "code"
        raise InputError(
            f"{path} holds more than tensors ({reason}), and reading that may run code; where you trust it, write its weights"
            " with safetensors.torch.save_file(torch.load(path, weights_only=False)[..], 'weights.safetensors')"
        ) from error
    except Exception as error:  # damaged bytes say anything
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a network of TorchScript; read it with load_torchscript") from error
        raise InputError(f"{path} is damaged or no checkpoint ({first_line(error)}); copy it again") from error


def first_line(error: Exception) -> str:
    """What an exception of torch says, without its lines of advice."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _shards(path: Path) -> dict[str, Tensor]:
    """The tensors of several files, as their index lists them."""
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is no index of weights ({error}); copy it again") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= _read(checkpoint_file(path.parent / name))
    return tensors
