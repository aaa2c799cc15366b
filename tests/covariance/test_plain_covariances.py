"""Covariances as plain data: what JSON gives back takes the same steps to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from score_sde_analytic import ScoreModel, Tabulated
from score_sde_analytic.covariance import Beta, BetaTilde, Diagonal, Interpolated, Isotropic, Tweedie, of_content
from score_sde_analytic.data.basis import Channel
from score_sde_analytic.data.transforms import DCT, PCA
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import Energy
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.kernel import kernels

SHAPE = (2, 4, 4)
GENERATOR = np.random.default_rng(0)
KNOTS = np.sort(GENERATOR.normal(size=6)) * 4.0
CURVE = NoiseCurve(KNOTS, np.sort(GENERATOR.normal(size=6)), "score")


def spectrum(labels: int, bins: int = 1, mass: bool = False) -> Spectrum:
    y = np.sort(GENERATOR.normal(size=(6, bins, labels)), axis=0)
    quantiles = np.sort(GENERATOR.normal(size=(6, 2 * bins - 1)), axis=1) if bins > 1 else np.zeros((6, 0))
    shares = GENERATOR.uniform(0.1, 1.0, y.shape) if mass else None
    return Spectrum(KNOTS, y, quantiles, np.full(labels, 32.0 / labels), bins > 1, shares)


COVARIANCES = {
    "beta": Beta(),
    "beta_tilde": BetaTilde(),
    "isotropic": Isotropic(CURVE),
    "capped": Isotropic(CURVE, 0.1),
    "channel": Diagonal(spectrum(2), Channel()),
    "dct": Diagonal(spectrum(32, 3, mass=True), DCT(), Energy()),
    "pca": Diagonal(spectrum(6), PCA.of(torch.from_numpy(GENERATOR.normal(size=(40, *SHAPE))).float(), 5)),
}


@pytest.mark.parametrize("name", COVARIANCES)
def test_the_same_noise_after_json(name):
    covariance = COVARIANCES[name]
    back = of_content(json.loads(json.dumps(covariance.content(), allow_nan=False)))
    assert back.content() == covariance.content()
    levels = Tabulated.linear().levels([1.0, 0.3, 0.01])
    x, z = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind()
    steps = [each.steps(kernels(levels), levels[:-1]) for each in (covariance, back)]
    for t, one, other in zip(levels, *steps, strict=False):
        prediction = Prediction(x, t, x, "eps")
        assert torch.equal(one.add_noise(x.clone(), prediction, z), other.add_noise(x.clone(), prediction, z))


def test_only_what_adds_nothing_is_silent():
    levels = Tabulated.linear().levels([1.0, 0.3, 0.01])
    flow, chain = kernels(levels, 0.0), kernels(levels, 1.0)
    assert all(step.silent for step in BetaTilde().steps(flow, levels[:-1]))
    assert not any(step.silent for step in BetaTilde().steps(chain, levels[:-1]))
    assert not any(step.silent for step in Isotropic(CURVE).steps(flow, levels[:-1]))
    assert not any(step.silent for step in COVARIANCES["channel"].steps(flow, levels[:-1]))


def test_a_range_of_the_network_itself():
    assert of_content(Interpolated().content()).head is None


def test_networks_are_no_plain_data():
    model = ScoreModel(lambda x, labels: x, Tabulated.linear(), fingerprint="x")
    with pytest.raises(UnsupportedError, match="Tweedie has no form of plain data"):
        Tweedie(model).content()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"name": "isotropc"}, "did you mean 'isotropic'"),
        ({"y": [0.0, 1.0]}, "equally many knots"),
        ({"y": [0.0, "1", 2.0, 3.0, 4.0, 5.0]}, "y.1 is '1', not a number"),
        ({"source": "rumour"}, "source is 'rumour'"),
        ({"max_posterior_variance": -1.0}, "max_posterior_variance"),
    ],
)
def test_damaged_content_is_refused(damage, message):
    with pytest.raises(InputError, match=message):
        of_content({**Isotropic(CURVE).content(), **damage}, "a config")


@pytest.mark.parametrize(
    "damage",
    [
        {"base64": "AAAA"},
        {"base64": "no base64!"},
        {"shape": [-1]},
        {"shape": ["6"] * 40},
        {"dtype": "object"},
        {"dtype": "int64"},
    ],
)
def test_damaged_arrays_are_refused(damage):
    content = COVARIANCES["channel"].content()
    content["arrays"]["log_snr"] = content["arrays"]["log_snr"] | damage
    with pytest.raises(InputError, match="a config"):
        of_content(content, "a config")
