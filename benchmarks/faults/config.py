"""Hostile settings: every field of every config with values of wrong type, out of range, infinite, misspelt, empty or doubled.

A trial runs the command line up to where work would begin (--mode=check). A value that cannot be meant must be refused in one
line that names the field; one that can must be accepted.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.outcome import Outcome
from runners import main as application

CONFIGS = ("digits_vp", "digits_ve", "mixture", "mixture_2d", "patches")
#: Fields whose numbers may be negative: levels of noise, and a lower end of data.
SIGNED = ("log_snr_min", "log_snr_max", "log_snr", "lo", "means")
#: Tuples that may be empty, and strings; a path is one.
MAY_BE_EMPTY = ("bounds", "bases", "statistics", "grids", "variances", "predicted_grids", "kinds")
OPEN = ("compare.solvers", "compare.calls", "compare.grids", "compare.tolerances")
BLANK = ("covariance.name", "sample.grid_variance", "compare.bits", "compare.features", "compare.compile")
PATHS = ("network.source", "network.weights", "data.directory", "head.path")
INFINITE = ("checkpoint_seconds", "shrinkage")

#: Several at once that contradict each other.
TOGETHER = (
    ("estimate.min_draws=900", "estimate.max_draws=40"),
    ("estimate.log_snr_min=5.0", "estimate.log_snr_max=5.0"),
    ("data.lo=1.0", "data.hi=-1.0"),
    ("data.lo=0.5", "data.hi=0.5"),
    ("data.levels=1",),
    ("evaluate.flow.solver=rk4",),
    ("evaluate.flow.solver=dopri5", "evaluate.flow.steps=5"),
    ("evaluate.flow.importance_samples=4", "evaluate.flow.probes=2"),
    ("head.log_snr=(3.0, -3.0)",),
    ("head.step=(6.0, 0.3)",),
    ("train.log_snr=(3.0, -3.0)",),
    ("data.split=(100000, 1, 1)", "data.split_seed=1"),
    ("compare.count=3",),
    ("compare.budget=quik",),
    ("schedule.beta_min=30.0",),
    ("sample.grids=('nowhere.json',)",),
    ("evaluate.agreement=('dp',)",),
    ("device=cuda:77",),
    ("data.name=mixture",),
    ("data.name=mnist",),
)


@dataclass(frozen=True)
class Trial:
    """Settings of a command line.

    Attributes:
        kind: of what is wrong with them.
        meant: whether they can be meant.
        names: one of which a refusal has to have.
    """

    kind: str
    config: str
    settings: tuple[str, ...]
    meant: bool
    names: tuple[str, ...]


def outcomes(trials: int, seed: int) -> Iterator[Outcome]:
    known = list(_known())
    random.Random(seed).shuffle(known)
    while len(known) < trials:
        known += known
    with tempfile.TemporaryDirectory() as workdir:
        for trial in known[:trials]:
            yield _outcome(trial, Path(workdir))


def _known() -> Iterator[Trial]:
    for config in CONFIGS:
        for name, value in application.fields(application.parse(["", f"--config={config}"]).config):
            yield from _of_field(config, name, value)
    for settings in TOGETHER:
        names = [setting.partition("=")[0].rpartition(".")[2] for setting in settings]
        yield Trial("together", "digits_vp", settings, False, (*names, "log-SNR", "data set", "data.directory", "saved grid"))


def _of_field(config: str, name: str, value: Any) -> Iterator[Trial]:
    last = name.rpartition(".")[2]

    def trial(kind: str, *texts: str, meant: bool = False, field: str = name) -> Trial:
        return Trial(kind, config, tuple(f"{field}={text}" for text in texts), meant, (last, field))

    given = "" if value is None else str(value).replace("inf", "1e999")
    yield trial("given again", given, given, meant=True)
    yield trial("misspelt field", given, field=name[:-1] + "qq")
    if isinstance(value, bool):
        yield from (trial("wrong type", text) for text in ("maybe", "2", "nan"))
    elif isinstance(value, int | float):
        yield from (trial("wrong type", text) for text in ("'text'", "(1, 2)", "None", ""))
        yield from (trial("NaN", "nan"), trial("negative", "-7" if last != "hi" else "-70", meant=last in SIGNED))
        yield trial("infinite", "inf", meant=last in INFINITE)
        yield trial("huge", "1e300" if isinstance(value, float) else "1" + 30 * "0", meant=last in INFINITE)
    elif isinstance(value, tuple):
        yield from _of_tuple(trial, name, last, value)
    elif name not in PATHS:
        yield from (trial("misspelt name", given[:-1] + "qq"), trial("empty", "", meant=name in BLANK))


def _of_tuple(trial: Any, name: str, last: str, value: tuple[Any, ...]) -> Iterator[Trial]:
    yield trial("empty", "()", meant=last in MAY_BE_EMPTY or name in OPEN)
    numbers = [item for item in value if isinstance(item, int | float)]
    yield trial("elements", str(tuple("text" for _ in value) or ("text",)))
    yield trial("elements", str((*value[:-1], ("nested",))))
    if numbers:
        yield trial("NaN", f"({', '.join(['nan'] * len(value))},)")
        yield trial("negative", str((*value[:-1], -7)).replace("inf", "1e999"), meant=last in SIGNED and value[0] < -7)
        yield trial("huge", str((*value[:-1], 10**30)), meant=last in INFINITE)


def _outcome(trial: Trial, workdir: Path) -> Outcome:
    said = io.StringIO()
    arguments = [f"--config={trial.config}", "--mode=check", f"--workdir={workdir}"]
    arguments += [f"--config.{setting}" for setting in trial.settings]
    shown = f"{trial.config}: {' '.join(trial.settings)}"
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            application.cli(arguments)
    except SystemExit as ended:
        return Outcome(trial.kind, shown, *_refusal(trial, ended.code, said.getvalue().strip()))
    except BaseException as error:
        return Outcome(trial.kind, shown, "raw", f"{type(error).__name__}: {error}")
    return Outcome(trial.kind, shown, "right" if trial.meant else "silent", said.getvalue()[-200:])


def _refusal(trial: Trial, code: Any, text: str) -> tuple[Any, str]:
    """A refusal is one line that names the field."""
    last = text.splitlines()[-1] if text else ""
    if trial.meant or code != 2:
        return "silent", f"wrongly refused: {text}"
    told = last.startswith("error: ") and any(name in last for name in trial.names)
    return ("refused" if told else "raw"), text
