"""32x32 colour emoji (Noto Color Emoji), 8 bits; near copies of an emoji are in one part of the data; shipped network."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.default import get_config as default


def get_config() -> ConfigDict:
    config = default()
    config.threads = 0
    config.data.name = "emoji"
    config.data.levels = 256
    config.data.split = (1434, 200, 200)
    config.network.source = "emoji_unet"  # "" for the one that --mode=train leaves in the workdir: 4 minutes on an H200
    config.network.condition = "class_labels"
    config.train.steps = 11000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-3
    config.train.log_snr = (-8.0, 13.0)
    config.train.mirror = True
    config.train.classes = 9  # Unicode's groups
    config.estimate.log_snr_max = 13.0
    config.estimate.answer = "bits"  # a cheap pass: 100 draws per noise level, more where bits/dim are not known to 0.05
    config.estimate.tolerance = 0.05
    config.estimate.min_draws = 100
    config.estimate.max_draws = 1000
    config.estimate.batch_size = 50
    config.estimate.knots = config.estimate.most_knots = 32
    config.estimate.train_knots = 4
    config.grid.log_snr_max = 13.0
    config.evaluate.examples = 200
    config.evaluate.batch_size = 50
    config.sample.count = config.sample.batch_size = 24
    config.sample.steps = (5, 50)
    config.sample.fewest = (5,)
    config.sample.choose = False
    config.sample.grids = ("log_snr",)
    config.sample.variances = ("beta", "residual")
    unet = config.train.unet
    unet.sample_size = 32
    unet.in_channels = unet.out_channels = 3
    unet.block_out_channels = (32, 64, 96)
    unet.down_block_types = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    unet.up_block_types = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    unet.attention_head_dim = 16
    unet.dropout = 0.0
    return config
