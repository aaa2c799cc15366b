"""Pictures of one's own in the runner: splits are views, and every mode takes them."""

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import images as config_of_images
from score_sde_analytic.runners import datasets, evaluate, modes, sampling, train
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.settings import validate

from score_sde_analytic.data import DataRange, Examples
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.network_training import NetworkTrainer

COUNT = 60


@pytest.fixture
def config(tmp_path):
    """Sixty pictures of eight by eight, five of everybody."""
    x = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(COUNT) % 3, who=np.arange(COUNT) // 5)
    config = config_of_images.get_config()
    config.data.source = str(tmp_path / "a.npz")
    config.device = "cpu"
    return config


def test_parts_are_views_that_encode_what_they_read(config):
    validate(config)
    splits = datasets.splits(config)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [48, 6, 6]
    assert isinstance(splits.train, Examples)
    held = torch.cat([splits.held(name) for name in ("train", "validation", "test")])
    splits.data_range.check(held)
    assert len(held.unique(dim=0)) == COUNT
    assert len(splits.held("test", 2)) == 2
    assert torch.equal(splits.held("test", 2), splits.held("test")[:2])
    assert datasets.data_title(config) == "a"


def test_groups_stay_in_one_part(config):
    config.data.groups, config.data.label = "who", "who"
    config.data.split = (40, 10, 10)
    who = [
        {row["label"] for row in part._items} for part in vars(datasets.splits(config)).values() if isinstance(part, Examples)
    ]
    assert [len(names) for names in who] == [8, 2, 2]
    assert len(set.union(*who)) == 12


def test_labels_of_a_source_are_split_as_its_pictures_are(config):
    labels = datasets.labels(config)
    for part, name in zip(labels, ("train", "validation", "test"), strict=True):
        assert part.tolist() == [row["label"] for row in getattr(datasets.splits(config), name)._items]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 17}, "pass --config.data.levels=256"),
        ({"source": ""}, "data.source is not set"),
        ({"groups": "names"}, "no column 'names'; their columns: y, who"),
        ({"split": (50, 50, 1)}, "needs 101 examples"),
    ],
)
def test_what_does_not_fit_is_told(config, changes, message):
    for name, value in changes.items():
        config.data[name] = value
    with pytest.raises(InputError, match=message):
        datasets.splits(config)


def test_trainings_of_named_data_are_still_known(config):
    """The fields of sources are no part of the identity of data that have none."""
    assert {"source", "size"} <= set(datasets.data_identity(config))
    config.data.source = ""
    assert not {"source", "size", "label"} & set(datasets.data_identity(config))


def test_a_network_learns_from_pictures_that_are_read_as_they_are_drawn(config, tmp_path):
    """The same weights as from the same pictures in memory."""
    pytest.importorskip("diffusers")
    config.train.steps, config.train.batch_size, config.train.checkpoint_seconds = 2, 4, 1e9
    config.train.unet.block_out_channels, config.train.unet.norm_num_groups = (8, 8), 4
    config.train.unet.attention_head_dim = 4
    read, device = datasets.splits(config), torch.device("cpu")
    digests = []
    for data in (read.train, read.held("train")):
        trainer = NetworkTrainer(train.recipe(config), data, 0, device)
        for _ in range(2):
            trainer.advance()
        digests.append(digest_of(trainer.network()))
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_every_mode_takes_them(config, tmp_path):
    """With a network for digits: what it says of noise is of no interest here."""
    config.network.source = "digits_unet"
    config.data.split = (30, 20, 10)
    config.estimate.max_draws = config.estimate.min_draws = 40
    config.estimate.knots, config.estimate.most_knots = 12, 12
    config.sample.steps, config.sample.fewest, config.sample.count, config.sample.grids = (3,), (), 4, ("even",)
    config.evaluate.grids, config.evaluate.steps, config.evaluate.methods = ("even",), (3,), ("bound",)
    validate(config)
    experiment = Experiment(config, tmp_path / "work")
    modes.check(experiment)
    written = [*modes.estimate(experiment), *sampling.run(experiment), *evaluate.run(experiment)]
    assert all(path.exists() for path in written)
    assert experiment.study.data_range == DataRange(levels=256)
