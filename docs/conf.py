"""The site: `make docs` builds it into build/site, strictly and without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

project = "score_sde_analytic"
html_title = project
html_theme = "furo"
extensions = ["sphinx.ext.autodoc", "myst_nb", "sphinx_copybutton", "docstrings", "mathml", "rooms"]
exclude_patterns = ["_ext", "_static", "_contents"]

# Pages
myst_enable_extensions = ["dollarmath", "fieldlist", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = "off"  # notebooks are kept with their outputs: `make notebooks`
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Looks: system fonts, no script from elsewhere
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "friendly", "github-dark"

# Names
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Array", "Data", "Scalars", "NDArray")}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!score_sde_analytic\.).*")]  # what others document

suppress_warnings = ["myst.header"]  # records may begin with a small heading

#: Files of the repository that have a page of the site.
BESIDE = {
    "../README.md": "start.md",
    "../CONTRIBUTING.md": "reference/contributing.rst",
    "../CHANGELOG.md": "reference/changelog.rst",
}


def _read(app: Any, name: str, source: list[str]) -> None:
    """Links that lead out of docs/ lead to the pages that stand for their files; `_contents` say what lies below a page."""
    for file, page in BESIDE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")
    below = DOCS / "_contents" / f"{name}.txt"
    if below.is_file():
        text = below.read_text(encoding="utf-8")
        others = (page.stem for page in sorted((DOCS / name).parent.glob("*.md")) if f"<{page.stem}>" not in text)
        source[0] += "\n" + text.replace("\n*\n", "\n" + "\n".join(each for each in others if each != "index") + "\n")


def setup(app: Any) -> None:
    app.connect("source-read", _read)
