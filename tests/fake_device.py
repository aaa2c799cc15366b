"""A device that is not there: tensors on "meta" hold host tensors, and what crosses between the two is noted.

With `narrow` any operation there that meets float64 raises what MPS raises. Without it the device is like a GPU: whatever would
make the host wait for it is in `Device.waits`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from score_sde_analytic.arrays import has_float64

#: Whose result the host must know: a number, a shape, or whether a factorisation went well.
ASKING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique", "unique_", "bincount", "_linalg_check_errors")
#: Functions of torch that copy what they are given from the host.
GIVEN = (torch.tensor, torch.as_tensor)


class Held(torch.Tensor):
    """A tensor of the device."""

    host: torch.Tensor
    narrow = False

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> Held:
        if cls.narrow and host.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        held = torch.Tensor._make_wrapper_subclass(cls, host.shape, strides=host.stride(), dtype=host.dtype, device="meta")
        held.host = host
        return held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation, on the device where its tensors are or where it is sent."""
    leaves: list[Any] = []
    tree_map(leaves.append, (args, kwargs))
    device = kwargs.get("device")
    here = any(isinstance(leaf, Held) for leaf in leaves)
    wide = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Held) and leaf.ndim]
    if here and wide and "copy" not in str(func) and "index" not in str(func):
        raise RuntimeError(f"tensors on two devices: {func}")
    there = here if device is None else torch.device(device).type == "meta"
    host = tree_map(lambda leaf: leaf.host if isinstance(leaf, Held) else leaf, (args, kwargs))
    if device is not None:
        host[1]["device"] = "cpu"
    result = func(*host[0], **host[1])
    if func._schema.is_mutable:
        return args[0]
    return tree_map(lambda leaf: Held(leaf) if isinstance(leaf, torch.Tensor) else leaf, result) if there else result


class Device(TorchDispatchMode):
    """Operations as they happen.

    Attributes:
        waits: where the host waited for the device, "operation: lines of the package".
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func, args, kwargs):
            self.waits.append(f"{func}: {_place()}")
        return run(func, args, kwargs)


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    name = func._schema.name.removeprefix("aten::")
    from_here = bool(args) and isinstance(args[0], Held)
    if name == "_to_copy":
        device = kwargs.get("device")
        there = from_here if device is None else torch.device(device).type == "meta"
        return from_here != there and (from_here or not kwargs.get("non_blocking"))
    if name == "copy_":
        to, source = args[:2]
        given = args[2] if len(args) > 2 else kwargs.get("non_blocking")
        return isinstance(to, Held) != isinstance(source, Held) and (isinstance(source, Held) or not given)
    if name in ("index", "index_put", "index_put_"):
        places = [place for place in args[1] if place is not None]
        return from_here and any(not isinstance(p, Held) or p.dtype in (torch.bool, torch.uint8) for p in places)
    return from_here and name.startswith(ASKING)


def _place() -> str:
    """Where in the package."""
    frames = [f for f in traceback.extract_stack() if "score_sde_analytic" in f.filename and "/tests/" not in f.filename]
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[-1:-4:-1])


class _Given(TorchFunctionMode):
    """Numbers of the host become tensors of the host, which are sent."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in GIVEN and device is not None and torch.device(device).type == "meta":
            kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def device(narrow: bool = False) -> Iterator[Device]:
    """The device, for a block."""
    has_float64.cache_clear()
    Held.narrow = narrow
    try:
        with ExitStack() as stack:
            stack.enter_context(_Given())
            mode = stack.enter_context(Device())
            assert has_float64("meta") != narrow
            yield mode
    finally:
        Held.narrow = False
        has_float64.cache_clear()


class HostGenerators:
    """torch, with generators that draw on the host."""

    def __getattr__(self, name: str) -> Any:
        return (lambda device: torch.Generator()) if name == "Generator" else getattr(torch, name)
