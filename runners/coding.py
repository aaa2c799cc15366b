"""--mode=compress and --mode=decompress: pictures of a folder or a file .npz to a file .ssac and back, without a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score_sde_analytic.coding import Codec, header_of
from score_sde_analytic.coding.arithmetic import with_threads
from score_sde_analytic.coding.chains import chain_content, chain_of
from score_sde_analytic.coding.codec import require_network
from score_sde_analytic.coding.ladder import require_diagonal
from score_sde_analytic.coding.tiles import Tiling
from score_sde_analytic.declared import require_shape
from score_sde_analytic.errors import InputError, MissingFileError, UserError
from score_sde_analytic.files import read_bytes, write_bytes
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.processes import own

from . import build
from .experiment import Experiment
from .pictures import CURE, Pictures, require_below, require_target

#: Names by which a study makes a chain.
NAMES = ("steps", "grid", "covariance", "prior")
SUFFIX = ".ssac"
#: Of what a file says besides; and of its chain, where that is named.
ABOUT = {"pictures": dict, "chain": dict, "threads": range(1, 4097)}
NAMED = {"steps": range(1, 100_001), "grid": str, "covariance": str, "prior": {"gaussian", ""}}
OTHER_PASS = (
    "its chain is not in it, and comes from the pass of another workdir or machine, or from other estimate settings:"
    " use that workdir, or compress with --config.code.embed=True"
)


def compress(experiment: Experiment) -> list[Path]:
    """config.code.input -> config.code.output."""
    source, target = _paths(experiment)
    if target.suffix != SUFFIX or target.is_dir():
        raise InputError(f"code.output is {target}: name a file {SUFFIX}, --config.code.output=FILE{SUFFIX}")
    require_below(target)
    pictures = Pictures.read(source)
    shape = _shape(experiment)
    tiles = np.concatenate([_tiles(experiment, picture, shape, source) for picture in pictures.arrays])
    names, chain = _chain(experiment)
    codec = _codec(experiment, chain)
    images = codec.data_range.encode(tiles)
    done = codec.compress(images, progress=True, about=_about(pictures, names))
    write_bytes(target, done.content)
    pixels = sum(picture.size for picture in pictures.arrays)
    print(
        f"\n{_counted(len(pictures.arrays), 'picture')}, {_counted(len(tiles), 'tile')} of {'x'.join(map(str, shape))}:"
        f" {len(done.content):,} bytes, {8 * len(done.content) / pixels:.4f} bits/dim;"
        f" coded {done.net_rate:.4f} bits/dim, {_counted(done.raw, 'tile')} kept raw"
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
        tilings = _tilings(header)
        require_target(target, [(tiling.height, tiling.width) for tiling in tilings])
        with with_threads(about["threads"]):  # the chain's principal components follow them too
            codec = _decoder(experiment, header)
            tiles = codec.data_range.index(codec.decode(content, progress=True)).numpy()
    ends = pairwise([0, *accumulate(tiling.count for tiling in tilings)])
    arrays = [tiling.joined(tiles[a:b]) for tiling, (a, b) in zip(tilings, ends, strict=True)]
    written = Pictures(arrays, about["pictures"]).write(target)
    print(f"\n{_counted(len(arrays), 'picture')} came back, and the checksum of the pixels holds")
    return written


def _about(pictures: Pictures, names: dict[str, Any]) -> dict[str, Any]:
    """What a file says besides."""
    return {"pictures": pictures.about, "chain": names, "threads": torch.get_num_threads()}


def _tilings(header: dict[str, Any]) -> list[Tiling]:
    """How a file's pictures were cut."""
    shape = tuple(header["shape"])
    if len(shape) != 3:
        raise InputError(f"its images have the shape {shape}, and are no pictures; decode it with Codec.decode")
    tile = shape[1], shape[2]
    sizes = Pictures.sizes(header["about"]["pictures"], header["count"], tile)
    tilings = [Tiling(height, width, tile) for height, width in sizes]
    count = sum(tiling.count for tiling in tilings)
    if count != header["count"]:
        raise InputError(f"it says that its pictures have {count} tiles, and holds {header['count']}; {CURE}")
    return tilings


def _decoder(experiment: Experiment, header: dict[str, Any]) -> Codec:
    """The codec that a file was encoded with."""
    experiment.config.code.arithmetic = next(iter(header["arithmetic"]))
    said = header["about"]["chain"]
    if "content" in said:
        require_network(header, _unlabelled(experiment))
        return _codec(experiment, chain_of(said["content"], "its chain"))
    require_shape(said, NAMED, "its chain", CURE)
    experiment.config.code.covariance = said["covariance"]  # to be recorded by the pass
    if not experiment.measured:
        raise InputError(f"{OTHER_PASS}; {experiment.workdir} holds no finished pass of it")
    require_network(header, _unlabelled(experiment))
    codec = _codec(experiment, _named(experiment, said))
    if codec.identity["chain"] != header["chain"]:
        raise InputError(OTHER_PASS)
    return codec


def _counted(count: int, what: str) -> str:
    """As "1 picture", "2 pictures"."""
    return f"{count} {what}{'s' * (count != 1)}"


def _paths(experiment: Experiment) -> tuple[Path, Path]:
    settings = experiment.config.code
    for name in ("input", "output"):
        if not settings[name]:
            raise InputError(f"code.{name} is not set; pass --config.code.{name}=PATH")
    return Path(settings.input).expanduser(), own(Path(settings.output).expanduser())


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
    # "auto" stays as it is, by which a decoder knows the pass.
    covariance = settings.covariance or build.study_settings(experiment.config).covariance
    names = {name: settings[name] for name in NAMES} | {"covariance": covariance}
    chain = _named(experiment, names)
    if not settings.embed:
        return names, chain
    content = chain_content(chain, experiment.model)
    return {"content": content}, chain_of(content)


def _named(experiment: Experiment, names: dict[str, Any]) -> Chain:
    require_diagonal(experiment.study.covariance(names["covariance"]), experiment.schedule)
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
