"""32x32 colour patches. The shipped network, trained on 16x16, is convolutional and serves as is; --mode=train makes one."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.patches import get_config as patches


def get_config() -> ConfigDict:
    config = patches()
    config.data.patch_size = 32
    config.data.split = (20000, 1000, 1000)
    config.train.unet.sample_size = 32
    config.estimate.min_draws = config.estimate.max_draws = 200
    config.estimate.batch_size = 50
    config.evaluate.examples = 200
    config.evaluate.batch_size = 50
    config.sample.count = config.sample.batch_size = 24
    return config
