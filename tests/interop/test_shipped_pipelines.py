"""Shipped networks as pipelines of diffusers: a table of betas whose indices are the labels that the networks know."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="pipelines are those of diffusers")

import numpy as np
import torch
from score_sde_analytic.runners.networks import ASSETS

from benchmarks.pipeline_sheets import pipeline_of, table, unconditional
from score_sde_analytic import CosineVP, ScoreModel
from score_sde_analytic.interop import from_pipeline
from score_sde_analytic.models.networks import load_unet
from score_sde_analytic.models.times import LogSNR


@pytest.mark.parametrize("asset", ["digits_unet", "patches_unet"])
def test_the_pipeline_is_the_shipped_network(asset):
    """x0_hat at the same log-SNR, whether it is fed an index of the table or 50 (10 - log-SNR)."""
    net, wiring = load_unet(ASSETS / asset)
    times = LogSNR(**{name: value for name, value in wiring["times"].items() if name != "name"})
    shipped = ScoreModel(net, CosineVP(), predicts="v", coordinates="vp", times=times)
    piped = from_pipeline(pipeline_of(asset)).unclamped()
    x = torch.randn(2, *(net.config.in_channels, net.config.sample_size, net.config.sample_size))
    for log_snr in (9.0, 0.0, -6.98):
        levels = [model.schedule.level(float(model.schedule.time(log_snr))) for model in (shipped, piped)]
        with torch.no_grad():
            x_0 = [model.predict(x, level).x_0 for model, level in zip((shipped, piped), levels, strict=True)]
        torch.testing.assert_close(*x_0, atol=2e-4, rtol=2e-4)


def test_log_snr_is_linear_in_the_index():
    alpha_bar = np.cumprod(1.0 - np.array(table({"scale": -50.0, "shift": -10.0, "lo": -7.0})))
    np.testing.assert_allclose(np.log(alpha_bar / (1.0 - alpha_bar)), 10.0 - np.arange(851) / 50.0, atol=1e-9)


def test_no_class_without_a_class():
    """Its last class is the one that stands for none."""
    net, _ = load_unet(ASSETS / "digits_classes_unet")
    x, labels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 300.0, 800.0])
    last = torch.full((3,), net.config.num_class_embeds - 1)
    with torch.no_grad():
        torch.testing.assert_close(unconditional(net)(x, labels).sample, net(x, labels, class_labels=last).sample)
