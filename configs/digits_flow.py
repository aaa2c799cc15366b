"""Digits by flow matching, shipped network: x_t = (1 - t) x_0 + t eps, and its velocity."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.schedule = ConfigDict({"name": "rectified_flow"})
    config.network.source = "digits_flow_unet"
    config.train.predicts = "velocity"
    config.train.log_snr = (-30.0, 30.0)  # all of t
    return config
