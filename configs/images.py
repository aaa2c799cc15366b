"""Pictures of one's own: --config.data.source=FOLDER and --config.network.path=FOLDER; data.size and data.split as they are."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.data.name = "images"
    config.data.levels = 256
    config.data.split = (0.8, 0.1, 0.1)
    config.network.path = ""
    return config
