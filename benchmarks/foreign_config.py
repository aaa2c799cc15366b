"""The DDPMs of `foreign.py` in the runner: --config=benchmarks/foreign_config.py:fashion, or :mnist, with the folder of the IDX
files, --config.data.directory=FOLDER, and the weights, --config.network.weights=FILE.
"""

from ml_collections import ConfigDict
from score_sde_analytic.configs.images import get_config as images


def get_config(name: str) -> ConfigDict:
    config = images()
    config.threads = 1
    config.data.name = {"fashion": "fashion_mnist", "mnist": "mnist"}[name]
    config.data.split = (8000, 1000, 1000)  # of the 10,000 test images, which these networks did not see
    config.network.source = "benchmarks/foreign.py:Network"
    config.network.predicts = "eps"
    config.network.times = ConfigDict({"name": "zero_based", "steps": 1000, "integer": True})
    config.network.clamp = "data"
    config.schedule = ConfigDict({"name": "ddpm_linear"})
    config.grid.table = 1000  # whole indices
    config.grid.log_snr_max = config.estimate.log_snr_max = 9.2  # of the first index
    config.covariance.bases = ("pixel", "dct", "pca")
    config.evaluate.steps = config.evaluate.predicted_steps = (5, 10, 25, 50)
    config.evaluate.variances = ("beta", "beta_tilde", "residual", "pixel", "dct", "pca")
    config.evaluate.methods = ("predicted", "bound")
    config.evaluate.paper = False
    config.evaluate.examples = 1000
    config.evaluate.batch_size = 100
    config.sample.fewest = (1, 2, 3, 5, 10)
    return config
