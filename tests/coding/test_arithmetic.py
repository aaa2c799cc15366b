"""In exact arithmetic numbers do not depend on the batch, and files not on the number of threads."""

import numpy as np
import pytest
import torch
from worlds import NAMES, codec, smooth

from score_sde_analytic.errors import InputError

pytest.importorskip("score_sde_analytic.coding.exact")


@pytest.mark.parametrize("name", NAMES)
def test_laws_are_the_same_for_any_batch(name):
    ladder = codec(name, 3, arithmetic="exact")._ladder((3, 4, 4), 0.5)
    rng = np.random.default_rng(0)
    for k in range(ladder.last):
        symbols = rng.integers(-9, 10, 7 * 48).astype(np.int32)
        whole = ladder.coded(k, symbols)
        for i in (0, 3, 6):
            part = slice(48 * i, 48 * (i + 1))
            alone = ladder.coded(k, symbols[part])
            assert np.array_equal(alone.mean, whole.mean[part])
            assert np.array_equal(alone.std, whole.std[part])
    pixels = np.concatenate(ladder.coded_data(symbols).parts)
    assert np.array_equal(np.concatenate(ladder.coded_data(symbols[:48]).parts), pixels[:48])


def test_files_do_not_depend_on_threads():
    images, before = smooth(10, 40), torch.get_num_threads()
    content = codec("pca", 3, arithmetic="exact").encode(images)
    try:
        torch.set_num_threads(2)
        assert codec("pca", 3, arithmetic="exact").encode(images) == content
        assert torch.equal(codec("pca", 3, arithmetic="exact").decode(content), images)
    finally:
        torch.set_num_threads(before)


def test_lengths_are_those_of_float32():
    images = smooth(60, 41)
    exact, usual = (codec("pca", 3, arithmetic=kind).compress(images) for kind in ("exact", "float32"))
    spread = usual.worth.std(ddof=1) / usual.dim / np.sqrt(len(usual.worth))
    assert abs(exact.net_rate - usual.net_rate) < 4.0 * spread


def test_files_of_another_arithmetic_are_refused():
    content = codec("pca", 3).encode(smooth(4, 42))
    with pytest.raises(InputError, match="in float32 arithmetic, not in exact"):
        codec("pca", 3, arithmetic="exact").decode(content)
