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


OPTIONAL = ("absl", "contourpy", "diffusers", "jinja2", "matplotlib", "ml_collections", "numba", "sklearn", "transformers")
ABSENT = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without(code):
    """What a process prints, and its errors, in which nothing optional is installed."""
    done = subprocess.run([sys.executable, "-c", ABSENT + code], capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


def test_every_room_is_there_without_what_is_optional():
    printed, errors = without(
        "from importlib import import_module\n"
        "from score_sde_analytic import ROOMS\n"
        "print([import_module(f'score_sde_analytic.{room}').__name__.rpartition('.')[2] for room in ROOMS] == list(ROOMS))"
    )
    assert (printed.strip(), errors) == ("True", "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import score_sde_analytic.runners.main",
            "error: the command line needs absl: pip install 'score_sde_analytic[run",
        ),
        ("from score_sde_analytic.report import drawing; drawing('figures', 'x')", "install 'score_sde_analytic[report]'"),
        ("from score_sde_analytic.interop import AnalyticDPMScheduler", "install 'score_sde_analytic[images]'"),
    ],
)
def test_what_is_absent_is_named_with_its_extra(code, said):
    assert said in without(code)[1]
