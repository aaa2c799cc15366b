"""Pictures of any size are their tiles; chains are their plain data."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import DECLARED, NAMES, smooth, study

from score_sde_analytic.coding import Codec
from score_sde_analytic.coding.chains import chain_content, chain_of
from score_sde_analytic.coding.tiles import Tiling
from score_sde_analytic.covariance import StepVariances, of_content
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.models import MixtureDenoiser
from score_sde_analytic.process import CategoricalDecoder
from score_sde_analytic.process.decoder import GaussianDecoder, NoDecoder, decoder_of

SIDE = st.integers(1, 40)


@given(SIDE, SIDE, st.integers(1, 9), st.integers(1, 9))
def test_tiles_make_the_picture_again(height, width, tall, wide):
    picture = np.random.default_rng(height).integers(0, 256, (3, height, width))
    tiling = Tiling(height, width, (tall, wide))
    tiles = tiling.cut(picture)
    assert tiles.shape == (tiling.count, 3, tall, wide)
    assert np.array_equal(tiling.joined(tiles), picture)
    assert set(np.unique(tiles)) == set(np.unique(picture))  # filled with what is at the edge


def test_a_picture_of_one_tile_is_that_tile():
    picture = np.arange(48).reshape(3, 4, 4)
    assert np.array_equal(Tiling(4, 4, (4, 4)).cut(picture)[0], picture)
    with pytest.raises(InputError, match="has 1 tiles, not 2"):
        Tiling(4, 4, (4, 4)).joined(np.zeros((2, 3, 4, 4)))


@pytest.mark.parametrize("prior", [None, "gaussian"])
@pytest.mark.parametrize("name", NAMES)
def test_chains_of_plain_data_are_the_same(name, prior):
    chain = study().chain(3, "dp", name, prior)
    content = json.loads(json.dumps(chain_content(chain, study().model)))
    assert chain_of(content).config(study().model) == chain.config(study().model)


def test_what_a_chain_of_plain_data_encoded_it_decodes():
    content = chain_content(study().chain(3), study().model)
    there, here = (Codec(study().model, chain_of(json.loads(json.dumps(content))), DECLARED) for _ in range(2))
    images = smooth(8, 30)
    assert torch.equal(here.decode(there.encode(images)), images)
    assert len(json.dumps(content)) < 600  # numbers of its steps, not a curve


def test_chains_that_are_no_plain_data_are_refused():
    chain = study().chain(3)
    mixture = MixtureDenoiser.of(smooth(100, 0), components=(2,))
    with pytest.raises(UnsupportedError, match="plain data"):
        chain_content(Chain(chain.grid, chain.covariance, chain.decoder, prior=mixture), study().model)


@pytest.mark.parametrize(
    "change",
    [
        {"times": "1"},
        {"times": [0.5]},
        {"times": [1.0, 2.0]},
        {"decoder": {"decoder": "cubic"}},
        {"decoder": {"decoder": "gaussian"}},
        {"covariance": {"name": "cubic"}},
        {"covariance": {"name": "steps", "variances": [-1.0]}},
        {"covariance": {"name": "steps"}},
        {"prior": {"basis": {"name": "PCA"}, "arrays": {}}},
    ],
)
def test_damaged_chains_are_refused(change):
    with pytest.raises(InputError):
        chain_of(chain_content(study().chain(3), study().model) | change)


def test_decoders_are_their_configs():
    for decoder in (GaussianDecoder(0.3), CategoricalDecoder(), NoDecoder()):
        assert decoder_of(decoder.config()) == decoder


def test_variances_are_of_so_many_steps():
    covariance = of_content({"name": "steps", "variances": [0.5, 0.1]})
    assert covariance == StepVariances((0.5, 0.1))
    with pytest.raises(InputError, match="2 steps, not of 3"):
        covariance.steps([None] * 3, [None] * 3)


@pytest.mark.parametrize("decoder", [GaussianDecoder(0.07), CategoricalDecoder()])
def test_probabilities_are_those_of_the_bound(decoder):
    """-log p of the true levels is what `nats` says; the rows sum to one."""
    level, x_0 = study().schedule.level(0.02), smooth(6, 31)
    x_t = level.diffuse(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2)))
    x_0_hat = x_0 + 0.05 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    table = torch.from_numpy(decoder.probabilities(x_t, x_0_hat, level, DECLARED))
    assert table.shape == (*x_0.shape, 17)
    assert (table.sum(-1) - 1.0).abs().max() < 1e-12
    own = table.gather(-1, DECLARED.index(x_0)[..., None])[..., 0]
    expected = decoder.nats(x_0, x_t, x_0_hat, level, DECLARED)
    assert torch.allclose(-own.log().flatten(1).mean(1), expected, rtol=1e-6)
