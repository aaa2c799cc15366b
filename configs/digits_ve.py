"""The same network on the same digits under a variance-exploding schedule."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.schedule = ConfigDict({"name": "ve", "sigma_min": 0.01, "sigma_max": 150.0})
    return config
