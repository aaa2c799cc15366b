"""A share of the campaign of damaged files."""

from collections import Counter

from benchmarks.faults import corrupt


def test_damaged_files_are_refused_or_read_as_they_were():
    seen = list(corrupt.outcomes(trials=160, seed=1))
    verdicts = Counter(outcome.verdict for outcome in seen)
    assert [outcome for outcome in seen if outcome.verdict in ("silent", "raw")] == []
    assert verdicts["refused"] > 100
    assert len({outcome.kind for outcome in seen}) == 22
