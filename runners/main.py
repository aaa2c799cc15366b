"""The command line: flags, the config by its name or file, and one-line errors for what a user can put right.

Only the mode that runs is imported, after the flags are read.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from score_sde_analytic.checks import hint
from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.extras import installed
from score_sde_analytic.interruption import Stopped, ended_by_signals
from score_sde_analytic.report import DRAWS_WITH

try:
    from absl import flags
    from ml_collections import ConfigDict, config_flags
except ImportError as error:
    sys.exit(f"error: the command line needs {error.name}: pip install 'score_sde_analytic[runner]'")
for needed in DRAWS_WITH:
    if not installed(needed):
        sys.exit(f"error: the command line needs {needed}: pip install 'score_sde_analytic[runner]'")

#: The shipped configs lie beside this package, in the repository and where it is installed.
CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_CONFIG = "digits_vp"
HELP = {"--help", "-help", "--helpshort", "--helpfull", "-h", "-?"}


@dataclass(frozen=True)
class Mode:
    """What the application can do.

    Attributes:
        line: of help.
        function: of this package that does it, "module.function".
        part: that does a part of it, in one of several jobs; "" where it is not cut in parts.
    """

    line: str
    function: str
    part: str = ""

    @property
    def run(self) -> Callable[..., list[Path]]:
        return _found(self.function)

    @property
    def run_part(self) -> Callable[..., list[Path]]:
        return _found(self.part)

    def __call__(self, config: ConfigDict, workdir: Path, command: str = "", shard: str = "") -> list[Path]:
        """Check the whole config, then run; the paths of what was written."""
        from score_sde_analytic.files import sweep_below

        from .settings import validate

        validate(config)
        sweep_below(workdir)
        if shard and not self.part:
            cut = ", ".join(name for name, mode in MODES.items() if mode.part)
            raise InputError(f"--shard is for the modes {cut}; run this one without it")
        return self.start(config, workdir, command, shard)

    def start(self, config: ConfigDict, workdir: Path, command: str, shard: str) -> list[Path]:
        return self.run(config, workdir)


def _found(function: str) -> Callable[..., list[Path]]:
    module, _, name = function.partition(".")
    return getattr(import_module(f"{__package__}.{module}"), name)


class OnNetwork(Mode):
    """A mode that works with a trained network."""

    def start(self, config: ConfigDict, workdir: Path, command: str, shard: str) -> list[Path]:
        import torch

        from score_sde_analytic.shards import Shard

        from .experiment import Experiment

        torch.manual_seed(config.seed)
        part = Shard.parse(shard)
        run = self.run_part if part else self.run
        return run(Experiment(config, workdir, command=command, shard=part))


MODES: dict[str, Mode] = {
    "demo": OnNetwork("estimate, then sample and evaluate, then report (the default)", "modes.demo"),
    "estimate": OnNetwork(
        "one Monte Carlo pass over the validation split: moments, noise curves, calibration, which covariance is best",
        "modes.estimate",
        "shards.estimate",
    ),
    "check": OnNetwork("read and check the config and the data, ask the network once, and stop before any work", "modes.check"),
    "inspect": Mode(
        "how a network is fed and read: tries what is usual on a few examples, writes a config that fits",
        "wiring.run",
    ),
    "grid": OnNetwork(
        "where to put the steps: every grid's predicted bits/dim for each K, step budgets, pictures", "grids.run"
    ),
    "schedule": OnNetwork(
        "the schedule that makes the bound's estimator vary least, and how much it varies under others", "schedules.run"
    ),
    "sample": OnNetwork("sample sheets for every variance and number of steps", "sampling.run", "shards.sample"),
    "evaluate": OnNetwork(
        "bits/dim, predicted from the curve and measured on the test split", "evaluate.run", "shards.evaluate"
    ),
    "merge": OnNetwork("what jobs with --shard=i/n wrote, put together", "shards.merge"),
    "compare": OnNetwork(
        "every solver on the same network, by budgets of network calls: fidelity, bits/dim, time; one HTML page", "compare.run"
    ),
    "compress": OnNetwork("pictures to a file without a loss, at about the bits/dim of a chain", "coding.compress"),
    "decompress": OnNetwork("the pictures of such a file", "coding.decompress"),
    "translate": OnNetwork(
        "pictures of another domain led to that of the data: SDEdit, and with energies as in EGSDE", "translate.run"
    ),
    "train": Mode("train a UNet2DModel on the training split; writes WORKDIR/network", "train.run"),
    "train_head": Mode(
        "heads that tell the reverse covariance of every state, on the frozen network; writes WORKDIR/heads", "train_head.run"
    ),
    "train_classifier": Mode(
        "a classifier of the data (with labels) whose features measure samples; writes WORKDIR/classifier",
        "classifier.run",
    ),
}

FLAGS = {
    "config": f"config, by name or file (default: {DEFAULT_CONFIG})",
    "mode": "what to do (default: demo)",
    "workdir": "folder for all outputs (default: results/NAME of the config)",
    "shard": "i/n: the i-th of n independent jobs that share estimate, sample or evaluate; afterwards --mode=merge",
    "config.FIELD": "another value of a field of the config, as in --config.sample.steps='(5, 10)'",
}

USAGE = """From a pretrained network to optimal few-step samples and bits/dim.

  score-sde-analytic --config=NAME [--mode=MODE] [--workdir=FOLDER] [--config.FIELD=VALUE ...]     from any folder
  python -m runners.main --config=configs/NAME.py [...]                                            in the repository

Modes:
{modes}

Flags:
{flags}

Configs that come with the package, by NAME:
  {configs}
A config of your own is a file that defines get_config(): --config=path/to/mine.py, or, if it takes an argument,
--config=path/to/mine.py:ARGUMENT.

All fields of a config are listed, with what they mean, in {fields}.
Ctrl-C and SIGTERM end a mode after it kept its work; the same command continues from there. All modes name their outputs.
"""


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem not in ("__init__", "default"))


def config_file(name: str) -> Path:
    """The file of a config: a path that ends in .py, or the name of a shipped one.

    Raises:
        InputError: there is no such file or name.
    """
    file = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not file.is_file():
        kind = "file" if name.endswith(".py") else "of the name"
        raise InputError(
            f"there is no config {kind} {name}; the names are {', '.join(shipped())}, or give a file, as in mine.py"
        )
    return file


class ConfigByName(flags.ArgumentParser):
    """Reads `file.py`, `file.py:argument`, or the name of a shipped config."""

    def __init__(self, file_parser: flags.ArgumentParser) -> None:
        self.file_parser = file_parser

    def parse(self, argument: str) -> Any:
        name, colon, of_config = argument.partition(":")
        return self.file_parser.parse(f"{config_file(name)}{colon}{of_config}")


def declare(argv: Sequence[str]) -> flags.FlagValues:
    """The flags; the config's own fields become flags when it is read."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, FLAGS["config"], flag_values=values, sys_argv=list(argv))
    flag = values["config"]
    flag.parser = ConfigByName(flag.parser)
    flags.DEFINE_string("workdir", None, FLAGS["workdir"], flag_values=values)
    flags.DEFINE_string("shard", "", FLAGS["shard"], flag_values=values)
    flags.DEFINE_enum("mode", "demo", list(MODES), FLAGS["mode"], flag_values=values)
    return values


def by_field(words: Iterable[str]) -> dict[Any, list[str]]:
    """The words of a command line by the field of the config that they set, the last values of each; others by place.

    Read one after another, two values of a tuple would add up.

    >>> by_field(["--config.sample.steps=(5,)", "--mode=sample", "--config.sample.steps", "(10, 25)"])
    {1: ['--mode=sample'], 'config.sample.steps': ['--config.sample.steps', '(10, 25)']}
    """
    left = list(words)
    settings: dict[Any, list[str]] = {}
    while left:
        word = left.pop(0)
        name, equals, _ = word.lstrip("-").partition("=")
        of_config = word.startswith("-") and name.startswith("config.")
        apart = of_config and not equals and left and not left[0].startswith("--")
        field = name if of_config else len(settings)
        settings.pop(field, None)
        settings[field] = [word, left.pop(0)] if apart else [word]
    return settings


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Flags with their values.

    Raises:
        InputError: a flag that does not exist, or a value that it cannot take.
    """
    settings = by_field(argv)
    words = list(chain.from_iterable(settings.values()))
    values = declare(words)
    try:
        values.set_default("config", DEFAULT_CONFIG)
        rest = values(words)[1:]
    except flags.Error as error:
        if "Traceback" in str(error):  # what a config file's own code raised
            raise
        raise InputError(re.sub(r"\('(.+)', .*\)$", r"\1", str(error))) from error  # absl shows arguments of an exception
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if not _from_config(error):
            raise
        plain = parse([word for field, words in settings.items() if field not in _named(settings) for word in words])
        raise _refusal(plain.config, _named(settings), error) from error
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; settings are given as --config.FIELD=VALUE")
    return values


def _named(settings: Iterable[Any]) -> list[str]:
    return [field for field in settings if isinstance(field, str)]


def _refusal(config: ConfigDict, named: Iterable[str], error: Exception) -> InputError:
    """Why settings of a config's fields were not taken: one does not exist, or has another type."""
    known = [f"config.{field}" for field, _ in fields(config)]
    lacking = next((field for field in named if field not in known), "")
    reason = f"there is no {lacking}{hint(lacking, known)}" if lacking else f"config: {error}"
    return InputError(f"{reason}; the fields are listed in {CONFIGS / 'default.py'}")


def fields(config: ConfigDict, within: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a config, as ("sample.steps", (5, 10))."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _from_config(error: BaseException) -> bool:
    """Whether an error was raised inside ml_collections: a field that does not exist or has another type."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "ml_collections" in trace.tb_frame.f_code.co_filename


def usage() -> str:
    """What --help prints."""
    modes = _rows({name: mode.line for name, mode in MODES.items()})
    settings = _rows({f"--{name}": line for name, line in FLAGS.items()})
    return USAGE.format(modes=modes, flags=settings, configs=_wrapped(shipped()), fields=CONFIGS / "default.py")


def _wrapped(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), 116, subsequent_indent="  ")


def _rows(lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"  {name:{width}}  {line}" for name, line in lines.items())


def command(arguments: Sequence[str]) -> str:
    """What was run, as one would type it again."""
    by_name = Path(sys.argv[0]).stem == "score-sde-analytic"
    return shlex.join([*(["score-sde-analytic"] if by_name else ["python", "-m", f"{__package__}.main"]), *arguments])


def main(argv: Sequence[str]) -> None:
    """Run a mode and name what it wrote."""
    values = parse(argv)
    from score_sde_analytic import processes

    with processes.joined():
        launched(values, argv)


def launched(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """A mode in each of the launcher's processes, of which the first alone writes to the workdir and speaks."""
    from score_sde_analytic import processes

    first = processes.number() == 0
    name = config_flags.get_config_filename(values["config"]).partition(":")[0]
    workdir = Path(values.workdir or Path("results") / Path(name).stem)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {workdir} ({error.strerror}); choose another --workdir") from error
    with warnings.catch_warnings(), nullcontext() if first else silence():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        written = MODES[values.mode](values.config, processes.own(workdir), command(argv[1:]), values.shard)
        written = written if first else []
    if written:
        print("\nWritten:")
    for path in dict.fromkeys(written):
        print(f"  {path}")


@contextmanager
def silence() -> Iterator[None]:
    """What a process prints that repeats another is not shown; its errors are."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def cli(arguments: Sequence[str] | None = None) -> None:
    """Run, telling the mistakes that a user can put right in one line of cause and remedy."""
    given = sys.argv[1:] if arguments is None else arguments
    if HELP.intersection(given):
        print(usage())
        return
    try:
        with ended_by_signals():
            main(["score-sde-analytic", *given])
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        kept = "; ".join(getattr(error, "__notes__", ["what is finished is in the workdir"]))
        if speaks():
            print(f"\ninterrupted: {kept}; the same command continues from here", file=sys.stderr)
        sys.exit(128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))


def speaks() -> bool:
    """Whether this is the first of a launcher's processes, which all come to the same errors, or was not launched."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK") == "0"


def _fail(message: str) -> NoReturn:
    if speaks():
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    cli()
