"""What tests and the examples of docstrings share: shape checks of every annotated function, the suite's options."""

from jaxtyping import install_import_hook

install_import_hook("score_sde_analytic", "checker.check")

pytest_plugins = ["shared"]  # of tests/

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="where tests that take a device run, as in --device=cuda; the CPU unless said")
    parser.addoption("--dtype", default="float32", help="of the states of tests that take a dtype, as in --dtype=bfloat16")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a model and its data lie."""
    return torch.device(request.config.getoption("--device") or "cpu")


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU; without one its tests can be tried with --device=cpu or on --device=meta, which is emulated."""
    name = request.config.getoption("--device") or "cuda"
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here: `make gpu` is for a machine that has one")
    if name != "meta":
        yield torch.device(name)
        return
    import fake_device

    with fake_device.device():
        yield torch.device("meta")


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of data and states; schedules are in float64 whatever it is."""
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(scope="session")
def example_names() -> dict[str, Any]:
    """What examples of docstrings may use without an import, besides the names of their module."""
    from score_sde_analytic import Budget, GaussianMixture, LinearVP, analyse

    mixture = GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.05, 0.2, 0.1])
    model = mixture.score_model(LinearVP())
    data = mixture.sample(400)
    test_set = mixture.sample(100, seed=1)
    study = analyse(model, data, budget=Budget(max_draws=300), progress=False)
    curve = study.curves["residual"]
    measured = {"study": study, "moments": study.moments, "curve": curve}
    return {"np": np, "torch": torch, "mixture": mixture, "model": model, "data": data, "test_set": test_set, **measured}


@pytest.fixture(autouse=True)
def _of_examples(request: pytest.FixtureRequest) -> None:
    """Examples know these names, and write to a folder of their own."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("doctest_namespace").update(request.getfixturevalue("example_names"))
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
