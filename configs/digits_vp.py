"""scikit-learn's digits, the shipped network, linear VP schedule: the default experiment."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    return default()
