"""Recommendations of a study's page: each sentence says what the numbers say, and no more."""

import pytest

from score_sde_analytic.report import advice


def price(value, stderr=0.01):
    return {"predicted": {"total": {"value": value, "stderr": stderr}}}


def content(cells=None, **more):
    """Numbers as a report has them, of which a test changes some."""
    usual = {
        "dp/residual": {3: 2.4, 10: 2.0, 50: 1.77},
        "dp/pca": {3: 2.3, 10: 1.9, 50: 1.73},
        "even_tuned/residual": {3: 2.6, 10: 2.3, 50: 2.0},
        "even_tuned/beta_tilde": {3: 2.7, 10: 2.5, 50: 2.1},
    } | (cells or {})
    rows = {"pca": {"saved": 0.5, "stderr": 0.01}, "dct": {"saved": 0.1, "stderr": 0.01}}
    return {
        "cells": {f"{chain}/{k}": price(value) for chain, row in usual.items() for k, value in row.items()},
        "grid": "dp",
        "covariance": "residual",
        "limit": {"total": {"value": 1.72, "stderr": 0.02}},
        "within": [{"excess": 0.1, "steps": 26}, {"excess": 0.05, "steps": 52}, {"excess": 0.02, "steps": 121}],
        "searched": 100,
        "structures": {"steps": 10, "best": "pca", "rows": rows},
        "quality": None,
        "rescaling": {"value": 0.002, "stderr": 0.0003},
    } | more


def told(**more):
    return dict(advice.recommendations(content(**more)))


def test_calls_are_those_within_a_twentieth_of_a_bit():
    said = told()["Calls"]
    assert said.startswith("For bits/dim, K = 52 calls are within 0.05 of infinitely many, 1.720 ± 0.020 bits/dim")
    assert said.endswith("With the pca noise K = 50 is, too.")
    assert "too" not in told(cells={"dp/pca": {3: 2.3, 10: 1.9, 50: 1.78}})["Calls"]
    assert "by the law for many steps" in told(searched=50)["Calls"]


def test_times_are_praised_beyond_the_errors_alone():
    said = told()["Times"]
    assert "predicted 2.000 ± 0.010 bits/dim at K = 10" in said
    assert "2.300 ± 0.010 with the isotropic noise (as low only at K = 50)" in said
    assert "2.500 ± 0.010 with β̃ (not as low at K = 50)" in said
    close = {"even_tuned/residual": {3: 2.4, 10: 2.02, 50: 1.8}, "even_tuned/beta_tilde": {3: 2.4, 10: 2.01, 50: 1.8}}
    assert "cost no more beyond the errors" in told(cells=close)["Times"]


def test_a_covariance_is_recommended_where_it_saves():
    said = told()["Noise"]
    assert "covariance='pca': it saves 0.500 ± 0.010 bits/dim" in said
    assert "On optimal times K = 10 costs 1.900 ± 0.010 with it, 2.000 ± 0.010 without." in said
    none = {"steps": 10, "best": "pca", "rows": {"pca": {"saved": 0.01, "stderr": 0.01}}}
    assert "keep the isotropic one" in told(structures=none)["Noise"]
    worse = {"steps": 10, "best": "residual", "rows": {"pca": {"saved": -0.01, "stderr": 0.001}}}
    assert told(structures=worse)["Noise"].startswith("No covariance in a basis saves")
    assert 'record=("auto",)' in told(structures=None)["Noise"]


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        (
            {"1": (0.9, 0.1), "5": (0.3, 0.1), "10": (0.01, 0.1)},
            "take study.fewest with K = 1 and 5; with K = 10 these samples cannot tell the two apart. At K = 5 the chain is"
            " farther from them by 0.30 ± 0.10.",
        ),
        ({"10": (-0.3, 0.1)}, "take the chain with K = 10. At K = 10 the chain is nearer to them by 0.30 ± 0.10."),
        ({"2": (0.1, 0.1)}, "with K = 2 these samples cannot tell the two apart."),
    ],
)
def test_the_sampler_that_is_nearer_beyond_the_error_of_the_difference(gaps, said):
    quality = {"chain_beyond_fewest": {k: {"value": value, "stderr": error} for k, (value, error) in gaps.items()}}
    assert told(quality=quality)["Samples"] == f"For samples near the data, {said}"
    assert "Samples" not in told()


def test_a_network_is_repaired_where_it_is_worth_it():
    assert "needs no repair" in told()["Network"]
    assert "0.0200 ± 0.0010 bits/dim: repair its mean" in told(rescaling={"value": 0.02, "stderr": 0.001})["Network"]
    assert "needs no repair" in told(rescaling={"value": 0.02, "stderr": 0.02})["Network"]


@pytest.mark.parametrize(
    ("sizes", "said"), [((0.5, -2.5), "within 2.5 standard errors"), ((0.5, -4.0), "−4.0 standard errors")]
)
def test_prices_are_trusted_where_measured_bits_agree(sizes, said):
    numbers = content()
    for k, size in zip((3, 10), sizes, strict=True):
        numbers["cells"][f"dp/residual/{k}"]["disagreement_in_standard_errors"] = size
    trust = dict(advice.recommendations(numbers))["Trust"]
    assert said in trust
    assert ("can be trusted" in trust) == (abs(sizes[1]) < 3)
    assert "Trust" not in told()


def test_a_chain_without_a_price_has_no_sentence_on_times():
    numbers = content(covariance="tweedie")
    numbers["cells"] |= {f"dp/tweedie/{k}": {} for k in (3, 10, 50)}
    assert "Times" not in dict(advice.recommendations(numbers))


# --- calibration ----------------------------------------------------------------------------------------------------


def calibration(*sizes, difference=0.1):
    table = {
        "log_snr": [float(i) for i in range(len(sizes))],
        "1-noise_power-residual_in_standard_errors": list(sizes),
        "1-noise_power-residual": [difference * size for size in sizes],
        "noise_power": [0.5] * len(sizes),
    }
    return advice.calibration({"calibration": table})


def test_calibration_in_words():
    assert calibration(1.0, -2.9, 0.5).startswith("No level tells the network from an exact one: the farthest, −2.9")
    said = calibration(1.0, 4.0, -6.0, 0.0, difference=0.05)
    assert "not exact at 2 of 4 levels, between log-SNR 1.00 and 2.00" in said
    assert "in size 1 − Λ − R is −0.3 at most, at log-SNR 2.00" in said
    assert "too large there, and errs least if multiplied by 0.7" in said
    assert "too small there, and errs least if multiplied by 1.2" in calibration(4.0, difference=0.05)
