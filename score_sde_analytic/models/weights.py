"""Weights of a checkpoint in a network of yours: all names and shapes must fit, whatever stands in front of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from score_sde_analytic.errors import InputError
from score_sde_analytic.models.checkpoints import Part, Tensors, checkpoint_parts, named_parts, says_average
from score_sde_analytic.models.identity import COMPILED, unwrapped

Net = TypeVar("Net", bound=nn.Module)
#: Names that are shown of those that do not fit.
SHOWN = 3


def load_weights(net: Net, path: str | Path, key: str = "", ema: bool = True) -> Net:
    """The network with the weights of a checkpoint, in eval mode.

    Names may stand behind any prefix, as "module.", "_orig_mod." or "model.diffusion_model.". Averages that have no names are
    matched to the parameters in their order, first those that are trained, and taken together with the buffers of the model
    beside them.

    >>> net = nn.Linear(2, 3)
    >>> torch.save({"ema": {f"ema_model.{name}": x for name, x in net.state_dict().items()}}, "ema.pt")
    >>> torch.equal(load_weights(nn.Linear(2, 3), "ema.pt").weight, net.weight)
    True

    Args:
        net: built by you, with the settings of the checkpoint.
        path: see `checkpoint_parts`.
        key: of the container; "" for whichever fits.
        ema: prefer averages of weights where there are some.

    Raises:
        MissingFileError, InputError: as `checkpoint_parts`; or the weights do not fit: the message has the first names and
            shapes that differ.
    """
    inner = unwrapped(net)
    parts = named_parts(checkpoint_parts(path), key, path)
    fits = [fit for part in parts for fit in _fits(inner, part, parts)]
    best = min(fits, key=lambda fit: (fit.faults, fit.averaged != ema))
    if best.faults:
        raise InputError(f"{path}: {best.told(type(inner).__name__)}; {_way_out(parts, key)}")
    with torch.no_grad():
        inner.load_state_dict(best.tensors)
    return net.eval()


def _way_out(parts: Sequence[Part], key: str) -> str:
    build = "build the network with the settings that it was trained with"
    others = "; ".join(str(part) for part in parts)
    return build if key or len(parts) == 1 else f"{build}, or name a part with key=: {others}"


@dataclass(frozen=True)
class _Fit:
    """Tensors under a network's names, and what does not fit."""

    tensors: Tensors
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    averaged: bool

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def told(self, kind: str) -> str:
        """What differs, in one line."""
        known = {"the file lacks": self.missing, "the network has no": self.unexpected, "other shapes:": self.misshapen}
        return f"the weights do not fit {kind}: " + ", ".join(f"{what} {_few(names)}" for what, names in known.items() if names)

    @classmethod
    def of(cls, net: nn.Module, tensors: Tensors, averaged: bool) -> _Fit:
        wanted = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
        shared = [name for name in wanted if name in tensors]
        misshapen = [
            f"{name} {tuple(tensors[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
            for name in shared
            if tensors[name].shape != wanted[name].shape
        ]
        missing = tuple(name for name in wanted if name not in tensors)
        return cls(tensors, missing, tuple(name for name in tensors if name not in wanted), tuple(misshapen), averaged)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _fits(net: nn.Module, part: Part, others: Sequence[Part]) -> Iterator[_Fit]:
    """The tensors of a part under the network's names, in every way that they may be meant."""
    if part.listed:
        yield _average(net, _in_order(net, part), others)
        return
    tensors = {name.replace(f"{COMPILED}.", ""): tensor for name, tensor in part.tensors.items()}
    wanted = set(net.state_dict())
    yield _Fit.of(net, tensors, part.averaged)
    prefixes = _prefixes(tensors, wanted)
    told = any(map(says_average, prefixes))  # averages may lie beside what they are of
    for prefix in prefixes:
        behind = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        yield _Fit.of(net, behind, says_average(prefix) if told else part.averaged)
    if named := _run_together(net, tensors):
        yield _average(net, named, others)


def _prefixes(tensors: Tensors, wanted: set[str]) -> list[str]:
    """What stands before names of the network."""
    found: dict[str, None] = {}
    for name in tensors:
        ends = [i + 1 for i, letter in enumerate(name) if letter == "."]
        found |= dict.fromkeys(name[:end] for end in ends if name[end:] in wanted)
    return list(found)


def _run_together(net: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    """Averages by names without their dots, as latent diffusion has them, where all trained parameters are among them."""
    flat = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    trained = {name.replace(".", ""): name for name, p in net.named_parameters() if p.requires_grad}
    longest = max(trained, key=len, default="")
    for prefix in {name.removesuffix(longest) for name in flat if longest and name.endswith(longest)}:
        if all(prefix + name in flat for name in trained):
            return {name: flat[prefix + short] for short, name in trained.items()}
    return {}


def _in_order(net: nn.Module, part: Part) -> dict[str, Tensor]:
    """Averages without names under those of the trained parameters, or of all where they are as many."""
    parameters = dict(net.named_parameters())
    trained = [name for name, p in parameters.items() if p.requires_grad]
    names = trained if len(trained) == len(part.tensors) else list(parameters)
    numbered = [f"{part.key}[{i}]" for i in range(len(names), len(part.tensors))]
    return dict(zip([*names, *numbered], part.tensors.values(), strict=False))


def _average(net: nn.Module, averages: Tensors, others: Sequence[Part]) -> _Fit:
    """Averages of parameters, with the buffers of the model beside them."""
    models = [fit for other in others if not other.averaged for fit in _fits(net, other, ()) if not fit.faults]
    besides = models[0].tensors if models else {}
    return _Fit.of(net, {**besides, **averages}, True)
