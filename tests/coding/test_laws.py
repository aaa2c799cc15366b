"""Symbols come back, cost what they are worth, and are drawn as their laws say."""

import numpy as np
import pytest
from scipy.special import ndtr

from score_sde_analytic.coding.laws import Table, Truncated, Windowed, key, normal_bits
from score_sde_analytic.coding.stack import ShallowError, Stack, uniform
from score_sde_analytic.errors import InputError, RunError

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 2**32, 4000, dtype=np.uint32)


def laws(count: int):
    mean, std = RNG.normal(0.0, 200.0, count), np.exp(RNG.uniform(-1.0, 6.0, count))
    rows = RNG.dirichlet(np.ones(17), count)
    return {"truncated": Truncated(mean, 3.7), "windowed": Windowed(mean, std), "table": Table([rows[:100], rows[100:]])}


@pytest.mark.parametrize("name", ["truncated", "windowed", "table"])
def test_pushing_undoes_popping(name):
    law, stack = laws(500)[name], Stack(WORDS)
    before = stack.words
    symbols = law.pop(stack)
    law.push(stack, symbols)
    assert np.array_equal(stack.words, before)


@pytest.mark.parametrize("name", ["truncated", "windowed", "table"])
def test_symbols_take_what_they_are_worth(name):
    law, stack = laws(2000)[name], Stack(WORDS)
    before = stack.bits
    symbols = law.pop(stack)
    assert before - stack.bits == pytest.approx(law.bits(symbols).sum(), rel=1e-3)


def test_symbols_are_drawn_from_their_law():
    """Popped from random words, latents are normal: Kolmogorov-Smirnov at 1e-5, at the edges of bins."""
    law = Truncated(np.full(20_000, 0.4), 8.0)
    values, counts = np.unique(law.pop(Stack(WORDS)), return_counts=True)
    gap = np.abs(ndtr((values + 0.5 - 0.4) / 8.0) - counts.cumsum() / counts.sum()).max()
    assert gap < 2.47 / np.sqrt(counts.sum())


def test_what_lies_beyond_the_window_escapes():
    law, stack = Windowed(np.array([0.2, 0.0, 7.0]), np.array([1.0, 30.0, 0.1])), Stack(WORDS)
    before = stack.words
    symbols = np.array([-(2**30), 4000, 2**30], np.int32)
    law.push(stack, symbols)
    assert np.array_equal(law.pop(stack), symbols)
    assert np.array_equal(stack.words, before)


def test_bits_of_a_normal_are_those_of_its_bins():
    mean, std = np.array([0.3, 0.3, -4.0]), np.array([0.5, 2.0, 0.9])
    for i in range(3):
        symbols = np.arange(-40, 41, dtype=np.int32)
        share = 2.0 ** -normal_bits(symbols, np.full(81, mean[i]), np.full(81, std[i]))
        assert share.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_latent_that_cannot_have_been_drawn_is_refused():
    with pytest.raises(InputError, match="where none is drawn"):
        Truncated(np.zeros(1), 1.0).push(Stack(WORDS), np.array([50], np.int32))


@pytest.mark.parametrize("law", [Truncated(np.array([np.nan]), 1.0), Windowed(np.array([1e12]), np.ones(1))])
def test_means_beyond_all_numbers_are_refused(law):
    with pytest.raises(RunError, match="finite"):
        law.pop(Stack(WORDS))


@pytest.mark.parametrize("std", [0.0, np.nan, 1e9])
def test_deviations_that_no_alphabet_serves_are_refused(std):
    with pytest.raises(RunError, match="deviation"):
        Windowed(np.zeros(1), np.array([std])).pop(Stack(WORDS))


def test_a_stack_that_runs_out_says_so():
    with pytest.raises(ShallowError):
        Truncated(np.zeros(100), 8.0).pop(Stack(WORDS[:3]))
    with pytest.raises(ShallowError):
        Stack(WORDS[:0], sealed=False).pop(uniform(5), 1)


def test_a_stack_keeps_zeros_at_its_end():
    stack = Stack(np.zeros(5, np.uint32))
    again = Stack(stack.words, sealed=True)
    assert np.array_equal(again.words, stack.words)
    with pytest.raises(InputError, match="zeros"):
        Stack(np.zeros(5, np.uint32), sealed=True)


def test_keys_are_the_same_everywhere():
    """A file written today is read by any later numpy: these numbers may never change."""
    assert key(0, 6, 17).tolist() == KEY
    assert 0 <= key(3, 1000, 17).min() <= key(3, 1000, 17).max() < 17
    assert np.bincount(key(3, 17_000, 17)).std() < 100


KEY = [14, 12, 13, 0, 11, 7]
