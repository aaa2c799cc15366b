"""Sample quality of reverse covariances at few steps: one table of distances, with errors, from the same noise for every row.

    python benchmarks/sample_quality.py --data digits [--count 2000] [--steps 5 10 25] [--variances NAME NAME@ETA ...]
                                        [--output FILE.md]
    python benchmarks/sample_quality.py --data patches --count 500 --steps 5 10 --groups 10

Grids are even in log-SNR; NAME@0 takes eta = 0 (beta_tilde@0 is DDIM), all others eta = 1. Covariances are fitted to the
validation split. Moments, draws and samples stay in the workdir, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from score_sde_analytic.configs import digits_vp, patches
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.data.transforms import ColourDCT
from score_sde_analytic.files import load_arrays, require_match, save_arrays, write_text
from score_sde_analytic.metrics import (
    KID,
    ClassifierFeatures,
    Coefficients,
    Features,
    Frechet,
    Metric,
    Pixels,
    Precision,
    Recall,
    Reference,
    SlicedWasserstein,
    evaluate,
)
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import Ancestral, generate


@dataclass(frozen=True)
class Setting:
    """What a data set is compared in."""

    config: ConfigDict
    variances: tuple[str, ...]
    reference: Tensor
    real: Tensor
    metrics: Mapping[str, tuple[Features, Metric]]


def digits(groups: int) -> Setting:
    """All 1,797 digits; the row of real data is the held-out third against the training split."""
    config = digits_vp.get_config()
    config.covariance.bases = ("scalar", "dct", "pixel", "pca")
    config.covariance.statistics = ("high_frequency", "energy")
    splits = Experiment(config, Path()).splits
    held_out = torch.cat([splits.validation, splits.test])
    features = ClassifierFeatures.load("digits_classifier")
    metrics = _metrics(features, groups) | {"sliced W2², pixels": (Pixels(), SlicedWasserstein(groups=groups))}
    names = ("beta_tilde@0", "beta", "beta_tilde", "residual", "dct", "pixel", "pca", "dct|high_frequency", "pixel|energy")
    return Setting(config, names, torch.cat([splits.train, held_out]), held_out, metrics)


def colour_patches(groups: int) -> Setting:
    """4,000 training patches (other tiles of two photographs look different); the row of real data is 1,000 test patches."""
    config = patches.get_config()
    config.covariance.bases = ("scalar", "pixel", "dct", "colour_dct", "pca")
    config.covariance.statistics = ("high_frequency",)
    config.estimate.knots = 40
    config.estimate.min_draws = config.estimate.max_draws = 1000
    splits = Experiment(config, Path()).splits
    features = Coefficients(ColourDCT.of(splits.train))
    metrics = _metrics(features, groups) | {"sliced W2²": (features, SlicedWasserstein(groups=groups))}
    names = ("beta_tilde@0", "beta_tilde", "residual", "pixel", "dct", "pca", "colour_dct", "dct|high_frequency")
    names = (*names, "colour_dct|high_frequency", "colour_dct|high_frequency@0")
    return Setting(config, names, splits.train[:4000], splits.test[:1000], metrics)


def _metrics(features: Features, groups: int) -> dict[str, tuple[Features, Metric]]:
    chosen: dict[str, Metric] = {"Frechet": Frechet(groups=groups), "KID": KID(), "precision": Precision(), "recall": Recall()}
    return {name: (features, metric) for name, metric in chosen.items()}


def samples(experiment: Experiment, name: str, steps: int, count: int, batch: int) -> tuple[Tensor, float]:
    """(samples, network calls per batch), from the workdir if they are there."""
    variance, _, eta = name.partition("@")
    path = experiment.workdir / "samples" / f"{name.replace('|', '_given_')}_K{steps}.safetensors"
    identity = {
        "name": name,
        "steps": steps,
        "count": count,
        "seed": experiment.config.seed,
        "network": experiment.model.fingerprint(),
    }
    if path.exists():
        arrays, metadata = load_arrays(path, "samples", {"samples": "float32 ..."}, {"identity": dict, "calls": float})
        require_match(path, metadata["identity"], identity)
        return torch.from_numpy(arrays["samples"]), metadata["calls"]
    grid = experiment.study.grid(steps, "log_snr", variance)
    sampler = Ancestral(experiment.model, experiment.study.covariance(variance), float(eta or 1.0))
    shape = tuple(experiment.splits.train.shape[1:])
    with experiment.model.metered() as cost:
        x = generate(sampler, grid, shape, count, experiment.config.seed, batch, device=experiment.device, progress=True).cpu()
    calls = cost.calls / math.ceil(count / batch)
    save_arrays(path, {"samples": x.numpy()}, {"kind": "samples", "identity": identity, "calls": calls})
    return x, calls


def row(x: Tensor, references: Mapping[Features, Reference], metrics: Mapping[str, tuple[Features, Metric]]) -> list[str]:
    cells = {}
    for features, reference in references.items():
        chosen = {name: metric for name, (map_, metric) in metrics.items() if map_ is features}
        cells |= {name: str(value) for name, value in evaluate(chosen, x, reference).items()}
    return [cells[name] for name in metrics]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "patches"), default="digits")
    parser.add_argument("--count", type=int, default=2000, help="samples per row")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--variances", nargs="+", help="rows; all if not given")
    parser.add_argument("--groups", type=int, default=20, help="of the jackknife")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    setting = {"digits": digits, "patches": colour_patches}[args.data](args.groups)
    workdir = args.workdir or Path("results") / f"quality_{args.data}"
    workdir.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(setting.config, workdir)
    maps = dict.fromkeys(features for features, _ in setting.metrics.values())
    references = {features: Reference.of(setting.reference, features) for features in maps}
    real = {features: Reference.of(experiment.splits.train[:4000], features) for features in maps}
    sizes = f"{args.count} samples per row, reference of {len(setting.reference)}, real data of {len(setting.real)}"
    print(f"{sizes}; ± one standard error\n")
    header = ["covariance", "K", "network calls", *setting.metrics]
    rows = [["real data", "-", "-", *row(setting.real, real, setting.metrics)]]
    for name, steps in tqdm([(n, k) for k in args.steps for n in args.variances or setting.variances], desc="rows"):
        x, calls = samples(experiment, name, steps, args.count, args.batch)
        rows.append([name.replace("|", " given "), str(steps), f"{calls:g}", *row(x, references, setting.metrics)])
    found = markdown(header, rows)
    print(found)
    if args.output:
        write_text(args.output, found + "\n")


if __name__ == "__main__":
    main()
