"""One small file of every kind that the package writes, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde_analytic import Budget, Chain, GaussianMixture, Grid, LinearVP, ScoreModel, analyse, bits_per_dim
from score_sde_analytic.compare import cells
from score_sde_analytic.covariance import Beta
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.head_networks import load_head
from score_sde_analytic.covariance.head_training import Recipe, new_head
from score_sde_analytic.errors import MissingFileError
from score_sde_analytic.files import load_arrays, read_json, save_arrays, write_json
from score_sde_analytic.likelihood.bound import Bound
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.metrics import Classifier, load_classifier, save_classifier
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.networks import build_unet, load_unet, save_unet
from score_sde_analytic.models.training import Checkpoint
from score_sde_analytic.process.decoder import GaussianDecoder
from score_sde_analytic.samplers import FlowPaths, Table, fit_table, record_paths
from score_sde_analytic.study import Settings, Study
from score_sde_analytic.study.settings import Knots, Search

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "norm_eps": 1e-4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
WIRING = {"predicts": "v", "coordinates": "vp", "times": {"name": "log_snr", "scale": -50.0}}
CELL = {
    "solver": "heun",
    "grid": "dp",
    "budget": 10,
    "tolerance": None,
    "steps": 5,
    "calls": 10,
    "times": [1.0, 0.5, 0.0],
    "status": "ok",
    "metrics": {"kid": {"value": 0.25, "stderr": 0.01}},
    "bits": None,
    "sheet": None,
}

#: Of a study.
FREE = ("mass", "eigenvalues", "correction", "grids")


@dataclass(frozen=True)
class Instance:
    """A file and what reads it.

    Attributes:
        read: plain data of all that matters in it.
        free: entries and arrays that a whole file may have more or less of, or not at all.
    """

    kind: str
    path: Path
    read: Callable[[], Any]
    free: tuple[str, ...] = ()


def instances(folder: Path) -> Iterator[Instance]:
    """Files of all kinds, written below a folder."""
    mixture = GaussianMixture([0.5, 0.5], [[-0.5, 0.3], [0.4, -0.2]], 0.05)
    model = mixture.score_model(LinearVP())
    yield from _of_a_study(folder / "study", mixture, model)
    yield from _of_likelihoods(folder, mixture, model)
    yield from _of_networks(folder, mixture, model)
    yield from _of_a_comparison(folder)
    yield from _of_tables(folder, mixture, model)


def _of_a_study(folder: Path, mixture: GaussianMixture, model: ScoreModel) -> Iterator[Instance]:
    settings = Settings(knots=Knots(-6.0, 6.0, 6), search=Search(points=20, log_snr_max=5.0, most=4))
    made = {
        "record": ("pixel|energy",),
        "settings": settings,
        "budget": Budget(min_draws=64, max_draws=64, batch_size=64),
        "progress": False,
    }
    study = analyse(model, mixture.sample(64), **made)
    study.covariance("pixel|energy")
    study.grid(3, "dp", "pixel|energy")
    study.save(folder)
    expected = dict(study.moments.fingerprint)
    moments = next(folder.glob("moments*.safetensors"))
    for path in (folder / "study.safetensors", moments, *folder.glob("covariances/*"), *folder.glob("grids/*")):
        name = path.name if path.parent == folder else f"{path.parent.name}/{path.suffix}"
        yield Instance(f"study: {name}", path, lambda: _study(Study.load(folder, model)), FREE)
    yield Instance("moments", moments, lambda: plain(Moments.load(moments, expected)))
    curve = folder / "curve_residual.safetensors"
    yield Instance("curve", curve, lambda: plain(NoiseCurve.load(curve, model.fingerprint())) | {"fingerprint": None})
    covariance = next(folder.glob("covariances/*"))
    yield Instance("covariance", covariance, lambda: _diagonal(Diagonal.load(covariance, model.fingerprint())), FREE)
    passed = folder.parent / "pass"
    analyse(model, mixture.sample(64), path=passed, **made)
    resumed = next(passed.glob("moments*.safetensors"))
    yield Instance("pass", resumed, lambda: _study(analyse(model, mixture.sample(64), path=passed, **made)))


def _study(study: Study) -> Any:
    kept = study.kept
    covariances = {str(name): _diagonal(covariance) for name, covariance in kept.covariances.items()}
    grids = {str(name): {k: plain(grid) for k, grid in made.items()} for name, made in kept.grids.items()}
    recorded = {name: recorder.arrays() for name, recorder in study.recorders.items()}
    facts = (study.seed, study.shape, str(study.dtype), plain(study.data_range), repr(study.settings), str(kept.best))
    return plain(study.moments), plain(study.statistics), covariances, grids, recorded, facts


def _diagonal(covariance: Diagonal) -> Any:
    statistic = None if covariance.statistic is None else covariance.statistic.config()
    correction = None if covariance.correction is None else covariance.correction.table
    return plain(covariance.spectrum), covariance.basis.config(), statistic, correction


def _of_likelihoods(folder: Path, mixture: GaussianMixture, model: ScoreModel) -> Iterator[Instance]:
    grid = Grid((1.0, 0.5, 0.1, 0.0), "even", 0.25)
    path = folder / "grid.json"
    grid.save(path)
    yield Instance("grid", path, lambda: plain(Grid.load(path)), ("cost",))
    bound = folder / "bound.safetensors"
    examples = mixture.sample(8)
    measured = bits_per_dim(model, examples, Chain(grid, Beta(), GaussianDecoder(0.1)), path=bound, progress=False)
    yield Instance("bound", bound, lambda: plain(Bound.load(bound, measured.identity)) | {"identity": None})


def _of_networks(folder: Path, mixture: GaussianMixture, model: ScoreModel) -> Iterator[Instance]:
    torch.manual_seed(0)
    save_unet(build_unet(UNET), folder / "network", WIRING)
    for path in sorted((folder / "network").iterdir()):
        yield Instance(f"network: {path.name}", path, lambda: _network(*load_unet(folder / "network")), ("times",))
    save_classifier(Classifier(1, 4, 2, [4], 4), folder / "classifier", {"accuracy": 0.5})
    for path in sorted((folder / "classifier").iterdir()):
        yield Instance(f"classifier: {path.name}", path, lambda: digest_of(load_classifier(folder / "classifier")[0]))
    new_head("npr", model, mixture.sample(2), Recipe(), hidden=4, blocks=1).save(folder / "heads")
    for path in sorted((folder / "heads").iterdir()):
        yield Instance(f"head: {path.name}", path, lambda: load_head(folder / "heads", "npr", model).fingerprint())
    trained = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(trained.parameters())
    trained(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    checkpoint = Checkpoint(folder / "train_state.safetensors", {"recipe": {"steps": 10}, "seed": 0})
    checkpoint.write({"net": trained.state_dict(), "optimiser": optimiser.state_dict(), "step": 1})
    yield Instance("training state", checkpoint.path, lambda: _restored(checkpoint))


def _of_tables(folder: Path, mixture: GaussianMixture, model: ScoreModel) -> Iterator[Instance]:
    linear = LinearDenoiser.exact(*mixture.moments())
    kept = folder / "paths.safetensors"
    paths = record_paths(model, linear, (2,), [-2.0, 0.0, 2.0, 4.0], count=8, path=kept, progress=False)
    yield Instance("flow paths", kept, lambda: _paths(FlowPaths.load(kept)), ("start",))
    table = folder / "table.safetensors"
    fit_table(model, paths, linear, log_snrs=[-1.0, 1.0]).save(table)
    yield Instance("table", table, lambda: _table(Table.load(table)), ("facts", "network"))


def _paths(paths: FlowPaths) -> Any:
    arrays = [plain(getattr(paths, name)) for name in ("log_snrs", "z", "first", "predictions")]
    return arrays, plain(paths.identity), plain(vars(paths.cost))


def _table(table: Table) -> Any:
    return table.digest, table.label


def _network(net: nn.Module, wiring: Mapping[str, Any]) -> Any:
    return digest_of(net), {name: wiring[name] for name in WIRING}


def _restored(checkpoint: Checkpoint) -> Any:
    state = checkpoint.read("cpu")
    if state is None:
        raise MissingFileError("the run begins anew")
    net = nn.Linear(3, 2)
    with checkpoint.reading():
        net.load_state_dict(state["net"])
        torch.optim.AdamW(net.parameters()).load_state_dict(state["optimiser"])
        return plain(state["net"]), plain(state["optimiser"]), int(state["step"])


def _of_a_comparison(folder: Path) -> Iterator[Instance]:
    cell = folder / "cell.json"
    write_json(cell, cells.KIND, CELL)
    yield Instance("cell", cell, lambda: read_json(cell, cells.KIND, cells.SHAPE), ("tolerance", "bits", "metrics", "sheet"))
    samples = folder / "samples.safetensors"
    save_arrays(samples, {"samples": np.ones((4, 2), np.float32)}, {"kind": "samples", "seed": 0})
    yield Instance("samples", samples, lambda: load_arrays(samples, "samples", {"samples": "float32 4 2"}, {"seed": int}))


def plain(value: Any) -> Any:
    """Fields of objects and contents of containers, with arrays as their bytes."""
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value if isinstance(value, str | int | None) else repr(value)  # NaN differs from itself
