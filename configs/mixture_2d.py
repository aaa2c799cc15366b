"""Four separate Gaussians of unequal weights and widths in the plane, exact score: paths that one can look at."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.mixture import get_config as mixture


def get_config() -> ConfigDict:
    config = mixture()
    config.data.lo, config.data.hi = -4.0, 4.0
    config.mixture = ConfigDict(
        {
            "weights": (0.3, 0.2, 0.3, 0.2),
            "means": ((-1.0, -0.8), (1.0, -0.7), (0.8, 0.9), (-0.9, 0.9)),
            "stds": ((0.15, 0.1), (0.07, 0.2), (0.18, 0.18), (0.06, 0.06)),
        }
    )
    config.compare.count = 2000
    return config
