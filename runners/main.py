"""From a pretrained network to optimal few-step samples and bits/dim.

  python -m runners.main --config=configs/digits_vp.py --workdir=results/digits_vp [--mode=MODE] [--config.FIELD=VALUE ...]

Modes:
  demo              estimate, then sample and evaluate, then report (the default)
  estimate          one Monte Carlo pass over the validation split: moments, noise curves, calibration, which covariance is best
  grid              where to put the steps: every grid's predicted bits/dim for each K, step budgets, pictures
  sample            sample sheets for every variance and number of steps
  evaluate          bits/dim, predicted from the curve and measured on the test split
  compare           every solver on the same network, by budgets of network calls: fidelity, bits/dim, time; one HTML page
  train             train a UNet2DModel on the training split; writes WORKDIR/network
  train_head        heads that tell the reverse covariance of every state, on the frozen network; writes WORKDIR/heads
  train_classifier  a classifier of the data (digits, mnist) whose features measure samples; writes WORKDIR/classifier

All fields of a config are listed, with what they mean, in configs/default.py.
Long modes continue what an interrupted run left in the workdir; sample and train_classifier begin anew. All name their outputs.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
MODES = ["demo", "train", "train_head", "train_classifier", "estimate", "grid", "sample", "evaluate", "compare"]


def define_flags() -> None:
    """Declare the flags; ml_collections reads the config's own flags at this point."""
    default = "configs/digits_vp.py"
    config_flags.DEFINE_config_file("config", default, "Experiment file; override fields with --config.FIELD=VALUE.")
    flags.DEFINE_string("workdir", None, "Folder for all outputs (default: results/<name of the config file>).")
    flags.DEFINE_enum("mode", "demo", MODES, "What to do; see above.")


def main(argv: list[str]) -> None:
    from . import classifier, modes, train, train_head  # after flags are parsed: --help stays fast

    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE")
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    file = config_flags.get_config_filename(FLAGS["config"])
    workdir = Path(FLAGS.workdir or Path("results") / Path(file.partition(":")[0]).stem)
    workdir.mkdir(parents=True, exist_ok=True)
    trainers = {"train": train.run, "train_head": train_head.run, "train_classifier": classifier.run}
    run = {**modes.MODES, **trainers}[FLAGS.mode]
    written = run(FLAGS.config, workdir)
    print("\nWritten:")
    for path in dict.fromkeys(written):
        print(f"  {path}")


def cli() -> None:
    """Run, turning the errors a user can cause into one line that names cause and remedy."""
    try:
        define_flags()
        app.run(main)
    except (AttributeError, KeyError, TypeError) as error:
        if not _from_config(error):
            raise
        text = str(error).replace("\\n", ". ").replace("\\", "").replace("'", "")
        _fail(f"config: {text}; the fields are listed in configs/default.py")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        sys.exit(130)


def _from_config(error: BaseException) -> bool:
    """Whether an error was raised inside ml_collections: a field that does not exist or has another type."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "ml_collections" in trace.tb_frame.f_code.co_filename


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    cli()
