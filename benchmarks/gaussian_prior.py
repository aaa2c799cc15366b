"""Bits/dim of few steps with what the data's moments know for free as the prior: N(0, I), a Gaussian, a mixture of Gaussians.

  python benchmarks/gaussian_prior.py --config=digits_vp [--covariances isotropic pca] [--steps 1 2 3 5 10 25]
                                      [--draws 4] [--workdir DIR] [--output FILE.md]

Free models are fitted to the training split, judged on the validation split, on which grids are chosen as well, and bits are
measured on the test split, all priors with the same noise. In brackets the prediction, and the log-SNR of the first call.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import warnings
from pathlib import Path

from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.models import FreeModel, Judged, LinearDenoiser, MixtureDenoiser
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study import Study

#: Free models by the name of their row.
FREE = {"Gaussian": LinearDenoiser.of, "mixture": MixtureDenoiser.of}


def priors(experiment: Experiment) -> dict[str, FreeModel | None]:
    """The priors by name."""
    splits = experiment.splits
    fitted = {name: fit(splits.train) for name, fit in FREE.items()}
    judged = {name: Judged.on(splits.validation, free, experiment.schedule) for name, free in fitted.items()}
    return {"N(0, I)": None, **judged}


def table(experiment: Experiment, covariances: list[str], steps: list[int], draws: int) -> str:
    """One row per covariance and prior, one column per K."""
    study, rows = experiment.study, []
    for covariance in covariances:
        for name, prior in priors(experiment).items():
            rows.append([covariance, name, *cells(study, experiment, covariance, prior, steps, draws)])
    return markdown(["variance", "prior", *[f"K = {k}" for k in steps]], rows)


def cells(
    study: Study, experiment: Experiment, covariance: str, prior: FreeModel | None, steps: list[int], draws: int
) -> list[str]:
    """Measured bits/dim, and in brackets what was predicted, at the log-SNR of the first call."""
    priced = study.bits(*steps, covariance=covariance, prior=prior)
    measured = study.measure(experiment.test, *steps, covariance=covariance, prior=prior, draws=draws, progress=False)
    tops = {k: study.schedule.log_snr(study.grid(k, covariance=covariance, prior=prior).times[0]) for k in steps}
    return [f"{measured[k].total:.3f} ({priced[k].total.value:.3f}, {tops[k]:.1f})" for k in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits_vp", help="name of a file in configs/")
    parser.add_argument("--covariances", nargs="+", default=["isotropic", "pca"])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 3, 5, 10, 25])
    parser.add_argument("--draws", type=int, default=4, help="per test example")
    parser.add_argument("--workdir", type=Path, help="keeps the measurements; continued when it exists")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    config = importlib.import_module(f"score_sde_analytic.configs.{arguments.config}").get_config()
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(config, arguments.workdir or Path(folder), arguments.covariances)
        text = table(experiment, arguments.covariances, arguments.steps, arguments.draws)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
