"""Digits given their class, shipped network; label 10 says that there is none."""

from ml_collections import ConfigDict
from score_sde_analytic.configs.digits_vp import get_config as digits


def get_config() -> ConfigDict:
    config = digits()
    config.network.source = "digits_classes_unet"
    config.network.condition = "class_labels"
    config.train.classes = 10
    return config
