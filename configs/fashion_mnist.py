"""Fashion-MNIST (Xiao et al., 2017) from IDX files: --config.data.directory=FOLDER; made as configs/mnist.py is."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.mnist import get_config as mnist


def get_config() -> ConfigDict:
    config = mnist()
    config.data.name = "fashion_mnist"
    config.data.split = (60000, 5000, 5000)
    config.classifier.steps = 6000
    config.classifier.channels = (24, 48, 64)
    return config
