"""The built-in bases by name, and read back from files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from score_sde_analytic.data.basis import Basis, Block, BuiltIn, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import portion, spread
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import differences

_BUILT_IN: dict[str, type[BuiltIn]] = {
    c.__name__: c for c in (Pixel, PixelChannel, Block, Channel, Scalar, DCT, ColourDCT, PCA)
}

#: Coordinates above which curves are shared: frequencies by rings of each channel, pixels by squares.
MANY, RINGS, SQUARES = 4096, 256, 1024
#: Examples for each principal component, where there are so many.
FOR_A_COMPONENT = 4


def shared(shape: Sequence[int]) -> bool:
    """Whether examples of this shape have too many coordinates for a curve of each.

    >>> shared((3, 32, 32)), shared((3, 256, 256))
    (False, True)
    """
    return math.prod(shape) > MANY


def _rings(data: Data, radial: bool = False) -> bool | int:
    return RINGS if shared(as_dataset(data).shape) else radial


def _pixels(data: Data) -> Basis:
    shape = as_dataset(data).shape
    pixels = shape[1:] if len(shape) > 2 else shape
    side = math.ceil((math.prod(pixels) / SQUARES) ** (1 / len(pixels)))
    return Block(side) if shared(shape) else Pixel()


def _held(data: Data) -> Examples:
    """The data, or a portion that is held where they are large and read from elsewhere."""
    examples = as_dataset(data)
    return examples if examples.in_memory else portion(examples)


def _enough(data: Data, rank: int | None) -> Examples:
    """A portion that is held, or more examples than it has where so many components ask for them, read as they are needed."""
    examples, held = as_dataset(data), _held(data)
    count = min(FOR_A_COMPONENT * (rank or 0), len(examples))
    return held if len(held) >= count else examples.part(spread(len(examples), count))


#: name -> (data, rank of "pca" or None for all) -> Basis; those that follow the data are fitted to them.
BASES: dict[str, Callable[[Data, int | None], Basis]] = {
    "scalar": lambda data, rank: Scalar(),
    "channel": lambda data, rank: Channel(),
    "pixel": lambda data, rank: _pixels(data),
    "pixel_channel": lambda data, rank: PixelChannel(),
    "dct": lambda data, rank: DCT(_rings(data)),
    "dct_radial": lambda data, rank: DCT(_rings(data, True)),
    "colour_dct": lambda data, rank: ColourDCT.of(_held(data), _rings(data)),
    "pca": lambda data, rank: PCA.of(_enough(data, rank), rank),
}


def to_arrays(basis: Basis) -> dict[str, np.ndarray]:
    """The arrays that `from_config` needs beside `basis.config()`; none for a basis that is not built in."""
    return {name: getattr(basis, name) for name in basis._arrays} if isinstance(basis, BuiltIn) else {}


def from_config(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], basis: Basis | None = None) -> Basis:
    """The basis with this `config()`.

    Args:
        config: what `config()` gave, possibly after a round trip through JSON.
        arrays: what `to_arrays` gave; others are ignored.
        basis: the basis itself, needed for one that is not built in.

    Raises:
        InputError: a basis that is not built in was not passed, the one passed has another config, or arrays are absent or
            damaged.

    >>> pca = PCA.of(data)
    >>> from_config(pca.config(), to_arrays(pca)) == pca
    True
    """
    name = config.get("name")
    built_in = _BUILT_IN.get(str(config.get("name")))
    if basis is None:
        if built_in is None:
            raise InputError(f"the basis {name!r} is not built in ({', '.join(_BUILT_IN)}); pass the object it was fitted with")
        missing = [k for k in built_in._arrays if k not in arrays] + [k for k in built_in._settings if k not in config]
        if missing:
            raise InputError(f"the basis {name} lacks {', '.join(missing)}; the file is of another version: fit it again")
        named = {k: config[k] for k in built_in._settings} | {k: arrays[k] for k in built_in._arrays}
        basis = built_in(**named)
    lines = differences(json.loads(json.dumps(dict(config))), json.loads(json.dumps(basis.config())))
    if lines:
        raise InputError(f"the basis is not the one it was saved as ({'; '.join(lines)}); use the one it was fitted with")
    return basis
