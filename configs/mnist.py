"""MNIST from IDX files: --config.data.directory=FOLDER; train a network first with --mode=train."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.threads = 0
    config.data.name = "mnist"
    config.data.levels = 256
    config.data.split = (8000, 1000, 1000)
    config.network.source = ""  # the network that --mode=train leaves in the workdir
    config.train.steps = 20000
    config.train.log_snr = (-8.0, 13.0)
    config.estimate.log_snr_max = 13.0
    config.grid.log_snr_max = 13.0
    config.estimate.min_draws = 200
    config.estimate.max_draws = 400
    config.evaluate.examples = 200
    config.evaluate.batch_size = 100
    config.train.unet.sample_size = 28
    config.train.unet.block_out_channels = (32, 64, 64)
    config.train.unet.down_block_types = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    config.train.unet.up_block_types = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    config.classifier.shift = 2
    config.classifier.channels = (16, 32, 64)
    config.classifier.features = 64
    return config
