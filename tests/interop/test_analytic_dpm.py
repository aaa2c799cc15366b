"""Files of ms_eps: read as they are, their variances to the digit, written for their code, and never run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from malicious import Malicious
from score_sde_analytic.covariance import Isotropic
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.interop.analytic_dpm import load_ms_eps, save_ms_eps
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.schedule import LinearVP, Tabulated

TABLE = Tabulated.linear()
N = 1000
#: Numbers of their code.
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "analytic_dpm_linear.json"


def gaussian_ms_eps(variance: float = 0.09, dtype: type = np.float32) -> np.ndarray:
    """Of data N(0, variance I): Lambda = (1 - alpha_bar) / (alpha_bar variance + 1 - alpha_bar)."""
    alpha_bar = TABLE.alpha(np.arange(1, N + 1) / N) ** 2
    return np.append(0.0, (1 - alpha_bar) / (alpha_bar * variance + 1 - alpha_bar)).astype(dtype)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(gaussian_ms_eps(), tmp_path / "ms_eps.pth")
    return tmp_path / "ms_eps.pth"


def test_values_are_those_of_the_file(file: Path) -> None:
    curve = load_ms_eps(file, TABLE)
    times = np.arange(1, N + 1) / N
    np.testing.assert_allclose(curve.noise_power(TABLE.log_snr(times)), gaussian_ms_eps()[1:], rtol=0, atol=1e-13)
    assert curve.source == "score"
    with pytest.raises(InputError, match="prices come from the residual"):
        curve.require_price()


def test_gaussian_data_have_one_effective_variance(tmp_path: Path) -> None:
    torch.save(gaussian_ms_eps(0.09, np.float64), tmp_path / "wide.pth")
    curve = load_ms_eps(tmp_path / "wide.pth", TABLE)
    np.testing.assert_allclose(curve.effective_variance(np.linspace(-8, 8, 9)), 0.09, rtol=1e-9)


def their_variance(ms_eps: np.ndarray, s: int, r: int) -> float:
    """Var of the step n = r -> s of DDPM's chain, from the formulas of the paper (Bao et al., 2022, eq. 8)."""
    alpha_bar = np.append(1.0, np.cumprod(1.0 - TABLE.betas))
    ratio = alpha_bar[r] / alpha_bar[s]
    beta = 1.0 - ratio
    tilde = (1.0 - alpha_bar[s]) / (1.0 - alpha_bar[r]) * beta
    v0 = np.clip((1.0 - alpha_bar[r]) / alpha_bar[r] * (1.0 - ms_eps[r]), 0.0, 1.0)
    return tilde + alpha_bar[s] * beta**2 / (1.0 - alpha_bar[r]) ** 2 * v0


def test_its_variances_are_theirs(file: Path) -> None:
    rule, ms_eps = Isotropic(load_ms_eps(file, TABLE), max_posterior_variance=1.0), gaussian_ms_eps().astype(float)
    for s, r in ((999, 1000), (500, 1000), (100, 111), (1, 2), (1, 1000)):
        s_level, t_level = TABLE.level(s / N), TABLE.level(r / N)
        found = float(rule.variance(reverse_kernel(s_level, t_level), t_level))
        assert found == pytest.approx(their_variance(ms_eps, s, r), rel=1e-9)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the numbers of their code are not beside the checkout")
@pytest.mark.parametrize("data", ["twopoint_0.8_s0.1", "aniso_gauss_std_1_.3_.1_.03"])
def test_against_numbers_of_their_code(data: str, tmp_path: Path) -> None:
    content = json.loads(REFERENCE.read_text())
    torch.save(np.asarray(content["inputs"]["linear"]["ms_eps"][data]), tmp_path / "ms_eps.pth")
    rule = Isotropic(load_ms_eps(tmp_path / "ms_eps.pth", TABLE), max_posterior_variance=1.0)
    theirs = content["results"][f"linear|{data}"]
    compared = 0
    for chain, eta in (("ddpm", 1.0), ("ddim_eta0", 0.0), ("ddim_eta1", 1.0)):
        for steps in (10, 50):
            table = theirs[chain][f"even_K{steps}_clip_sigma_idx0"]
            for s, r, variance in zip(table["s"], table["r"], table["sigma2"], strict=True):
                if variance is None or s == 0:
                    continue
                kernel = reverse_kernel(TABLE.level(s / N), TABLE.level(r / N), eta)
                assert float(rule.variance(kernel, TABLE.level(r / N))) == pytest.approx(variance, rel=1e-8), (chain, s, r)
                compared += 1
    assert compared > 150


def test_what_it_was_measured_on_is_said(file: Path, tmp_path: Path) -> None:
    curve = load_ms_eps(file, TABLE)
    assert "trained on, in float32, without" in curve.remarks[0]
    assert len(curve.remarks) == 1
    curve.save(tmp_path / "curve.safetensors")
    assert NoiseCurve.load(tmp_path / "curve.safetensors").fingerprint == curve.fingerprint


def test_values_out_of_range_are_told(tmp_path: Path) -> None:
    broken = gaussian_ms_eps()
    broken[[5, 900]] = 1.1, 1.0
    torch.save(broken, tmp_path / "ms_eps.pth")
    curve = load_ms_eps(tmp_path / "ms_eps.pth", TABLE)
    assert curve.remarks[1] == "2 of 1000 values are not in (0, 1): interpolated there"
    assert curve.effective_variance(TABLE.log_snr(5 / N)) == pytest.approx(0.09, rel=1e-3)


def test_there_and_back(curve: NoiseCurve, tmp_path: Path) -> None:
    save_ms_eps(curve, TABLE, tmp_path / "ours.pth")
    content = torch.load(tmp_path / "ours.pth", weights_only=False)  # as their code reads it
    assert (type(content), content.dtype, content.shape, content[0]) == (np.ndarray, np.float32, (N + 1,), 0.0)
    lam = TABLE.log_snr(np.arange(1, N + 1) / N)
    np.testing.assert_allclose(content[1:], curve.noise_power(lam), rtol=0, atol=1e-7)
    again = load_ms_eps(tmp_path / "ours.pth", TABLE)
    np.testing.assert_allclose(again.noise_power(lam), curve.noise_power(lam), rtol=0, atol=1e-7)


def test_files_of_numpy_1_are_read(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same pickle under the name that numpy 1 had for its constructor."""
    old = tmp_path / "old.pth"
    torch.save(gaussian_ms_eps(), old, _use_new_zipfile_serialization=False)
    data = old.read_bytes()
    assert b"numpy._core.multiarray" in data
    for name, former in ((b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),):
        assert name in data
        data = data.replace(name, former)
    old.write_bytes(data)
    np.testing.assert_array_equal(load_ms_eps(old, TABLE).y, load_ms_eps(file, TABLE).y)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_malicious_file_is_refused(tmp_path: Path, hidden: bool) -> None:
    target = tmp_path / "created"
    content = np.array([Malicious(target)], dtype=object) if hidden else Malicious(target)
    torch.save(content, tmp_path / "ms_eps.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        load_ms_eps(tmp_path / "ms_eps.pth", TABLE)
    assert not target.exists()
    with (tmp_path / "bare.pth").open("wb") as stream:
        pickle.dump(content, stream)
    with pytest.raises(InputError):
        load_ms_eps(tmp_path / "bare.pth", TABLE)
    assert not target.exists()
    torch.load(tmp_path / "ms_eps.pth", weights_only=False)  # the file does do harm
    assert target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_or_numbers(zipped: bool, tmp_path: Path) -> None:
    """Whatever bytes are changed: numpy is not asked to restore what a file describes."""
    path, table, random = tmp_path / "ms_eps.pth", Tabulated.linear(20), np.random.default_rng(0)
    torch.save(np.linspace(0.0, 0.9, 21).astype(np.float32), path, _use_new_zipfile_serialization=zipped)
    whole, refused = path.read_bytes(), 0
    for _ in range(100):
        damaged = bytearray(whole)
        for place in random.integers(len(whole), size=3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_ms_eps(path, table)
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8"])
def test_other_orders_of_bytes(dtype: str, tmp_path: Path) -> None:
    torch.save(gaussian_ms_eps().astype(dtype), tmp_path / "ms_eps.pth")
    torch.save(gaussian_ms_eps(), tmp_path / "own.pth")
    np.testing.assert_array_equal(load_ms_eps(tmp_path / "ms_eps.pth", TABLE).y, load_ms_eps(tmp_path / "own.pth", TABLE).y)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((3, 4), np.float32), "no ms_eps"),
        (np.zeros(N + 1, np.float32), "no value"),
        (gaussian_ms_eps()[:-1], "for 999 steps, the schedule one for 1000"),
        (np.full(N + 1, np.nan, np.float32), "must be finite"),
        ({"a": 1}, "need numbers"),
        (np.arange(N + 1), "an array of i8, not of float32"),
    ],
)
def test_other_content_is_refused(content: object, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "ms_eps.pth")
    with pytest.raises(InputError, match=said):
        load_ms_eps(tmp_path / "ms_eps.pth", TABLE)


def test_files_and_steps_that_are_not_there(curve: NoiseCurve, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"):
        load_ms_eps(tmp_path / "none.pth", TABLE)
    with pytest.raises(InputError, match="give steps="):
        save_ms_eps(curve, LinearVP(), tmp_path / "ours.pth")
    with pytest.raises(InputError, match="steps=10, the schedule one for 1000"):
        save_ms_eps(curve, TABLE, tmp_path / "ours.pth", steps=10)
