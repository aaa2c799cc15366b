"""The site: built strictly, every link and anchor of it leads somewhere, nothing is fetched; no page is left out."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: What the extra `docs` brings, by the names that are imported.
TOOLS = ("sphinx", "furo", "myst_nb", "sphinx_copybutton", "latex2mathml")
BROKEN = """<script src="https://elsewhere.org/a.js"></script><img src="absent.png"><h1 id="here"></h1>
<a href="other.html#there"></a><a href="other.html#away"></a><a href="absent.html"></a><a href="#here"></a>
<a href="https://elsewhere.org/page"></a><a href="https://no address"></a>"""


def check():
    """docs/check.py as a module."""
    spec = importlib.util.spec_from_file_location("check_of_site", DOCS / "check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_is_wrong_with_a_site_is_told(tmp_path):
    (tmp_path / "index.html").write_text(BROKEN)
    (tmp_path / "other.html").write_text('<p id="there"></p>')
    (tmp_path / "style.css").write_text("@import 'https://elsewhere.org/style.css';")
    assert list(check().problems(tmp_path)) == [
        "index.html: absent.html leads nowhere",
        "index.html: absent.png leads nowhere",
        "index.html: https://no address is no address",
        "index.html: other.html#away leads to no such place in its page",
        "index.html: https://elsewhere.org/a.js is fetched from elsewhere",
        "style.css fetches from elsewhere",
    ]


def test_every_page_has_its_place():
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)}
    placed = set()
    for file in (DOCS / "_contents").rglob("*.txt"):
        folder = file.parent.relative_to(DOCS / "_contents")
        names = re.findall(r"^(?:[^:`\n][^<\n]*<)?([\w/]+|\*)>?$", file.read_text(), re.M)
        placed |= {(folder / name).as_posix() for name in names if name != "*"}
        placed |= {page for page in pages if "*" in names and Path(page).parent == folder}
    assert pages - placed == {"index"}
    assert all(name.startswith("reference/") for name in placed - pages)


@pytest.mark.slow
def test_the_site_is_whole(tmp_path):
    for tool in TOOLS:
        pytest.importorskip(tool, reason=f"the site needs {tool}: pip install '.[docs]', or make docs")
    site, kept = tmp_path / "site", tmp_path / "kept"
    # Proxies that are not there: whatever wants to fetch something fails.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    build = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-b", "html", "-d", kept, DOCS, site]
    ended = subprocess.run(list(map(str, build)), env=os.environ | offline, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not list(check().problems(site))
    text = (site / "reference" / "grids.html").read_text()
    assert 'id="score_sde_analytic.grids.karras"' in text
    examples = [sys.executable, "-m", "doctest", "docstrings.py", "rooms.py"]
    beside = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(examples, cwd=DOCS / "_ext", env=beside, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
