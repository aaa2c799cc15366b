"""The network of vectors: what it predicts at both ends, its file, and the shipped prior."""

import pytest
import torch

from score_sde_analytic.errors import InputError
from score_sde_analytic.models.vectors import VectorNet, digits_prior, load_vectors, save_vectors


@pytest.fixture
def net():
    torch.manual_seed(0)
    return VectorNet(dim=5, classes=3, width=16, blocks=2).eval()


def test_without_noise_x_0_is_the_state(net):
    """x_0_hat = alpha x_t + sigma F: its error vanishes with sigma, whatever the weights."""
    x, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    errors = [float((net(x, torch.full((4,), log_snr), labels) - x).detach().norm()) for log_snr in (20.0, 24.0)]
    assert errors[0] < 1e-3
    assert errors[1] / errors[0] == pytest.approx(torch.e**-2.0, rel=0.02)  # as sigma, the embedding being confined


def test_rows_are_on_their_own_levels_and_classes(net):
    x, levels, labels = torch.randn(6, 5), torch.linspace(-8.0, 8.0, 6), torch.tensor([0, 1, 2, 3, 0, 1])
    alone = torch.cat([net(x[i : i + 1], levels[i : i + 1], labels[i : i + 1]) for i in range(6)])
    assert torch.allclose(net(x, levels, labels), alone, atol=1e-6)
    assert not torch.allclose(net(x, levels, labels.flip(0)), alone, atol=1e-4)


def test_a_file_holds_it_in_half_precision(net, tmp_path):
    file = save_vectors(net, tmp_path, {"seed": 0})
    loaded = load_vectors(tmp_path)
    assert loaded.settings == net.settings
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"damaged|restore it"):
        load_vectors(tmp_path)


def test_the_shipped_prior_is_small_and_takes_eleven_classes():
    net = digits_prior()
    assert (net.settings["dim"], net.settings["classes"]) == (32, 10)
    assert sum(value.numel() for value in net.parameters()) * 2 < 300_000
    assert net(torch.zeros(11, 32), torch.zeros(11), torch.arange(11)).shape == (11, 32)
