"""What may go wrong in a cell without ending the comparison."""

from __future__ import annotations

import torch

from score_sde_analytic.errors import UnsupportedError

#: What a solver or a metric may raise; anything else is a defect of the programme and ends it.
FAILURES = (RuntimeError, ValueError, ArithmeticError, ImportError, MemoryError, UnsupportedError)
#: Failures of the machine, not of the solver: the cell is tried again by the next run.
PASSING = (ImportError, MemoryError, torch.OutOfMemoryError)


def reason(error: BaseException) -> str:
    """The message in one line, or the kind of an error that has none."""
    return " ".join(str(error).split()) or type(error).__name__
