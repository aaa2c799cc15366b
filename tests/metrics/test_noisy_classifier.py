"""Classifiers of noisy images: told their level, of any schedule; without noise they are trained as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.runners import classifier, datasets
from torch.nn import functional

from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance import Classifier as Guided
from score_sde_analytic.metrics import Classifier, NoisyClassifier, load_classifier, save_classifier
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe, ClassifierTrainer, accuracy, moved
from score_sde_analytic.metrics.noisy_classifier import diffused
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.training import learning_rate
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.process.schedule import VE, LinearVP

SMALL = {"in_channels": 1, "size": 8, "classes": 2, "channels": [4, 8], "features": 16}


def images(count=40, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def noisy(seed=0):
    torch.manual_seed(seed)
    return NoisyClassifier(**SMALL, log_snr=(-6.0, 8.0)).eval()


def test_without_noise_training_is_the_plain_loop():
    """Cross-entropy of moved images, AdamW, every random number of (seed, step): to the bit."""
    x, y = images(), torch.arange(40) % 2
    recipe = ClassifierRecipe(steps=4, batch_size=8, channels=(4, 8), features=16)
    trainer = ClassifierTrainer(recipe, x, y, seed=3)
    torch.manual_seed(stream_seed(3))
    net = Classifier(1, 8, 2, (4, 8), 16, recipe.dropout)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for step in range(4):
        trainer.advance()
        torch.manual_seed(stream_seed(3, step + 1))
        chosen = torch.randint(40, (8,))
        loss = functional.cross_entropy(net(moved(x[chosen], 1)), y[chosen])
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 4, recipe.learning_rate, recipe.warmup)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(trainer.net.state_dict().values(), net.state_dict().values(), strict=True))


def test_files_keep_the_range_of_levels(tmp_path):
    net, x = noisy(), images(5)
    save_classifier(net, tmp_path, {})
    again, config = load_classifier(tmp_path)
    assert isinstance(again, NoisyClassifier)
    assert config["network"]["log_snr"] == [-6.0, 8.0]
    assert torch.equal(again(x, -1.5), net(x, -1.5))
    assert torch.equal(net(x), net(x, 8.0))
    assert not torch.equal(net(x), net(x, 0.0))


def test_a_level_per_image_is_that_of_each_alone():
    net, x, levels = noisy(), images(3), torch.tensor([-9.0, 0.3, 5.0], dtype=torch.float64)
    alone = torch.cat([net(x[i : i + 1], float(levels[i])) for i in range(3)])
    torch.testing.assert_close(net(x, levels), alone)
    torch.testing.assert_close(net(x[:1], -9.0), net(x[:1], -6.0))  # beyond the range: its end


def test_noise_is_of_the_level():
    x, z = images(4), images(4, seed=1)
    levels = torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.float64)
    for i, lam in enumerate(levels.tolist()):
        expected = LinearVP().level_at(lam).diffuse(x, z)[i]
        torch.testing.assert_close(diffused(x, levels, z)[i], expected)


def test_states_of_all_schedules_are_alike():
    """The same draw at the same log-SNR, whatever the schedule scales it by."""
    net, x, z = noisy(), images(4), images(4, seed=1)
    by_schedule = [net.states(level.diffuse(x, z), level) for level in (LinearVP().level_at(0.7), VE().level_at(0.7))]
    torch.testing.assert_close(by_schedule[0], by_schedule[1])
    torch.testing.assert_close(by_schedule[0], net.features(diffused(x, torch.full((4,), 0.7), z), 0.7))


def test_its_gradient_guides():
    """eps - s sigma grad log p(class | x_t), by differences."""
    net, x_t = noisy().double(), images(2).double()
    flat = GaussianMixture([1.0], [np.zeros(64)], 0.5)

    def log_prob(x, level, class_labels):
        return net.log_prob(x.reshape(-1, 1, 8, 8), level, class_labels)

    inner = flat.score_model(LinearVP())
    level = inner.schedule.level_at(0.5)
    labels = torch.tensor([0, 1])
    guided = Guided(inner, log_prob, 2.0, fingerprint="net").given(class_labels=labels)
    change = (guided.predict(x_t.flatten(1), level).eps - inner.predict(x_t.flatten(1), level).eps)[:, 20]
    step = torch.zeros_like(x_t)
    step.flatten(1)[:, 20] = 1e-5
    slope = (net.log_prob(x_t + step, level, labels) - net.log_prob(x_t - step, level, labels)) / 2e-5
    torch.testing.assert_close(change, -2.0 * level.sigma * slope.detach(), rtol=1e-5, atol=1e-8)


def test_a_range_that_is_none_is_refused():
    for log_snr in ((1.0,), (3.0, -3.0)):
        with pytest.raises(InputError, match="a lowest and a highest level, or \\(\\) for none"):
            ClassifierRecipe(log_snr=log_snr)


def test_domains_are_classes(tmp_path, capsys):
    """Class 1 is the data, class 0 the other domain; the file says at which levels it tells them apart."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "others.npz", x=rng.integers(0, 256, (200, 10, 10), dtype=np.uint8))
    config = digits_vp.get_config()
    config.data.split = (100, 40, 40)
    config.classifier.steps, config.classifier.log_snr = 60, (-6.0, 8.0)
    config.classifier.against = str(tmp_path / "others.npz")
    classifier.run(config, tmp_path)
    net, record = load_classifier(tmp_path / "classifier")
    assert net.settings["classes"] == 2
    assert accuracy(net, datasets.splits(config).held("test"), torch.ones(40, dtype=torch.long)) > 0.9
    assert record["accuracy"]["test"] > 0.9
    assert list(record["accuracy_by_log_snr"]) == ["-6", "-2.5", "1", "4.5", "8"]
    assert "at log-SNR -2.5" in capsys.readouterr().out


@pytest.mark.slow
def test_with_little_noise_it_knows_digits_as_well_as_one_without(tmp_path):
    """And the less the noise, the better."""
    config = digits_vp.get_config()
    config.classifier.log_snr, config.classifier.steps = (-6.0, 8.0), 2000
    classifier.run(config, tmp_path)
    record = load_classifier(tmp_path / "classifier")[1]
    shares = list(record["accuracy_by_log_snr"].values())
    assert shares[:4] == sorted(shares[:4])
    assert shares[0] < 0.4
    assert shares[-1] > load_classifier("digits_classifier")[1]["accuracy"]["test"] - 0.02
