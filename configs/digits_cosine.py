"""The same network on the same digits, read as a discrete DPM: the tabulated cosine betas of Improved DDPM."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.schedule = ConfigDict({"name": "ddpm_cosine", "steps": 1000})
    return config
