"""Progress: parts of parts lie end to end, and tell how far the whole has come."""

import pytest

from score_sde_analytic.likelihood.method import Progress


def test_parts_lie_end_to_end():
    told = []
    whole = Progress(told.append, 10.0, 4.0)
    for i in range(2):
        for j in range(4):
            whole.part(i, 2).part(j, 4).reached(1.0)
    assert told == pytest.approx([10.5 + 0.5 * k for k in range(8)])


def test_shares_of_a_part():
    told = []
    Progress(told.append).part(1, 4).reached(0.0)
    Progress(told.append).part(1, 4).reached(0.5)
    assert told == pytest.approx([0.25, 0.375])


def test_nobody_needs_to_listen():
    Progress().part(0, 3).reached(1.0)
