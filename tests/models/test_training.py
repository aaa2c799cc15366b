"""Training states: kept whole, read as they were, or refused."""

import pytest
import torch

from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.models.training import KIND, Checkpoint, train

STATE = {
    "net": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "optimiser": {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": None}]},
    "step": 7,
}


@pytest.fixture
def checkpoint(tmp_path):
    kept = Checkpoint(tmp_path / "state.safetensors", {"seed": 0, "log_snr": (-1.0, 1.0)})
    kept.write(STATE)
    return kept


def test_a_state_comes_back(checkpoint):
    state = checkpoint.read("cpu")
    assert state["step"] == 7
    assert state["optimiser"]["param_groups"] == [{"betas": [0.9, 0.999], "lr": None}]
    assert state["optimiser"]["state"][0]["step"].shape == ()
    assert state["net"]["count"].dtype == torch.int64
    assert state["net"]["weight"].equal(STATE["net"]["weight"])


def test_the_same_state_is_the_same_file(checkpoint):
    before = checkpoint.path.read_bytes()
    checkpoint.write(checkpoint.read("cpu"))
    assert checkpoint.path.read_bytes() == before


def test_a_flipped_bit_of_a_weight_is_refused(checkpoint):
    whole = bytearray(checkpoint.path.read_bytes())
    whole[whole.index(STATE["net"]["weight"].numpy().tobytes()) + 5] ^= 0x10
    checkpoint.path.write_bytes(whole)
    with pytest.raises(InputError, match=r"state.safetensors is damaged.*delete it to train from the start"):
        checkpoint.read("cpu")


def test_states_of_other_versions_and_runs_are_refused(checkpoint):
    arrays, metadata = load_arrays(checkpoint.path, KIND)
    del metadata["identity"]
    save_arrays(checkpoint.path, arrays, metadata)
    with pytest.raises(InputError, match="lacks identity"):
        checkpoint.read("cpu")
    torch.save({"step": 1}, checkpoint.path)
    with pytest.raises(InputError, match="not a safetensors file"):
        checkpoint.read("cpu")
    Checkpoint(checkpoint.path, {"seed": 1, "log_snr": [-1.0, 1.0]}).write(STATE)
    with pytest.raises(InputError, match="seed: file has 1, expected 0"):
        checkpoint.read("cpu")


@pytest.mark.parametrize("tree", [{}, {"mapping": 1}, {"mapping": [["a", {"tensor": ["9", "float32"]}]]}, {"list": [{}, {}]}])
def test_a_tree_that_is_none_is_refused(checkpoint, tree):
    save_arrays(checkpoint.path, {}, {"kind": KIND, "identity": {"seed": 0, "log_snr": [-1.0, 1.0]}, "state": tree})
    with pytest.raises(InputError, match=r"state\.safetensors"):
        checkpoint.read("cpu")


def test_a_state_that_does_not_fit_names_its_file(checkpoint):
    class Other:
        step = steps = 0

        def restore(self, state):
            torch.nn.Linear(4, 4).load_state_dict(state["net"])

    with pytest.raises(InputError, match=r"state\.safetensors does not hold what it should"):
        train(Other(), checkpoint, "cpu")
