"""Optional packages: named where they are absent, and not imported before they are used."""

import subprocess
import sys

import pytest

from score_sde_analytic.extras import optional


def test_a_module_that_is_there_is_given():
    assert optional("json.decoder", extra="ode", user="the test") is sys.modules["json.decoder"]


@pytest.mark.parametrize(("package", "named"), [("", "no_such_package"), ("no-such", "no-such")])
def test_one_that_is_not_is_named_with_its_extra(package, named):
    match = rf"^the flow needs {named} \(No module named 'no_such_package'\): pip install 'score_sde_analytic\[ode\]'$"
    with pytest.raises(ImportError, match=match):
        optional("no_such_package.part", extra="ode", user="the flow", package=package)


def test_what_it_lacks_itself_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"needs broken_package \(No module named 'what_it_needs'\)"):
        optional("broken_package", extra="ode", user="the flow")


def test_the_package_imports_no_more_than_it_needs():
    heavy = (
        "diffusers",
        "jinja2",
        "matplotlib",
        "numba",
        "scipy.interpolate",
        "scipy.optimize",
        "scipy.special",
        "scipy.stats",
        "sklearn",
        "torchdiffeq",
        "torchsde",
        "torchvision",
    )
    command = f"import sys, score_sde_analytic; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
