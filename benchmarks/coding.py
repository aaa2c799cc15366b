"""Files of held-out images by chains: bytes, bits/dim net and whole, beside the bound and what the latents are worth; time.

  python benchmarks/coding.py --config=digits_vp [--covariances isotropic pca] [--priors none gaussian] [--steps 3 5 10 25]
                              [--ratio 0.5] [--arithmetic float32] [--images 297] [--draws 8] [--quick] [--workdir DIR]
                              [--output FILE.md]

Chains are of the validation split, the Gaussian prior and bases of the training split, files of the test split. Every file is
decoded again, and a difference ends the run.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import torch
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.coding import Codec
from score_sde_analytic.report.tables import markdown

COLUMNS = [
    "variance",
    "prior",
    "K",
    "bound",
    "worth",
    "net",
    "net over worth",
    "file, bytes",
    "file, bits/dim",
    "beginning, bits",
    "raw images",
    "ms to encode",
    "ms to decode",
]


def row(experiment: Experiment, covariance: str, prior: str | None, steps: int, arguments: argparse.Namespace) -> list[str]:
    """One chain's file."""
    study, images = experiment.study, experiment.splits.held("test", arguments.images)
    names = {"covariance": covariance, "prior": prior}
    bound = study.measure(images, steps, **names, draws=arguments.draws, progress=False)[steps].total  # type: ignore[arg-type]
    codec = study.codec(steps, **names, ratio=arguments.ratio, arithmetic=arguments.arithmetic)
    return [covariance, prior or "N(0, I)", str(steps), f"{bound:.4f}", *coded(codec, images)]


def coded(codec: Codec, images: torch.Tensor) -> list[str]:
    """What becomes of images.

    Raises:
        RuntimeError: they do not come back.
    """
    start = time.perf_counter()
    done = codec.compress(images)
    middle = time.perf_counter()
    if not torch.equal(codec.decode(done.content), images):
        raise RuntimeError("the images did not come back")
    times = (1e3 * (end - begin) / len(images) for begin, end in ((start, middle), (middle, time.perf_counter())))
    shares = f"{done.worth_rate:.4f}", f"{done.net_rate:.4f}", f"{100 * (done.net_rate / done.worth_rate - 1):+.3f} %"
    sizes = str(len(done.content)), f"{done.rate:.4f}", f"{done.beginning:.0f}", str(done.raw)
    return [*shares, *sizes, *(f"{each:.1f}" for each in times)]


def quick(config: object) -> None:
    """A pass of few draws and few fits: enough for patches."""
    config.estimate.knots = config.estimate.most_knots = 26  # type: ignore[attr-defined]
    config.estimate.max_draws = 300  # type: ignore[attr-defined]
    config.covariance.bins, config.covariance.shrinkage, config.covariance.smooth = (1, 8), (30.0,), (True,)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits_vp", help="name of a file in configs/")
    parser.add_argument("--covariances", nargs="+", default=["isotropic", "pca"])
    parser.add_argument("--priors", nargs="+", choices=["none", "gaussian"], default=["none", "gaussian"])
    parser.add_argument("--steps", nargs="+", type=int, default=[3, 5, 10, 25])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--arithmetic", choices=["float32", "exact"], default="float32")
    parser.add_argument("--images", type=int, default=0, help="of the test split; 0 for all")
    parser.add_argument("--draws", type=int, default=8, help="of the bound, per image")
    parser.add_argument("--quick", action="store_true", help="a pass of few draws")
    parser.add_argument("--workdir", type=Path, help="keeps the measurements; continued when it exists")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    config = importlib.import_module(f"score_sde_analytic.configs.{arguments.config}").get_config()
    config.sample.variances = config.evaluate.variances = ()
    if arguments.quick:
        quick(config)
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(config, arguments.workdir or Path(folder), arguments.covariances)
        priors = [None if prior == "none" else prior for prior in arguments.priors]
        chains = product(arguments.covariances, priors, arguments.steps)
        text = markdown(COLUMNS, [row(experiment, *chain, arguments) for chain in chains])
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
