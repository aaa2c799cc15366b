"""How DALL-E 2 samples its prior, in small: cosine schedule, x_0 predicted, guidance, 64 strided steps, analytic variance.

--config=dalle2            from the class of a digit to its features by the shipped classifier, 32 numbers: the shipped prior
--config=dalle2:digits     the same way of sampling for digits given their class, whose network predicts v
"""

from ml_collections import ConfigDict
from score_sde_analytic.configs.digits_classes import get_config as digits

#: (1000 t = 1) of 1000 steps.
FIRST = 10.0967


def get_config(of: str = "features") -> ConfigDict:
    config = {"features": features, "digits": digits}[of]()
    config.schedule = ConfigDict({"name": "cosine_vp"})
    config.estimate.log_snr_min = -12.0
    config.estimate.log_snr_max = FIRST
    config.grid.log_snr_max = FIRST
    config.sample.guidance = 2.0
    config.sample.steps = (4, 8, 16, 64)
    config.sample.grids = ("even", "log_snr", "dp")
    config.sample.variances = ("beta", "beta_tilde", "residual")
    return config


def features() -> ConfigDict:
    config = digits()
    config.data.name = "digit_features"
    config.data.levels = 0  # continuous: bits/dim are those of a density
    config.data.lo, config.data.hi = -20.0, 20.0
    config.network.source = "score_sde_analytic.models.vectors:digits_prior"
    config.network.predicts = "x_0"
    config.network.times = ConfigDict({"name": "log_snr"})
    config.network.coordinates = "vp"
    config.network.clamp = "none"
    config.evaluate.flow.entry = "direct"
    config.compare.features = "pixels"
    config.sample.count = 297
    return config
