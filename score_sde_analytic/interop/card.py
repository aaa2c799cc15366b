"""The model card of a measured pipeline: how it is loaded, what few calls cost, and the report's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde_analytic.files import read_plain_json, write_text
from score_sde_analytic.interop.pipelines import Fitted
from score_sde_analytic.interop.swapping import stock
from score_sde_analytic.report.study_content import GRIDS, LABELS
from score_sde_analytic.report.tables import error_bar, markdown
from score_sde_analytic.study.names import ChainName

RESTORE = "write the report again"
#: Pictures of a report, in order, with what they show; {} is the number of calls.
PICTURES = {
    "bits_per_dim.png": "bits/dim against network calls",
    "curve.png": "the curve that was measured: R at every log-SNR",
    "variances.png": "standard deviation of what each step adds",
}
HEADER = """---
library_name: diffusers
tags:
- score_sde_analytic
---

# {pipeline}, measured for few steps

It loads as any pipeline of diffusers; with `score_sde_analytic` installed its steps have the KL-optimal times and variances of
this network:

```python
from score_sde_analytic.interop import load_pipeline

pipe = load_pipeline("FOLDER_OR_NAME")
pipe(num_inference_steps={steps})
```

Without it, `DiffusionPipeline.from_pretrained` gives the same network with `{scheduler}`.
"""


def write(path: Path, fitted: Fitted, pipeline: str, report: Path) -> Path:
    """Write the card of a report that lies beside it."""
    told = read_plain_json(report / "study_report.json", "report", dict, RESTORE)
    write_text(path, text(fitted, pipeline, told, sorted((picture.name for picture in report.glob("*.png")), key=_natural)))
    return path


def text(fitted: Fitted, pipeline: str, told: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The card in markdown.

    Args:
        told: the report's content.
        pictures: names of its files.
    """
    space = fitted.study.space
    named = type(stock(fitted.scheduler)).__name__
    sections = [
        HEADER.format(pipeline=pipeline, steps=fitted.steps[0], scheduler=named),
        f"## Bits/dim{f' of {space}' if space else ''}\n\n{_bits(told)}\n\n{_within(told)}",
        f"## Where the network is called\n\n{_times(told)}",
        _pictures(pictures),
        _remarks(told),
        _provenance(told),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _bits(told: Mapping[str, Any]) -> str:
    """A row for every chain of the report, a column for every number of calls."""
    cells = {ChainName.parse(name): cell for name, cell in told["cells"].items()}
    pairs = dict.fromkeys((name.grid, name.covariance) for name in cells)
    rows = []
    for kind in ("predicted", "measured"):
        for grid, covariance in pairs:
            values = [cells[ChainName(grid, covariance, steps)].get(kind) for steps in told["steps"]]
            if any(values):
                rows.append(
                    [
                        GRIDS.get(grid, grid),
                        LABELS.get(covariance, covariance),
                        kind,
                        *(error_bar(value and value["total"]) for value in values),
                    ]
                )
    return markdown(["times", "variance", "", *(f"K = {steps}" for steps in told["steps"])], rows)


def _within(told: Mapping[str, Any]) -> str:
    limit = error_bar(told["limit"]["total"])
    needed = ", ".join(f"{row['steps']} calls to within {row['excess']:g}" for row in told["within"])
    return f"Infinitely many calls: {limit}. The optimal times need {needed}."


def _times(told: Mapping[str, Any]) -> str:
    rows = []
    for steps, grid in told["grids"].items():
        fed = grid["labels"] or grid["log_snr"]
        rows.append([steps, ", ".join(f"{value:.5g}" for value in fed)])
    return markdown(["K", "what the network is fed for its time"], rows)


def _pictures(names: Sequence[str]) -> str:
    order = [*(name for name in PICTURES if name in names), *(name for name in names if name not in PICTURES)]
    shown = {name: PICTURES.get(name) or _of_sheet(name) for name in order}
    lines = [f"![{what}](report/{name})\n{what}" for name, what in shown.items()]
    return "## Pictures\n\n" + "\n\n".join(lines)


def _natural(name: str) -> tuple[int, str]:
    """In the order of the numbers in names."""
    return int("".join(filter(str.isdigit, name)) or 0), name


def _of_sheet(name: str) -> str:
    kind, _, steps = name.removesuffix(".png").partition("_K")
    kinds = {"samples": "samples of {} calls", "fewest": "samples of {} calls by the table of the fewest"}
    return kinds.get(kind, "examples of the data").format(steps)


def _remarks(told: Mapping[str, Any]) -> str:
    return "## Remarks\n\n" + "\n".join(f"- {remark}" for remark in told["remarks"]) if told["remarks"] else ""


def _provenance(told: Mapping[str, Any]) -> str:
    made = told["provenance"]
    rows = [
        ["data", f"{made['data']['examples']} examples, digest {made['data']['digest']}"],
        ["noise levels", made["knots"]],
        ["draws", made["draws"]],
        ["network evaluations", made["evaluations"]],
        ["versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())],
    ]
    return "## Provenance\n\n" + markdown(["", ""], rows) + "\n\nThe whole report: [report/report.html](report/report.html)."
