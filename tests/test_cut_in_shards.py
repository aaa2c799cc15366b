"""Work cut in shards: parts that cover the whole, and merges that are the whole."""

from __future__ import annotations

import numpy as np
import pytest

from score_sde_analytic import Budget, GaussianMixture, LinearVP
from score_sde_analytic.data.basis import Pixel
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.measure import Moments, Recorder, estimate, merge_passes
from score_sde_analytic.shards import Shard, parts_of, whole_of

MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0, 0.0], [1.0, 0.5]], 0.1)
MODEL, DATA = MIXTURE.score_model(LinearVP()), MIXTURE.sample(90)


@pytest.mark.parametrize(("total", "unit", "of"), [(10, 1, 3), (10, 4, 3), (1, 5, 2), (64, 8, 8), (0, 1, 2)])
def test_parts_cover_the_whole_once_in_whole_units(total, unit, of):
    parts = [Shard(i, of).part(total, unit) for i in range(of)]
    assert [i for part in parts for i in part] == list(range(total))
    assert all(part.start % unit == 0 for part in parts if part)


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0", "-1/4", "1/4/2"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(InputError, match="i/n"):
        Shard.parse(text)


def test_files_of_parts_name_their_whole_and_missing_ones_are_named(tmp_path):
    whole = tmp_path / "moments.safetensors"
    files = [Shard(i, 11).file(whole) for i in range(11)]
    for file in files:
        file.touch()
    assert {whole_of(file) for file in files} == {whole}
    assert parts_of(whole) == files
    files[3].unlink()
    with pytest.raises(MissingFileError, match="moments-4of11"):
        parts_of(whole)
    Shard(0, 2).file(whole).touch()
    with pytest.raises(InputError, match="2 and into 11"):
        parts_of(whole)


@pytest.mark.parametrize("of", [2, 3, 9])
def test_a_pass_in_shards_is_the_pass(tmp_path, of):
    """The same draws, so the same sums but for their order; with 9 shards of 7 rounds two have nothing to do."""
    path, knots = tmp_path / "moments.safetensors", np.linspace(-4, 4, 3)
    budget = {"min_draws": 200, "max_draws": 200, "batch_size": 32}
    recorder, again = Recorder(Pixel()), Recorder(Pixel())
    whole = estimate(MODEL, DATA, knots, Budget(**budget), observers={"pixel": recorder}, progress=False)
    for number in range(of):
        shard = Budget(**budget, shard=(number, of))
        estimate(MODEL, DATA, knots, shard, path=path, observers={"pixel": Recorder(Pixel())}, progress=False)
    merge_passes(path, {"pixel": again})
    merged = estimate(MODEL, DATA, knots, Budget(**budget), path=path, observers={"pixel": again}, progress=False)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    for name in ("sums", "products", "decoder_sums", "squares"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    assert merged.finished
    assert merged.cost == whole.cost
    assert merged.fingerprint == whole.fingerprint
    found, expected = again.arrays(), recorder.arrays()
    key = [np.lexsort((a["rms"][:, 0], a["example"], a["knot"])) for a in (found, expected)]
    for name in ("knot", "example", "rms"):
        np.testing.assert_array_equal(found[name][key[0]], expected[name][key[1]])


def test_shards_that_are_no_pass_are_refused():
    first, second, foreign = (
        estimate(MODEL, DATA, [0.0], Budget(shard=shard, max_draws=300), seed=seed, progress=False)
        for shard, seed in [((0, 2), 0), ((1, 2), 0), ((1, 2), 1)]
    )
    assert Moments.merge([first, second]).evaluations == 300
    for parts, words in [
        ([], "no shards"),
        ([first], "not shard 1 of 1"),
        ([second, first], "in order"),
        ([first, foreign], "seed"),
    ]:
        with pytest.raises(InputError, match=words):
            Moments.merge(parts)
