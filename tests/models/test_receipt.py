"""Receipts and observers: each is told of its own model, its own block and its own thread."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.probability_flow import eps_and_divergence, one_hot_probes
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.process.schedule import LinearVP

LEVEL = LinearVP().level(0.5)


def identity(clamp=None):
    return ScoreModel(lambda x, t: x, LinearVP(), clamp=clamp)


def ask(model, rows=1):
    return model.predict(torch.ones(rows, 2), LEVEL)


def test_a_receipt_counts_its_block_only():
    model = identity()
    ask(model)
    with model.metered() as cost:
        ask(model, 5)
        ask(model, 2)
    ask(model)
    assert cost == Receipt(calls=2, evaluations=7)


def test_blocks_nest_and_each_counts_all_of_its_own():
    model = identity()
    with model.metered() as outer:
        ask(model)
        with model.metered() as inner:
            ask(model, 2)
        with model.metered() as later:
            pass
        ask(model, 3)
    assert (outer.calls, outer.evaluations) == (3, 6)
    assert (inner.calls, inner.evaluations) == (1, 2)
    assert later == Receipt()


def test_models_have_receipts_of_their_own():
    one, other = identity(), identity()
    with one.metered() as cost, other.metered() as others:
        ask(one, 4)
    assert (cost.evaluations, others.evaluations) == (4, 0)


def test_an_exception_closes_the_block_and_keeps_what_was_charged():
    model = identity()
    with model.metered() as outer:
        with pytest.raises(KeyboardInterrupt), model.metered() as inner:
            ask(model, 3)
            raise KeyboardInterrupt
        ask(model)
    assert (inner.calls, inner.evaluations) == (1, 3)
    assert (outer.calls, outer.evaluations) == (2, 4)


def test_a_call_that_fails_was_still_made():
    def fail(x, t):
        raise ZeroDivisionError

    model = ScoreModel(fail, LinearVP())
    with model.metered() as cost, pytest.raises(ZeroDivisionError):
        ask(model, 3)
    assert (cost.calls, cost.evaluations) == (1, 3)


def test_two_threads_that_share_a_model_each_have_their_own_receipt():
    """The threads take turns inside their blocks, so that counters read before and after would mix them up."""
    meet = threading.Barrier(2, timeout=60)

    def net(x, t):
        meet.wait()
        return x

    model = ScoreModel(net, LinearVP())

    def work(rows):
        with model.metered() as cost:
            for _ in range(50):
                ask(model, rows)
        return cost

    with model.metered() as outside, ThreadPoolExecutor(2) as pool:
        costs = list(pool.map(work, (1, 3)))
    assert costs == [Receipt(50, 50), Receipt(50, 150)]
    assert outside == Receipt()


def test_threads_join_a_block_in_a_copy_of_its_context():
    model = identity()

    def work():
        for _ in range(500):
            ask(model, 2)

    with ThreadPoolExecutor(4) as pool, model.metered() as cost:
        for job in [pool.submit(contextvars.copy_context().run, work) for _ in range(4)]:
            job.result()
    assert cost == Receipt(calls=2000, evaluations=4000)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_vector_products_are_charged(rows):
    model = identity()
    with model.metered() as cost:
        eps_and_divergence(model, LEVEL, torch.ones(5, 3, dtype=torch.float64), one_hot_probes, torch.float64, rows)
    assert cost == Receipt(calls=-(-5 // rows), evaluations=5, vector_products=5 * 3)


# --- observers ----------------------------------------------------------------------------------------------------------


def test_an_observer_sees_every_answer_of_its_block_in_order():
    model, other, seen, deeper = identity(), identity(), [], []
    ask(model)
    with model.watched(seen.append):
        first = ask(model)
        ask(other)
        with model.watched(deeper.append):
            second = ask(model)
    ask(model)
    assert [id(answer) for answer in seen] == [id(first), id(second)]
    assert [id(answer) for answer in deeper] == [id(second)]


def test_an_observer_sees_what_the_caller_gets():
    seen = []
    model = identity(clamp=(-0.5, 0.5))
    with model.watched(seen.append):
        prediction = model.predict(torch.full((1, 2), 40.0), LEVEL)
    assert seen == [prediction]
    assert seen[0].x_0.abs().max() <= 0.5


def test_an_observer_can_end_the_work():
    class Enough(Exception):
        pass

    def stop(prediction):
        raise Enough

    model = identity()
    with pytest.raises(Enough), model.watched(stop):
        ask(model)
    ask(model)


def test_an_observer_does_not_see_other_threads():
    model, seen = identity(), []
    with model.watched(seen.append), ThreadPoolExecutor(1) as pool:
        pool.submit(ask, model).result()
    assert seen == []
