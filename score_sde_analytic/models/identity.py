"""A network's identity is its function: its weights, and the architecture that they are used in, whatever wraps the two."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from score_sde_analytic.files import plain

#: Wrappers of other packages that answer as the network inside does, and where they have it.
TRANSPARENT: dict[type[nn.Module], str] = {
    nn.DataParallel: "module",
    nn.parallel.DistributedDataParallel: "module",
    AveragedModel: "module",
}
#: Where torch.compile puts the network; found by name, as importing its class takes seconds.
COMPILED = "_orig_mod"
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
#: Network -> (what its tensors looked like, their digest).
_digests: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


class Wrapper(nn.Module):
    """A network whose answers are read in another way; its identity is that of the network, and of `settings` if it has any.

    Attributes:
        wrapped: the network.
        layer: whose input it returns beside the answer; "" for none.
    """

    layer = ""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.wrapped = net
        self.train(getattr(net, "training", True))

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data of what it changes of the network's function, by name; nothing where answers are only read otherwise."""
        return {}


def unwrapped(net: nn.Module) -> nn.Module:
    """The network that wrappers hold: ours, torch.compile's, those for many devices and for averages of weights.

    >>> unwrapped(nn.DataParallel(Wrapper(mixture))) is mixture
    True
    """
    return list(wrappers(net))[-1]


def wrappers(net: nn.Module) -> Iterator[nn.Module]:
    """The network as it is called, what that wraps, and so on to the network itself."""
    inner: Any = net
    while isinstance(inner, nn.Module):
        yield inner
        inner = _inside(inner)


def settings_of(net: nn.Module) -> dict[str, Any]:
    """The settings of all wrappers that a network is in.

    >>> settings_of(Wrapper(mixture))
    {}
    """
    found: dict[str, Any] = {}
    for one in wrappers(net):
        found |= one.settings if isinstance(one, Wrapper) else {}
    return found


def features_of(net: Any) -> str:
    """The layer whose input a network returns beside its answer; "" for none.

    >>> features_of(Wrapper(mixture))
    ''
    """
    layers = (one.layer for one in wrappers(net) if isinstance(one, Wrapper))
    return next((layer for layer in layers if layer), "")


def _inside(net: nn.Module) -> nn.Module | None:
    if isinstance(net, Wrapper):
        return net.wrapped
    if COMPILED in net._modules:
        return net._modules[COMPILED]
    held = next((name for wrapper, name in TRANSPARENT.items() if isinstance(net, wrapper)), None)
    if held is None and any(word in type(net).__name__ for word in ("EMA", "Ema")):
        held = "module"
    return None if held is None else net._modules.get(held)


def plain_names(tensors: Mapping[str, Shaped[Tensor, " ..."]]) -> dict[str, Shaped[Tensor, " ..."]]:
    """Tensors by their names in the network itself, without the prefixes of wrappers.

    >>> list(plain_names({"module._orig_mod.weight": torch.zeros(1)}))
    ['weight']
    """
    names = {name: name.replace(f"{COMPILED}.", "") for name in tensors}
    prefix = "module." if all(name.startswith("module.") for name in names.values()) else ""
    return {name.removeprefix(prefix): tensors[given] for given, name in names.items()}


def digest_of(net: nn.Module) -> str:
    """sha256 of architecture and weights; wrappers count by their settings only. Unchanged weights are not read again.

    >>> digest_of(mixture) == digest_of(Wrapper(mixture))
    True
    """
    settings = settings_of(net)
    net = unwrapped(net)
    tensors = net.state_dict()
    look = [(name, *_look(value)) for name, value in tensors.items()]
    if net not in _digests or _digests[net][0] != look:
        _digests[net] = look, weights_digest(tensors)
    return network_digest(architecture(net), _digests[net][1], settings)


def network_digest(design: Any, weights: str, settings: Mapping[str, Any] | None = None) -> str:
    """The identity of weights in an architecture, within wrappers of these settings."""
    parts = [plain(design), weights, *([plain(settings)] if settings else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(tensors: Mapping[str, Any]) -> str:
    """sha256 of names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name, value in sorted(plain_names(tensors).items()):
        if isinstance(value, Tensor):
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:  # what a module keeps besides tensors
            sha.update(f"{name} {value!r}".encode())
    return sha.hexdigest()


def _look(value: Any) -> tuple[Any, ...]:
    """What changes when a tensor does, at the cost of one sum: writing through `.data` leaves the version as it was."""
    if not isinstance(value, Tensor):
        return (repr(value),)
    version = None if value.is_inference() else value._version
    words = value.detach().contiguous().flatten()
    total = words.view(WORDS.get(words.element_size(), torch.int64)).sum(dtype=torch.int64)
    return value.data_ptr(), version, value.dtype, tuple(value.shape), int(total)


def architecture(net: nn.Module) -> Any:
    """Plain data that say what a network does with its weights.

    The settings that differ from its class's own, for networks that know theirs (`config`, as diffusers' do); else all layers
    by name, with the settings of torch's.
    """
    config = getattr(net, "config", None)
    if isinstance(config, Mapping):
        return design(type(net), config)
    if isinstance(net, torch.jit.ScriptModule):
        return ["ScriptModule", *([name, _code(layer)] for name, layer in net.named_modules())]
    return [type(net).__name__, *_layers(net)]


def _code(layer: Any) -> str:
    """What a layer of TorchScript does; names that are told apart by the order of loading are not."""
    return re.sub(r"___torch_mangle_\d+\.", "", layer.code) if hasattr(layer, "forward") else ""


def design(kind: type[nn.Module], config: Mapping[str, Any]) -> Any:
    """The settings that differ from those of their class.

    >>> design(nn.GroupNorm, {"num_groups": 2, "eps": 1e-5})
    ['GroupNorm', {'num_groups': 2}]
    """
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    own = {name: value for name, value in config.items() if name in defaults}
    return [kind.__name__, {name: value for name, value in own.items() if plain(value) != plain(defaults[name])}]


def _layers(net: nn.Module) -> Iterator[Any]:
    for name, layer in net.named_modules():
        if name and COMPILED not in layer._modules:
            yield [name.replace(f"{COMPILED}.", "").removesuffix(f".{COMPILED}"), type(layer).__name__, _settings(layer)]


def _settings(layer: nn.Module) -> dict[str, Any]:
    """Of a layer of torch; others may keep there what changes from call to call."""
    if not type(layer).__module__.startswith("torch.nn."):
        return {}
    own = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name != "training"}
    return {name: value for name, value in own.items() if isinstance(value, bool | int | float | str | tuple | None)}
