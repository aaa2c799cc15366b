"""16x16 colour patches of scikit-learn's two sample photographs, 8 bits, shipped network; the parts share no pixel."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.data.name = "patches"
    config.data.levels = 256
    config.data.split = (40000, 3000, 3000)
    config.network.source = "patches_unet"
    config.train.steps = 11000
    config.train.batch_size = 32
    config.train.log_snr = (-8.0, 11.0)
    config.estimate.log_snr_max = 11.0
    config.grid.log_snr_max = 11.0
    config.evaluate.examples = 300
    config.evaluate.batch_size = 100
    unet = config.train.unet
    unet.sample_size = 16
    unet.in_channels = unet.out_channels = 3
    unet.block_out_channels = (32, 48, 48)
    unet.down_block_types = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    unet.up_block_types = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    unet.attention_head_dim = 16
    unet.dropout = 0.0
    return config
