"""Names are parsed once, print themselves, and say what is wrong with them."""

import pytest

from score_sde_analytic.study.names import ALIASES, ChainName, CovarianceName, GridName, construct, covariance_names


@pytest.mark.parametrize(
    "text",
    ["beta", "beta_tilde", "residual", "score", "tweedie", "auto", "pca", "dct|high_frequency", "npr", "npr|uncalibrated"],
)
def test_covariances_print_what_was_parsed(text):
    name = CovarianceName.parse(text)
    assert str(name) == text
    assert CovarianceName.parse(name) is name
    assert "|" not in name.title + name.label


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases_are_spelt_out(alias, name):
    assert CovarianceName.parse(alias) == CovarianceName(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cubic", r"unknown covariance 'cubic'; choose one of beta, .*, auto"),
        ("pixel|", "names no statistic"),
        ("pixel|cubic", "unknown statistic 'cubic'"),
        ("npr|pixel", "a head is 'npr' or 'npr|uncalibrated'"),
        ("beta|energy", "unknown covariance 'beta|energy'"),
        ("", "unknown covariance ''"),
    ],
)
def test_unknown_covariances_are_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        CovarianceName.parse(text)


def test_each_covariance_is_named_once():
    assert covariance_names(("isotropic", "", "residual", "beta")) == (CovarianceName("residual"), CovarianceName("beta"))


@pytest.mark.parametrize("text", ["dp", "klub", "refined", "closed_form", "entropic", "even", "karras_tuned", "a/b/grid.json"])
def test_grids_print_what_was_parsed(text):
    name = GridName.parse(text)
    assert str(name) == text
    assert GridName.parse(name) is name
    assert "/" not in name.label
    assert name.optimised == (text in ("dp", "karras_tuned"))
    assert name.fixed == (text == "even")


@pytest.mark.parametrize("text", ["cubic", "klub_tuned", "refined_tuned", "", "grid.txt"])
def test_unknown_grids_are_refused(text):
    with pytest.raises(ValueError, match=r"unknown grid .*; choose one of dp, klub, closed_form"):
        GridName.parse(text)


def test_a_chain_keeps_the_slashes_of_its_grid():
    name = ChainName("a/b/grid.json", "pca|energy", 10)
    grid, covariance, steps = name
    assert (grid, covariance, steps) == ("a/b/grid.json", "pca|energy", 10)
    assert str(name) == "a/b/grid.json/pca|energy/10"
    assert ChainName.parse(str(name)) == name


def test_settings_that_do_not_fit_are_named():
    table = {"circle": lambda radius: radius}
    assert construct(table, {"name": "circle", "radius": 2}, "shape") == 2
    with pytest.raises(ValueError, match="unknown shape 'square'; choose one of circle"):
        construct(table, {"name": "square"}, "shape")
    with pytest.raises(ValueError, match="'circle' does not take these settings: missing a required argument: 'radius'"):
        construct(table, {"name": "circle"}, "shape")
    with pytest.raises(ValueError, match="'circle' does not take these settings: got an unexpected keyword argument 'side'"):
        construct(table, {"name": "circle", "radius": 2, "side": 1}, "shape")
