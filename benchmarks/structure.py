"""How much of the gap to infinitely many steps each covariance removes: predicted by the integral I, and measured.

  python benchmarks/structure.py --config=digits_vp [--covariances scalar pixel pca ...] [--dp ...] [--steps 5 10 25 100]
                                 [--tweedie 5 10] [--log-snr-max 9] [--examples 0] [--workdir DIR] [--output FILE.md]

The density of x_{t_1} is bounded, with no last step, so that chains of all covariances, and continuous time, end at the same
level and their difference is the transitions' alone. Excess is paired by example with common random numbers; bits/dim.
Rows "even" are grids even in log-SNR, rows "dp" each covariance's own optimal grid, for which theory has I^2 / (4 (K - 1)).
"""

from __future__ import annotations

import argparse
import importlib
import math
import tempfile
from pathlib import Path

from score_sde_analytic.runners.evaluate import measure
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.likelihood import BITS, ContinuousTime
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate


def table(experiment: Experiment, names: dict[str, list[str]], steps: list[int], tweedie: list[int]) -> str:
    """One row per grid and covariance, one column per K; `names` of the covariances on each grid."""
    t_1, decoder = experiment.study.first()
    methods = {"limit": ContinuousTime(t_1, decoder, 64, experiment.study.curves["residual"])}
    for grid, covariances in names.items():
        for name in covariances:
            for k in tweedie if name == "tweedie" else steps:
                methods[f"{grid}/{name}/{k}"] = experiment.study.chain(k, {"even": "log_snr"}.get(grid, grid), name)
    found = measure(experiment, methods)
    limit = found.pop("limit").per_example
    excess = {name: Estimate.of(bound.per_example - limit) for name, bound in found.items()}
    scalar = integral(experiment, "residual")
    rows = []
    for grid, covariances in names.items():
        for name in covariances:
            i = integral(experiment, name)
            cells = [f"{i:.3f}", f"{(i / scalar) ** 2:.2f}"] if i is not None else ["-", "-"]
            for k in steps:
                part = excess.get(f"{grid}/{name}/{k}")
                law = f" ({BITS * i**2 / (4 * (k - 1)):.3f})" if grid == "dp" and i is not None else ""
                cells.append(f"{part:.3f}{law}" if part else "-")
            rows.append([grid, name, *cells])
    head = f"Excess over continuous time ({Estimate.of(limit):.3f} bits/dim), {len(limit)} test examples"
    return f"{head}; in brackets I^2 / (4 (K - 1)):\n\n" + markdown(
        ["grid", "covariance", "I", "I^2 of residual", *[f"K = {k}" for k in steps]], rows
    )


def integral(experiment: Experiment, name: str) -> float | None:
    """I of a covariance between the prior and the first time."""
    objective = experiment.study.search.objective
    if name == "residual":
        return float(objective.root_integral[objective.best_first(math.inf)])
    covariance = experiment.study.covariance(name)
    if not isinstance(covariance, Diagonal):
        return None
    return covariance.spectrum.root_integral(objective.low, float(experiment.schedule.log_snr(experiment.study.first()[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits_vp", help="name of a file in configs/")
    parser.add_argument("--covariances", nargs="+", default=["residual", "scalar|high_frequency", "dct", "pixel", "pca"])
    parser.add_argument("--dp", nargs="*", help="of these, on their optimal grids; all when absent")
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10, 25, 100])
    parser.add_argument("--tweedie", nargs="*", type=int, default=[], help="K of the state-dependent covariance, even grids")
    parser.add_argument("--log-snr-max", type=float, default=9.0, help="log-SNR of the first time t_1")
    parser.add_argument("--examples", type=int, default=0, help="test examples; 0 for all")
    parser.add_argument("--draws", type=int, default=600, help="estimation draws per knot")
    parser.add_argument("--workdir", type=Path, help="keeps the measurements; continued when it exists")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    config = importlib.import_module(f"score_sde_analytic.configs.{arguments.config}").get_config()
    config.evaluate.decoder, config.evaluate.examples = "none", arguments.examples
    config.evaluate.variances, config.sample.variances = tuple(arguments.covariances), ()
    config.evaluate.predicted_steps = tuple(arguments.steps)
    config.grid.log_snr_max = arguments.log_snr_max
    config.estimate.min_draws = config.estimate.max_draws = arguments.draws
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(config, arguments.workdir or Path(scratch))
        names = {"even": arguments.covariances + (["tweedie"] if arguments.tweedie else [])}
        names["dp"] = arguments.covariances if arguments.dp is None else arguments.dp
        text = table(experiment, names, arguments.steps, arguments.tweedie)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
