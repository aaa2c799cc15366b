"""What a campaign came to, as a table."""

import json

from benchmarks.faults.__main__ import counts, table
from benchmarks.faults.outcome import Outcome


def test_columns_are_those_of_their_verdicts_after_a_round_trip():
    outcomes = [Outcome("seed", "", verdict) for verdict in ("right", "refused", "refused", "silent", "raw", "raw", "raw")]
    results = {"fuzz": {"rows": {"seed": counts(outcomes, "seed")}}}
    again = json.loads(json.dumps(results, sort_keys=True))
    assert table(again) == table(results)
    assert table(again).splitlines()[-1] == "| fuzz | seed | 7 | 1 | 2 | 1 | 3 | 0 |"
