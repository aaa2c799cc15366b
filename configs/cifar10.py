"""CIFAR-10 by a pipeline's network: --config=configs/cifar10.py:FOLDER --config.data.source=IMAGES

FOLDER is one that diffusers saved, such as google/ddpm-cifar10-32. IMAGES is the data set's own file of images that the network
did not see, test_batch (for Python) or test_batch.bin (for C), or a folder of pictures.
"""

from ml_collections import ConfigDict
from score_sde_analytic.configs.images import get_config as images


def get_config(folder: str = "") -> ConfigDict:
    config = images()
    config.network.source = f"diffusers:{folder}" if folder else ""
    config.data.size, config.data.channels = 32, 3
    config.data.split = (0.6, 0.2, 0.2)
    config.grid.table = 1000  # whole indices
    config.grid.log_snr_max = config.estimate.log_snr_max = 9.2  # of the first index
    config.covariance.bases = ("pixel", "colour_dct")
    config.evaluate.paper = False
    config.evaluate.variances = ("beta", "beta_tilde", "residual", "pixel", "colour_dct")
    config.sample.fewest = (1, 2, 3, 5, 10)
    return config
