"""--mode=compress and --mode=decompress: pictures of a folder or a file .npz to a file .ssac and back, without a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.coding import Codec, header_of
from score_sde_analytic.coding.chains import chain_content, chain_of
from score_sde_analytic.coding.codec import require_network
from score_sde_analytic.coding.tiles import Tiling
from score_sde_analytic.declared import require_shape
from score_sde_analytic.errors import InputError, MissingFileError, UserError
from score_sde_analytic.files import read_bytes, write_bytes
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.models.model import ScoreModel

from .experiment import Experiment
from .pictures import CURE, Pictures

#: Names by which a study makes a chain.
NAMES = ("steps", "grid", "covariance", "prior")
SUFFIX = ".ssac"
#: Of what a file says besides; and of its chain, where that is named.
ABOUT = {"pictures": dict, "chain": dict}
NAMED = {"steps": range(1, 100_001), "grid": str, "covariance": str, "prior": {"gaussian", ""}}


def compress(experiment: Experiment) -> list[Path]:
    """config.code.input -> config.code.output."""
    source, target = _paths(experiment)
    if target.suffix != SUFFIX:
        raise InputError(f"code.output is {target}: name a file {SUFFIX}, --config.code.output=FILE{SUFFIX}")
    pictures = Pictures.read(source)
    shape = _shape(experiment)
    tiles = np.concatenate([_tiles(experiment, picture, shape, source) for picture in pictures.arrays])
    names, chain = _chain(experiment)
    codec = _codec(experiment, chain)
    images = codec.data_range.encode(tiles)
    done = codec.compress(images, progress=True, about={"pictures": pictures.about, "chain": names})
    write_bytes(target, done.content)
    pixels = sum(picture.size for picture in pictures.arrays)
    print(
        f"\n{len(pictures.arrays)} pictures, {len(tiles)} tiles of {'x'.join(map(str, shape))}: {len(done.content)} bytes,"
        f" {8 * len(done.content) / pixels:.4f} bits/dim; coded {done.net_rate:.4f} bits/dim, {done.raw} tiles kept raw"
    )
    content = {
        "bytes": len(done.content),
        "pictures": len(pictures.arrays),
        "tiles": len(tiles),
        "raw_tiles": done.raw,
        "bits_per_dim": {"file": 8 * len(done.content) / pixels, "coded": done.net_rate, "worth": done.worth_rate},
        "beginning_bits": done.beginning,
        "arithmetic": experiment.config.code.arithmetic,
        "chain": {name: experiment.config.code[name] for name in NAMES},
    }
    return [target, experiment.record("compress", content)]


def decompress(experiment: Experiment) -> list[Path]:
    """config.code.input -> config.code.output."""
    source, target = _paths(experiment)
    content = read_bytes(source, "compressed", CURE)
    with _of(source):
        header = header_of(content)
        about = header.get("about", {})
        require_shape(about, ABOUT, "what it says besides", CURE)
        require_network(header, _unlabelled(experiment))
        experiment.config.code.arithmetic = next(iter(header["arithmetic"]))
        codec = _codec(experiment, _recorded(experiment, about["chain"]))
        shape = tuple(header["shape"])
        if len(shape) != 3:
            raise InputError(f"its images have the shape {shape}, and are no pictures; decode it with Codec.decode")
        tile = shape[1], shape[2]
        sizes = Pictures.sizes(about["pictures"], header["count"], tile)
        tilings = [Tiling(height, width, tile) for height, width in sizes]
        ends = [0, *accumulate(tiling.count for tiling in tilings)]
        if ends[-1] != header["count"]:
            raise InputError(f"it says that its pictures have {ends[-1]} tiles, and holds {header['count']}; {CURE}")
        tiles = codec.data_range.index(codec.decode(content, progress=True)).numpy()
    arrays = [tiling.joined(tiles[a:b]) for tiling, (a, b) in zip(tilings, pairwise(ends), strict=True)]
    return Pictures(arrays, about["pictures"]).write(target)


def _paths(experiment: Experiment) -> tuple[Path, Path]:
    settings = experiment.config.code
    for name in ("input", "output"):
        if not settings[name]:
            raise InputError(f"code.{name} is not set; pass --config.code.{name}=PATH")
    return Path(settings.input).expanduser(), Path(settings.output).expanduser()


@contextmanager
def _of(source: Path) -> Iterator[None]:
    """Tell which file is refused."""
    try:
        yield
    except MissingFileError:
        raise
    except UserError as error:
        raise InputError(f"{source}: {error}") from error


def _shape(experiment: Experiment) -> tuple[int, ...]:
    """(channels, height, width) of the network's images."""
    shape = tuple(experiment.splits.held("validation", 1).shape[1:])
    if len(shape) != 3:
        raise InputError(f"the data of this network have the shape {shape}: pictures are coded by networks of pictures")
    return shape


def _tiles(experiment: Experiment, picture: np.ndarray, shape: tuple[int, ...], source: Path) -> np.ndarray:
    """A picture's tiles, whose values are levels of the data."""
    levels = experiment.splits.data_range.levels or 0
    if len(picture) != shape[0]:
        raise InputError(f"{source} holds pictures of {len(picture)} channels, the network's have {shape[0]}: convert them")
    if picture.max(initial=0) >= levels:
        raise InputError(
            f"{source} holds values up to {picture.max()}, the network knows the {levels} levels 0 to {levels - 1}:"
            " give pictures whose values are levels"
        )
    _, height, width = picture.shape
    return Tiling(height, width, (shape[1], shape[2])).cut(picture)


def _chain(experiment: Experiment) -> tuple[dict[str, Any], Chain]:
    """(what a file says of the chain, the chain) of config.code."""
    settings = experiment.config.code
    names = {name: settings[name] for name in NAMES} | {"covariance": str(experiment.study.resolve(settings.covariance))}
    chain = _named(experiment, names)
    if not settings.embed:
        return names, chain
    content = chain_content(chain, experiment.model)
    return {"content": content}, chain_of(content)


def _recorded(experiment: Experiment, said: dict[str, Any]) -> Chain:
    """The chain that a file was encoded with."""
    if "content" in said:
        return chain_of(said["content"], "its chain")
    require_shape(said, NAMED, "its chain", CURE)
    experiment.config.code.covariance = said["covariance"]  # to be recorded by the pass
    return _named(experiment, said)


def _named(experiment: Experiment, names: dict[str, Any]) -> Chain:
    return experiment.study.chain(names["steps"], names["grid"], names["covariance"], names["prior"] or None)


def _codec(experiment: Experiment, chain: Chain) -> Codec:
    settings = experiment.config.code
    options = {name: settings[name] for name in ("ratio", "batch_size", "arithmetic")}
    return Codec(_unlabelled(experiment), chain, experiment.splits.data_range, **options, device=experiment.device)


def _unlabelled(experiment: Experiment) -> ScoreModel:
    """The network, told that there is no label where it takes some."""
    argument, config = experiment.config.network.condition, experiment.config
    if not argument:
        return experiment.model
    null = config.train.classes if config.sample.null < 0 else config.sample.null
    return experiment.model.given(**{argument: null})
