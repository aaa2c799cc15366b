"""What samples are compared in: maps from data to feature vectors, float64.

Pixels                 the data themselves
Coefficients(basis)    U x of an orthonormal basis, as the colour x DCT coefficients of patches
ModuleFeatures(net)    the output of a network: an nn.Module, or a TorchScript file
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64, Shaped, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from score_sde_analytic.arrays import slices
from score_sde_analytic.checks import whole
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.declared import UNFIT
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.processes import dealt, mine


class Features(ABC):
    """A map from data to feature vectors.

    Everything new features need:

        class Contrast(Features):
            name = "contrast"
            def __call__(self, x):
                return x.double().flatten(1).std(1, keepdim=True)
            def config(self):
                return {"name": self.name}
    """

    name: str

    @abstractmethod
    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        """Features of a batch in data units; each row depends on its example only.

        Raises:
            InputError: examples of a shape that does not fit.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identify the map."""


class Pixels(Features):
    """The coordinates of an example, flattened.

    >>> Pixels()(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 192])
    """

    name = "pixels"

    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        return x.double().flatten(1)

    def config(self) -> dict[str, Any]:
        return {"name": self.name}


class Coefficients(Features):
    """The coefficients U x of a basis, flattened; distances that no rotation changes are those of pixels."""

    def __init__(self, basis: Basis) -> None:
        self.basis = basis
        self.name = f"{type(basis).__name__} coefficients"

    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        return self.basis.forward(x.double()).flatten(1)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "basis": self.basis.config()}


class ModuleFeatures(Features):
    """The output of a network, flattened.

    >>> ModuleFeatures(nn.Conv2d(3, 4, 8), prepare=lambda x: x.float() - 0.5)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 4])

    Args:
        module: takes (batch, *dims); put into eval mode here.
        name: for tables.
        prepare: what the network is fed, from data units; as they are where not given. Part of the features' identity only
            by its name.
        dtype: of the computation; float64 makes features independent of the batch size to fifteen digits.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str = "module features",
        prepare: Callable[[Float[Tensor, " batch *dims"]], Shaped[Tensor, " batch ..."]] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.eval().to(dtype)
        self.name = name
        self.prepare = prepare
        self.dtype = dtype

    @classmethod
    def load(cls, path: str | Path, name: str = "", **settings: Any) -> ModuleFeatures:
        """From a TorchScript file (`torch.jit.save`), as feature networks are often published. It holds a programme: load
        files that you trust.

        Raises:
            MissingFileError: no such file.
            InputError: the file is not TorchScript.
        """
        file = Path(path)
        if not file.is_file():
            raise MissingFileError(f"no TorchScript file at {file}; save a network there with torch.jit.save")
        try:
            module = torch.jit.load(str(file), map_location="cpu")
        except (*UNFIT, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{file} is damaged or not a TorchScript file ({reason}); write it with torch.jit.save") from error
        return cls(module, name or file.stem, **settings)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        self.module.to(x.device)
        fed = x.to(self.dtype) if self.prepare is None else self.prepare(x)
        out = self.module(fed)
        if not isinstance(out, Tensor) or len(out) != len(x):
            what = f"a tensor of {len(out)} rows" if isinstance(out, Tensor) else type(out).__name__
            raise InputError(f"the network of {self.name!r} gave {what} for {len(x)} examples; it must give (batch, n)")
        return out.double().flatten(1)

    def config(self) -> dict[str, Any]:
        prepare = getattr(self.prepare, "__qualname__", type(self.prepare).__name__)
        return {"name": self.name, "network": digest_of(self.module), "prepare": prepare, "dtype": str(self.dtype)}


class BytePixels:
    """Data in a declared range as the 8-bit RGB values that published feature networks were trained on.

    uint8 = round(255 (x - lo) / (hi - lo)), clipped; one channel is repeated three times.

    >>> BytePixels(DataRange(-1.0, 1.0))(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3))[0, :, 0]
    tensor([[  0, 128, 255],
            [  0, 128, 255],
            [  0, 128, 255]], dtype=torch.uint8)
    """

    def __init__(self, data_range: DataRange) -> None:
        self.data_range = data_range
        self.__qualname__ = f"BytePixels({data_range})"

    def __call__(self, x: Float[Tensor, " ..."]) -> UInt8[Tensor, "batch 3 h w"]:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(f"need images (batch, 1 or 3, height, width), got {tuple(x.shape)}")
        lo, hi = self.data_range.lo, self.data_range.hi
        integers = (255.0 * (x.double() - lo) / (hi - lo)).round().clamp(0, 255).to(torch.uint8)
        return integers.expand(-1, 3, -1, -1)


@torch.no_grad()
def extract(
    features: Features,
    data: Data,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    what: str = "the data",
    progress: bool = False,
) -> Float64[Tensor, "n d"]:
    """Features of all examples, on the device, in the order of the data.

    >>> extract(Pixels(), torch.zeros(5, 1, 8, 8), batch_size=2).shape
    torch.Size([5, 64])

    Args:
        data: examples in data units, a tensor (n, *dims) or a map-style data set.
        what: how errors call the data.

    Raises:
        InputError: no data, data or features that hold NaN or inf, or features of a wrong shape.
    """
    batch_size = whole(1)("batch_size", batch_size)
    dataset = as_dataset(data)
    if not dataset.first.is_floating_point():
        raise InputError(f"{what} are {dataset.first.dtype}; give floating-point values (DataRange.encode converts integers)")
    count = len(dataset)
    parts = slices(count, batch_size)
    dataset.expect(i for part in mine(parts) for i in range(part.start, part.stop))

    def found(part: slice) -> Tensor:
        x = dataset.take(range(part.start, part.stop))
        return _checked(features, x.to(device), f"{what}, examples {part.start}..{part.stop - 1},")

    values = []
    with tqdm(total=count, desc=f"features of {what}", unit="example", disable=not progress, leave=False) as bar:
        for each in dealt(found, parts):
            values.append(each.to(device))
            bar.update(len(each))
    return torch.cat(values)


def _checked(features: Features, x: Tensor, rows: str) -> Tensor:
    """Features of a batch, float64; `rows` is how errors call it."""
    if x.ndim < 2:
        raise InputError(f"{rows} have shape {tuple(x.shape)}; each example needs at least one dimension")
    if not torch.isfinite(x).all():
        raise InputError(f"{rows} hold NaN or inf: the sampler diverged, or the data are damaged")
    values = features(x)
    if values.ndim != 2 or len(values) != len(x):
        raise InputError(f"{features.name!r} gave shape {tuple(values.shape)} for {len(x)} examples; need ({len(x)}, n)")
    if not torch.isfinite(values).all():
        raise InputError(f"{features.name!r} of {rows} hold NaN or inf; check the feature network and the data range")
    return values.double()
