"""--shard=i/n: one of n independent jobs that share a mode's work; --mode=merge puts their files together.

After the merge the mode itself, without --shard, finds all that it needs and makes its tables and pictures.
"""

from __future__ import annotations

from pathlib import Path

from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood import Bound
from score_sde_analytic.measure import merge_passes
from score_sde_analytic.shards import parts_of, whole_of
from score_sde_analytic.study.names import GridName

from . import evaluate as evaluation
from . import sampling
from .experiment import TRAINING, Experiment


def estimate(experiment: Experiment) -> list[Path]:
    """This job's part of the pass, and of that over the training split."""
    if experiment.measured:
        raise InputError(f"{experiment.moments_path} holds the whole pass already: nothing is left for a shard")
    moments, training = experiment.study.moments, experiment.training
    print(f"{moments.evaluations} network evaluations of the pass")
    files = [experiment.moments_path, *([] if training is None else [experiment.workdir / TRAINING])]
    return [experiment.shard.file(file) for file in files]


def sample(experiment: Experiment) -> list[Path]:
    """This job's samples of every grid and covariance."""
    _require_pass(experiment)
    files = [sampling.sheets(experiment, GridName.parse(name))[0] for name in experiment.config.sample.grids]
    return [file.path for file in files]


def evaluate(experiment: Experiment) -> list[Path]:
    """This job's examples, by every method."""
    _require_pass(experiment)
    evaluation.measure(experiment, evaluation.measured_methods(experiment))
    return [experiment.workdir / "bounds"]


def _require_pass(experiment: Experiment) -> None:
    if not experiment.measured:
        raise InputError(
            f"{experiment.moments_path} does not hold the whole pass: --mode=estimate in as many jobs as you like, then"
            " --mode=merge, come before this"
        )


def merge(experiment: Experiment) -> list[Path]:
    """Every whole whose parts are in the workdir."""
    work = experiment.workdir
    wholes = {whole for file in work.glob("**/*.safetensors") if (whole := whole_of(file)) is not None}
    if not wholes:
        raise InputError(f"no file in {work} is a part of another: jobs with --shard=i/n come first")
    for path in sorted(wholes):
        if path in (experiment.moments_path, work / TRAINING):
            merge_passes(path, experiment.recorders if path == experiment.moments_path else None)
        elif path.parent == work / "bounds":
            Bound.merge([Bound.load(file) for file in parts_of(path)]).save(path)
        elif path.name.startswith("samples_"):
            sampling.merge(path, experiment.config.sample)
    return sorted(wholes)
