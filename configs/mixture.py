"""A 16-dimensional Gaussian mixture with its exact score under DDPM's linear betas: seconds on a CPU."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.data.name = "mixture"
    config.data.levels = 0  # continuous: bits/dim are those of a density
    config.data.lo, config.data.hi = -8.0, 8.0
    config.data.split = (1, 8000, 8000)
    config.mixture = ConfigDict(
        {"components": 8, "dim": 16, "scale": 0.6, "seed": 0, "variance_max": 0.5, "variance_min": 0.002}
    )
    config.schedule = ConfigDict({"name": "ddpm_linear", "steps": 1000})
    config.estimate.knots = 40
    config.estimate.min_draws = config.estimate.max_draws = 8000
    config.estimate.batch_size = 1000
    config.evaluate.batch_size = 8000
    config.evaluate.flow.entry = "direct"
    config.evaluate.flow.log_snr_max = 14.0
    config.evaluate.flow.examples_per_block = 8000
    config.sample.count = 2000
    config.sample.batch_size = 2000
    return config
