"""The last step of every kind: its price over many first levels is that of the decoder it chooses there."""

import numpy as np
import pytest

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.measure.last_step import DECODERS, LastStep
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import LinearVP

HISTOGRAM = np.array([0.1, 0.2, 0.4, 0.2, 0.1])


@pytest.fixture(scope="module")
def measured(moments) -> Reconstruction:
    return Reconstruction.of(moments)


def made(name: str) -> LastStep:
    return DECODERS[name](LinearVP(), HISTOGRAM, DataRange(-1, 1, 5))


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_the_price_of_a_level_is_that_of_its_decoder(measured, name):
    """Equal to 1e-3 nats per dimension: what interpolating 64 levels leaves of the categorical one."""
    log_snr = np.linspace(-2.0, 5.0, 9)
    step = made(name)
    priced = step.nats(measured, log_snr)
    for lam, nats in zip(log_snr, priced, strict=True):
        decoder = step.decoder(measured, float(lam))
        level = LinearVP().level_at(float(lam))
        assert decoder.expected_nats(level, measured, HISTOGRAM, DataRange(-1, 1, 5)) == pytest.approx(nats, abs=1e-3)


def test_kinds(measured):
    assert isinstance(made("gaussian").decoder(measured, 3.0), GaussianDecoder)
    assert made("categorical").decoder(measured, 3.0) == CategoricalDecoder()
    assert made("none").decoder(measured, 3.0) == NoDecoder()
    assert [name for name in DECODERS if not made(name).comparable] == ["none"]


def test_without_a_decoder_the_first_time_is_given(measured):
    np.testing.assert_array_equal(made("none").nats(measured, np.array([1.0, 3.0, 2.0])), [np.inf, 0.0, np.inf])


@pytest.mark.parametrize("missing", [{"histogram": None}, {"data_range": None}])
def test_the_categorical_decoder_needs_discrete_data(measured, missing):
    settings = {"histogram": HISTOGRAM, "data_range": DataRange(-1, 1, 5)} | missing
    with pytest.raises(ValueError, match="is for discrete data"):
        DECODERS["categorical"](LinearVP(), **settings).nats(measured, np.array([1.0, 2.0]))
