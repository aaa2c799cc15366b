"""Latents: what the autoencoder says, scaled as its pipelines scale it; kept once, drawn by seed, led back to pictures."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from score_sde_analytic import Budget, DataRange, LinearVP, ScoreModel, analyse, bits_per_dim, images
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data import DataStatistics, Examples
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids import even
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.models import LatentDataset
from score_sde_analytic.process import NoDecoder
from score_sde_analytic.study.settings import Knots, Settings

diffusers = pytest.importorskip("diffusers")
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16)).astype(np.uint8))
X = DataRange(levels=256).encode(PIXELS.numpy())
QUIET = {"progress": False}


def autoencoder(seed=0, **settings):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 16}
    return diffusers.AutoencoderKL(**blocks, **shape, **settings).eval().requires_grad_(False)


def means(vae):
    return vae.encode(X).latent_dist.mean


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # as StableDiffusionPipeline has it; as that of SD3 and of Flux; as that of SDXL with means
        ({"scaling_factor": 0.2}, lambda z: 0.2 * z),
        ({"scaling_factor": 0.2, "shift_factor": 0.5}, lambda z: 0.2 * (z - 0.5)),
        (
            {"scaling_factor": 0.5, "latents_mean": (0.1, -0.2), "latents_std": (2.0, 4.0)},
            lambda z: 0.5 * (z - torch.tensor([0.1, -0.2])[:, None, None]) / torch.tensor([2.0, 4.0])[:, None, None],
        ),
    ],
)
def test_scaled_as_pipelines_scale_them(settings, expected):
    vae = autoencoder(**settings)
    latents = LatentDataset(vae, images(PIXELS), **QUIET)
    z = torch.stack(list(latents))
    torch.testing.assert_close(z, expected(means(vae)), rtol=1e-5, atol=1e-6)
    assert len(latents) == 10
    assert latents.shape == (2, 8, 8)
    torch.testing.assert_close(latents.decode(z), vae.decode(means(vae)).sample.clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_draws_are_functions_of_seed_and_index(tmp_path):
    """Standard normal about the means, in units of the encoder's standard deviation: 1,280 numbers, limits of five errors."""
    vae = autoencoder()
    one, again, other = (LatentDataset(vae, X, tmp_path / "kept", seed=seed, **QUIET) for seed in (1, 1, 2))
    z = torch.stack([one[i] for i in range(10)])
    assert torch.equal(z[3], again[3])
    assert not torch.equal(z, torch.stack(list(other)))
    distribution = vae.encode(X).latent_dist
    noise = (z / vae.config.scaling_factor - distribution.mean) / distribution.std
    assert abs(noise.mean()) < 5 / 1280**0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / 1280) ** 0.5
    assert len(noise.unique()) > 1270


def test_they_are_encoded_once(tmp_path, monkeypatch):
    vae, calls = autoencoder(), []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(len(x)) or encode(x))
    first = torch.stack(list(LatentDataset(vae, X, tmp_path / "kept", batch_size=4, **QUIET)))
    assert calls == [4, 4, 2]
    assert torch.equal(first, torch.stack(list(LatentDataset(vae, X, tmp_path / "kept", batch_size=4, **QUIET))))
    assert calls == [4, 4, 2]


def test_an_interrupted_encoding_goes_on_to_the_same_latents(tmp_path, monkeypatch):
    vae = autoencoder()
    encode, calls = vae.encode, []

    def breaking(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise OSError("out of luck")
        return encode(x)

    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", breaking)
        with pytest.raises(OSError, match="luck"):
            LatentDataset(vae, X, tmp_path / "cut", batch_size=4, **QUIET)
    LatentDataset(vae, X, tmp_path / "cut", batch_size=4, **QUIET)
    LatentDataset(vae, X, tmp_path / "whole", batch_size=4, **QUIET)
    assert (tmp_path / "cut" / "rows.bin").read_bytes() == (tmp_path / "whole" / "rows.bin").read_bytes()


def test_others_are_refused(tmp_path):
    LatentDataset(autoencoder(), X, tmp_path / "kept", **QUIET)
    with pytest.raises(InputError, match=r"made for something else \(vae"):
        LatentDataset(autoencoder(seed=1), X, tmp_path / "kept", **QUIET)
    with pytest.raises(InputError, match=r"made for something else \(images"):
        LatentDataset(autoencoder(), X.flip(0), tmp_path / "kept", **QUIET)
    with pytest.raises(InputError, match="Linear has no encode and decode"):
        LatentDataset(nn.Linear(2, 2), X, **QUIET)
    with pytest.raises(InputError, match="leave the declared range"):
        LatentDataset(autoencoder(), 2 * X, **QUIET)
    broken = autoencoder()
    broken.encoder.conv_in.weight.data[:] = torch.nan
    with pytest.raises(RunError, match="NaN"):
        LatentDataset(broken, X, **QUIET)


def test_conditions_stay_with_their_latents(tmp_path):
    labels = Examples(images({"x": PIXELS, "y": np.arange(10)}), DataRange(levels=256), conditions={"class_labels": "label"})
    latents = Examples(LatentDataset(autoencoder(), labels, **QUIET))
    assert latents.batch([4, 2]).conditions["class_labels"].tolist() == [4, 2]


def test_conditions_in_half_precision():
    words = torch.rand(10, 3).bfloat16()
    latents = Examples(LatentDataset(autoencoder(), Examples(X, conditions={"words": words}), **QUIET))
    assert torch.equal(latents.batch([4, 2]).conditions["words"], words[[4, 2]].float())


def test_an_autoencoder_without_a_distribution():
    class Halved(nn.Module):
        def encode(self, x):
            return x[:, :, ::2, ::2]

        def decode(self, z):
            return z.repeat_interleave(2, 2).repeat_interleave(2, 3)

    latents = LatentDataset(Halved(), X, seed=3, **QUIET)
    assert torch.equal(torch.stack(list(latents)), X[:, :, ::2, ::2])
    assert latents.decode(latents[0][None]).shape == (1, 3, 16, 16)


def test_bits_and_curves_say_what_they_are_of():
    latents = LatentDataset(autoencoder(), X, **QUIET)

    def net(x, t):
        return 0.5 * x

    model = ScoreModel(net, LinearVP(), fingerprint="half")
    for data in (latents, Subset(latents, range(9)), DataLoader(latents)):
        assert Examples(data).space == "latents"
    assert Examples(X).space == ""
    bound = bits_per_dim(model, latents, Chain(even(3, 1e-3), BetaTilde(), NoDecoder()), **QUIET)
    assert bound.space == bound.summary()["of"] == "latents"
    budget = Budget(min_draws=32, max_draws=32)
    with pytest.warns(UserWarning, match="bits/dim are those of latents as a density"):
        analyse(model, latents, record=(), settings=Settings(knots=Knots(count=9, most=9)), budget=budget, **QUIET)
    assert DataStatistics.of(latents).count == 10
