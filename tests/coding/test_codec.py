"""What is encoded comes back, at the length that the chain promises."""

import numpy as np
import pytest
import torch
from worlds import DECLARED, NAMES, codec, exact, odd, smooth, study

from score_sde_analytic import VE, CosineVP, DataRange, Grid, LinearVP, RectifiedFlow, ScoreModel
from score_sde_analytic.coding import Codec, header_of
from score_sde_analytic.covariance import Beta, BetaTilde, Tweedie
from score_sde_analytic.errors import InputError, RunError, UnsupportedError
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.models import Judged, LinearDenoiser, MixtureDenoiser
from score_sde_analytic.process import CategoricalDecoder, NoDecoder


class Fed(torch.nn.Module):
    """A network that takes time labels."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        return self.net(x)


@pytest.mark.parametrize("name", NAMES)
def test_images_come_back(name):
    assert exact(codec(name), smooth(16, 2))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5, 10, 25])
@pytest.mark.parametrize("name", NAMES)
def test_images_come_back_from_long_chains(name, steps):
    assert exact(codec(name, steps), smooth(40, 2))


@pytest.mark.parametrize("ratio", [1 / 16, 0.5, 1.0])
def test_lattices_of_any_width_serve(ratio):
    assert exact(codec("pca", 3, ratio=ratio), smooth(12, 3))


@pytest.mark.parametrize("batch_size", [1, 27])
def test_batches_of_any_size_serve(batch_size):
    images = smooth(30, 4)
    one = codec("pca", 3, batch_size=batch_size)
    content = one.encode(images)
    assert torch.equal(codec("pca", 3).decode(content), images)  # the decoder's are those of the file
    assert max(size for size, _ in header_of(content)["batches"]) <= batch_size


@pytest.mark.parametrize("kind", ["noise", "black", "white", "checkerboard"])
def test_odd_images_come_back(kind):
    assert exact(codec("pca", 3), torch.cat([smooth(5, 5), odd(kind), smooth(3, 6)]))


def test_one_image_takes_no_more_than_it_is():
    one = codec("isotropic", 3)
    done = one.compress(smooth(1, 7))
    assert exact(one, smooth(1, 7))
    assert done.raw == 1
    assert np.isnan(done.net_rate)


def test_noise_is_kept_as_it_is():
    """Coded, it would take more than log2(17) bits/dim; raw it takes those, and a header."""
    noise = DECLARED.encode(np.random.default_rng(3).integers(0, 17, (60, 3, 4, 4)))
    done = codec("pca", 5).compress(noise)
    header = 8 * len(done.content) - 60 * 48 * np.log2(17)
    assert 0 < header < 8 * 130
    assert done.raw >= 55


def test_with_a_gaussian_prior():
    assert exact(codec("pca", 3, prior=study().free), smooth(12, 8))


def test_bases_may_differ_by_level():
    """The prior's are principal components, the steps' cosines given a statistic."""
    one = codec("colour_dct|high_frequency", 3, prior=study().free)
    ladder = one._ladder((3, 4, 4), 0.5)
    assert not ladder.turns[0].same(ladder.turns[1])
    assert exact(one, smooth(12, 8))


def test_a_categorical_decoder_asks_for_no_network():
    chain = study().chain(3)
    one = Codec(study().model, Chain(chain.grid, chain.covariance, CategoricalDecoder()), DECLARED)
    assert exact(one, smooth(12, 9))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "pixel")) for name in NAMES])
def test_length_is_what_latents_are_worth(name):
    """A little less at most, for the window caps what outliers cost."""
    done = codec(name).compress(smooth(80, 10))
    assert 0.995 * done.worth_rate <= done.net_rate <= 1.001 * done.worth_rate


@pytest.mark.slow
def test_length_is_the_bound():
    """One draw of the bound on the images, whatever the order in which latents are coded."""
    images = smooth(400, 11)
    one = codec("pca", 5)
    bound = bits_per_dim(study().model, images, {"c": one.chain}, DECLARED, draws=8, seed=3, progress=False)["c"].total
    done = one.compress(images)
    spread = done.worth.std(ddof=1) / done.dim / np.sqrt(len(done.worth))
    assert abs(done.net_rate - bound.value) < 3.0 * np.hypot(spread, bound.stderr)


def test_long_chains_begin_with_no_more_bits():
    """Latents are popped one at a time: two of them are the most that a stack lends, of 25 as of 3."""
    few, many = (codec("isotropic", steps).compress(smooth(8, 12)).beginning for steps in (3, 25))
    assert many < 1.5 * few


def test_batches_grow():
    header = header_of(codec("pca", 3).encode(smooth(120, 13)))
    sizes = [size for size, times in header["batches"] for _ in range(times) if size > 0]
    assert sizes[0] == 1
    assert max(sizes) >= 16
    assert header["count"] == 120


def test_same_images_make_the_same_file():
    assert codec("pca", 3).encode(smooth(8, 14)) == codec("pca", 3).encode(smooth(8, 14))


def test_the_study_has_codecs():
    images = smooth(8, 15)
    one = study().codec(3, covariance="pca", prior="gaussian")
    assert torch.equal(one.decode(one.encode(images)), images)


@pytest.mark.parametrize("schedule", [VE(), CosineVP(), RectifiedFlow()], ids=lambda schedule: type(schedule).__name__)
def test_under_any_schedule(schedule):
    """Also where the first level is pure noise, of which the next one says nothing."""
    model = LinearDenoiser.of(smooth(200, 0)).score_model(schedule)
    levels = [schedule.time(log_snr) for log_snr in (-3.0, 0.0, 3.0, 6.0)]
    one = Codec(model, Chain(Grid((1.0, *levels, 0.0)), BetaTilde(), 0.1), DECLARED)
    assert exact(one, smooth(10, 16))


# --- refusals ---


def test_a_network_that_is_random_is_refused():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Unflatten(1, (3, 4, 4)))
    with pytest.warns(UserWarning, match="training mode"):
        model = ScoreModel(Fed(net), LinearVP())
    with pytest.raises(RunError, match="twice the same"):
        Codec(model, codec().chain, DECLARED).encode(smooth(2, 0))


def test_what_is_diagonal_in_no_basis_is_refused():
    chain = study().chain(3)
    with pytest.raises(UnsupportedError, match="diagonal in no fixed basis"):
        Codec(study().model, Chain(chain.grid, Tweedie(study().model), chain.decoder), DECLARED).encode(smooth(2, 0))


def test_a_study_says_so_before_it_looks_for_a_grid():
    with pytest.raises(UnsupportedError, match="diagonal in no fixed basis"):
        study().codec(3, covariance="tweedie")


def test_priors_without_independent_coefficients_are_refused():
    chain = study().chain(3)
    mixture = MixtureDenoiser.of(smooth(100, 0), components=(2,))
    one = Codec(study().model, Chain(chain.grid, chain.covariance, chain.decoder, prior=mixture), DECLARED)
    with pytest.raises(UnsupportedError, match="independent normal coefficients"):
        one.encode(smooth(2, 0))


def test_chains_that_do_not_lead_to_data_are_refused():
    chain = study().chain(3)
    with pytest.raises(UnsupportedError, match="no probabilities"):
        Codec(study().model, Chain(chain.grid, chain.covariance, NoDecoder()), DECLARED).encode(smooth(2, 0))


def test_continuous_data_are_refused():
    with pytest.raises(InputError, match="declare their levels"):
        Codec(study().model, study().chain(3), DataRange())


def test_what_no_file_holds_is_refused():
    with pytest.raises(InputError, match="at most 65536 levels, not 70000"):
        Codec(study().model, study().chain(3), DataRange(levels=70_000))
    with pytest.raises(InputError, match=r"too large for a file.*cut them into tiles"):
        Codec(study().model, study().chain(3), DECLARED).encode(torch.zeros(1, 1, 2**11, 2**11))


def test_images_off_their_levels_are_refused():
    with pytest.raises(InputError, match="off the grid"):
        codec().encode(smooth(2, 0) + 0.01)


@pytest.mark.parametrize("setting", [{"ratio": 0.0}, {"batch_size": 0}, {"arithmetic": "float16"}])
def test_settings_are_checked(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Codec(study().model, study().chain(3), DECLARED, **setting)


def test_variances_are_those_of_the_steps():
    """A step's noise has the variances that it tells, in the basis that it tells."""
    from score_sde_analytic.process.kernel import kernels

    chain = study().chain(4, covariance="pca")
    levels = chain.grid.levels(study().schedule)[:-1]
    steps = kernels(levels)
    prediction = study().model.predict(smooth(1, 1).expand(4000, 3, 4, 4), levels[0])
    z = torch.randn(4000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for covariance in (chain.covariance, study().covariance("isotropic"), Beta()):
        step = covariance.steps(steps, levels[:-1])[0]
        noise = step.add_noise(torch.zeros(4000, 3, 4, 4), prediction, z)
        ratio = step.basis.forward(noise.double()).square().mean(0) / step.variances(prediction)[0]
        assert (ratio - 1.0).abs().max() < 6.0 * np.sqrt(2 / 4000)


def test_a_judged_prior_is_its_model():
    judged = study().free
    assert isinstance(judged, Judged)
    assert isinstance(judged.free, LinearDenoiser)
    level = study().schedule.level(0.7)
    basis, mean, variance = judged.normal(level)
    x = study().free.free.start(torch.randn(4000, 3, 4, 4, generator=torch.Generator().manual_seed(1)), level)
    w = basis.forward(x.double())
    assert (w.mean(0) - mean).abs().max() < 6.0 * variance.max().sqrt() / np.sqrt(4000)
    assert (w.var(0) / variance - 1.0).abs().max() < 6.0 * np.sqrt(2 / 4000)
