"""A network and pictures of your own: --config.network.source=diffusers:FOLDER (or another) --config.data.source=FOLDER."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.threads = 0
    config.data.name = "images"
    config.data.levels = 256
    config.data.split = (0.8, 0.1, 0.1)  # bases are fitted to the first, curves to the second, bits measured on the third
    config.schedule = ConfigDict({"name": "trained"})
    config.network.source = ""
    config.network.clamp = "trained"
    config.estimate.log_snr_max = 12.0
    config.estimate.answer = "bits"  # a cheap pass: 100 draws per noise level, more where bits/dim are not known to 0.05
    config.estimate.tolerance = 0.05
    config.estimate.min_draws = 100
    config.estimate.max_draws = 1000
    config.estimate.batch_size = 50
    config.grid.log_snr_max = 12.0
    config.evaluate.examples = 200
    config.evaluate.batch_size = 50
    config.sample.count = config.sample.batch_size = 24
    return config
