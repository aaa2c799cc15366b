"""An entry of one's own: defined here, outside the package, it goes through the flow like those inside it."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import norm

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.likelihood import (
    Diffused,
    Direct,
    Entered,
    Entry,
    ExactTrace,
    Fixed,
    Flow,
    Gate,
    Hutchinson,
    Uniform,
    bits_per_dim,
)
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.decoder import GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import LinearVP

COPIES = 2000
LEVELS = DataRange(-4, 4, 5)  # bins of width 2


@dataclass(frozen=True)
class Triangular(Entry):
    """Dequantisation by noise v of density (1 - |v| / h) / h on a bin of half-width h."""

    def check(self, data_range: DataRange | None) -> None:
        if data_range is None or data_range.levels is None:
            raise ValueError("triangular dequantisation is for discrete data")

    def config(self) -> dict[str, str]:
        return {"entry": "triangular"}

    def columns(self) -> tuple[str, ...]:
        return ("dequantisation",)

    def enter(self, gate: Gate) -> Entered:
        half = 0.5 * gate.bin_width
        rank = torch.special.ndtr(gate.noise().double())
        distance = 1.0 - (1.0 - (2.0 * rank - 1.0).abs()).sqrt()  # |v| / h
        log_density = ((1.0 - distance) / half).log().flatten(1).mean(1)
        x_t, volume = gate.hold_score(gate.x_0.double() + half * distance * (2.0 * rank - 1.0).sign())
        return Entered(x_t, volume, (log_density,))


class Sided(Uniform):
    """A subclass that changes only its name."""

    def config(self) -> dict[str, str]:
        return {"entry": "sided"}


def bound_of(entry, value, k=1, **options):
    """Of copies of one value under N(0, 1), whose flow is at rest."""
    model = GaussianMixture([1.0], [[0.0]], 1.0).score_model(LinearVP(0.1, 60.0))
    x = torch.full((COPIES, 1), value, dtype=torch.float64)
    flow = Flow(1e-6, entry, ExactTrace(), Fixed(2), k, examples_per_block=COPIES)
    return bits_per_dim(model, x, flow, LEVELS, batch_size=COPIES, progress=False, **options)


@pytest.mark.parametrize("value", [-4.0, 0.0, 2.0])
def test_its_bound_is_known_and_above_the_probability_of_the_bin(value):
    """E[-log p(x + v) + log q(v)] = (log 2 pi + x^2 + h^2 / 6) / 2 - log h - 1/2; 4 standard errors, false alarm 6e-5 each."""
    bound = bound_of(Triangular(), value)
    by_hand = 0.5 * (math.log(2 * math.pi) + value**2 + 1 / 6) - 0.5
    error = bound.nats.std() / math.sqrt(COPIES)
    assert abs(bound.nats.mean() - by_hand) < 4 * error + 1e-6
    exact = -math.log(norm.cdf(value + 1) - norm.cdf(value - 1))
    assert bound.nats.mean() > exact - 4 * error
    assert bound.columns == ("prior", "volume", "dequantisation")
    np.testing.assert_allclose(bound.terms.sum(1), bound.per_example)


@pytest.mark.slow
def test_its_importance_weights_tighten_the_bound():
    """Always above -log P(bin), and nearer with 4 samples, with 32 nearer yet; 4 standard errors, false alarm 3e-5 each."""
    exact, gaps, errors = -math.log(norm.cdf(3.0) - norm.cdf(1.0)), [], []
    for k in (1, 4, 32):
        nats = bound_of(Triangular(), 2.0, k).nats
        gaps.append(nats.mean() - exact)
        errors.append(nats.std() / math.sqrt(COPIES))
    assert gaps[0] - gaps[1] > 4 * math.hypot(errors[0], errors[1])
    assert gaps[1] - gaps[2] > 4 * math.hypot(errors[1], errors[2])
    assert -4 * errors[2] < gaps[2] < 0.2 * gaps[0]


def test_a_subclass_of_an_entry_is_one():
    np.testing.assert_array_equal(bound_of(Sided(), 2.0).terms, bound_of(Uniform(), 2.0).terms)


def test_its_results_are_not_those_of_another(tmp_path):
    bound_of(Triangular(), 2.0, path=tmp_path / "bound")
    with pytest.raises(ValueError, match="entry"):
        bound_of(Uniform(), 2.0, path=tmp_path / "bound")


def test_entries_say_why_they_cannot_be_weighted():
    for entry in (Uniform(), Triangular(), Diffused(GaussianDecoder(0.1))):
        assert entry.unweightable is None
        Flow(1e-3, entry, ExactTrace(), importance_samples=2)
    for entry, match in ((Direct(), "in one way only"), (Diffused(NoDecoder()), "density of noisy data")):
        with pytest.raises(ValueError, match=f"{match}: importance_samples must be 1"):
            Flow(1e-3, entry, ExactTrace(), importance_samples=2)
    with pytest.raises(ValueError, match="need exact densities"):
        Flow(1e-3, Triangular(), Hutchinson(), importance_samples=2)


def test_what_is_no_entry_is_refused():
    with pytest.raises(ValueError, match="entry must be"):
        Flow(1e-3, GaussianDecoder(0.1))


def test_bins_have_a_width_where_data_have_a_range():
    gate = Gate(None, None, type("Batch", (), {"data_range": None}), 0, None)
    with pytest.raises(ValueError, match="declare it with its levels"):
        _ = gate.bin_width
