"""What one trial of a campaign came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: right: the correct result. refused: an error that names the cause. silent: a wrong result without a word.
#: raw: an error that is not one of the package's own. hung: no end within the trial's time.
Verdict = Literal["right", "refused", "silent", "raw", "hung"]


@dataclass(frozen=True)
class Outcome:
    """One trial: what was done to what, and what came of it.

    Attributes:
        kind: the group of the table's row, such as "moments.safetensors" or "seed".
        trial: enough to do it again, such as "byte 812 bit 3".
        detail: the message, or the difference found.
    """

    kind: str
    trial: str
    verdict: Verdict
    detail: str = ""
