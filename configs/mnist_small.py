"""MNIST with the small shipped network: --config.data.directory=FOLDER with the IDX files."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.mnist import get_config as mnist


def get_config() -> ConfigDict:
    config = mnist()
    config.threads = 1
    config.network.source = "mnist_unet"
    config.train.steps = 2000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.unet.block_out_channels = (16, 32, 32)
    config.train.unet.dropout = 0.0
    return config
