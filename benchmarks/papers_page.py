"""The page of `papers.py`, from its JSON files: tables in the papers' layout, and sentences that follow from their numbers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.papers_cases import CASES, TABLE
from benchmarks.papers_rows import ANALYTIC, ANALYTIC_DDIM, BETA, BETA_TILDE, DDIM, EVEN, FEW, ONE, OPTIMAL, OURS, STEPS, TABLES
from score_sde_analytic.files import read_json
from score_sde_analytic.report.tables import error_bar, markdown

KIND = "figures of the papers' tables"
#: Standard errors beyond which a mean over examples differs.
BEYOND = 2.0
FAMILIES = {
    EVEN: "even trajectory",
    OPTIMAL: "optimal trajectory from 1/1000",
    OURS: "ours: optimal times n/1000, first time and decoder",
}
OF_SAMPLES = FAMILIES | {OURS: "ours: optimal times n/1000; tables"}

HEAD = """# The tables of the papers, on data at hand

    python -m benchmarks.papers --data NAME
    python -m benchmarks.papers --page

The first measures a data set into a JSON file beside this page, the second writes it from these files alone: no figure is
typed, and the sentences follow from the figures.

"""
READING = """## How to read

The layout is that of Bao et al., *Analytic-DPM* (ICLR 2022), tables 1 and 2: bits/dim and Frechet distances at K = 10 to 1000
steps. Variances and trajectories are those of the published code: whole indices n of N = 1000, even or optimal, t_1 = 1/1000,
the decoder of the step from the second index to the first, the last noise of Analytic-DDPM confined to two grey levels (one, of
Analytic-DDIM). E||eps||² is measured on validation images, and predicted x_0 are confined to the range of the data, which the
published code does not do. "Optimal" is by the objective of Analytic-DPM, and for beta by the bound itself (Watson et al.,
2021); "best decoder" keeps the path and replaces the decoder by the best Gaussian, "one variance" is Analytic-DDPM's with the
network's own residual E||eps - eps_hat||² in place of E||eps_hat||², in the variance and in the objective. SN-, NPR- and
OCM-DDPM (Bao et al., ICML 2022; Ou et al., ICLR 2025) are heads trained on the network, as in [heads.md](heads.md): 1,500 steps
of 64 training images, 32 for emoji; for networks of others, of images that these did not see.

Ours take the same times n/1000, but choose the first of them and the decoder with the others, which leaves no choice with 1000
steps; variances are one for all or diagonal in a basis, from the network's own residual. "Gaussian prior" begins from a
Gaussian of the training data instead of noise. "Table of the flow" is `study.fewest(K)`, which has no likelihood.

Errors are standard errors: of bits over test images, of distances the jackknife's over samples and reference. All cells of a
data set share images, noise and reference, so differences are far better known than cells: they are paired. **Bold** is the
least of a column."""


#: Of metrics.
TITLES = {"Frechet": "Frechet distance", "KID": "kernel distance, KID"}


class Cell(NamedTuple):
    """Of one number of steps: a value, and what it is above others, each with its error and perhaps an interval."""

    value: list[float]
    above: Mapping[str, list[float] | None]
    paired: list[float] | None
    ours: list[float] | None


@dataclass(frozen=True)
class Sheet:
    """One kind of figures of one data set.

    Attributes:
        rows: by "family: name", by number of steps.
    """

    rows: Mapping[str, Mapping[int, Cell]]

    @classmethod
    def of(cls, content: Mapping[str, Any], metric: str = "") -> Sheet:
        chosen = {key: {int(k): cell[metric] if metric else cell for k, cell in row.items()} for key, row in content.items()}
        return cls({key: {k: Cell(**cell) for k, cell in sorted(row.items())} for key, row in chosen.items()})

    @property
    def reference(self) -> str:
        """The better of DDPM's variances at all steps."""
        keys = [key for key in (f"{EVEN}: {BETA_TILDE}", f"{EVEN}: {BETA}") if TABLE in self.rows.get(key, {})]
        return min(keys, key=lambda key: self.rows[key][TABLE].value[0], default="")

    def enough(self, key: str, told: bool = False) -> int | None:
        """The fewest steps with which a row is no worse than the reference; with `told`, than can be told from it."""
        for steps, cell in self.rows.get(key, {}).items():
            above = cell.above.get(self.reference)
            if above is not None and (low(above) if told else above[0]) <= 0.0:
                return steps
        return None

    @property
    def paired(self) -> list[int]:
        """The papers' numbers of steps at which there is something to be compared."""
        return [k for k in STEPS if any(k in row and row[k].paired is not None for row in self.rows.values())]

    def columns(self, wanted: Iterable[int]) -> list[int]:
        return [k for k in wanted if any(k in row for row in self.rows.values())]

    def family(self, name: str) -> dict[str, Mapping[int, Cell]]:
        """Its rows, by name."""
        return {key.split(": ", 1)[1]: row for key, row in self.rows.items() if key.startswith(f"{name}: ")}

    def table(self, wanted: Iterable[int], titles: Mapping[str, str], cell: Callable[[Cell], str]) -> str:
        columns = self.columns(wanted)
        least = {k: min((row[k].value[0] for row in self.rows.values() if k in row), default=math.nan) for k in columns}

        def shown(row: Mapping[int, Cell], k: int) -> str:
            text = cell(row[k]) if k in row else "-"
            return f"**{text}**" if text != "-" and row[k].value[0] == least[k] else text

        lines = []
        for family, title in titles.items():
            own = {name: row for name, row in self.family(family).items() if any(k in row for k in columns)}
            if own:
                lines.append([f"*{title}*", *[""] * len(columns)])
            lines += [[name, *(shown(row, k) for k in columns)] for name, row in own.items()]
        return markdown(["", *(f"K = {k}" for k in columns)], lines)

    def losses(self, wanted: Iterable[int]) -> dict[str, list[int]]:
        """Rows of others that are below our best at as many steps, beyond the error of the difference."""
        found: dict[str, list[int]] = {}
        for key, row in self.rows.items():
            steps = [k for k in wanted if k in row and row[k].ours is not None and high(row[k].ours) < 0.0]
            if steps and not key.startswith(OURS):
                found[key] = steps
        return found


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph."""
    return textwrap.fill(text, 128, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def low(above: list[float] | None) -> float:
    """The least that a difference may be."""
    return math.inf if above is None else above[2] if len(above) > 2 else above[0] - BEYOND * above[1]


def high(above: list[float] | None) -> float:
    """The most that it may be."""
    return math.inf if above is None else above[3] if len(above) > 2 else above[0] + BEYOND * above[1]


def bar(value: list[float] | None, sign: str = "") -> str:
    return "-" if value is None else error_bar({"value": value[0], "stderr": value[1]}, sign)


def command(name: str) -> str:
    """That measures a data set."""
    places = "" if CASES[name].shipped else " --weights FOLDER --images FOLDER"
    return f"    python -m benchmarks.papers --data {name}{places}"


@dataclass(frozen=True)
class Section:
    """A data set."""

    name: str
    content: Mapping[str, Any]

    @property
    def title(self) -> str:
        return CASES[self.name].title

    @property
    def bits(self) -> Sheet | None:
        return Sheet.of(self.content["bits"]) if self.content.get("bits") else None

    @property
    def metrics(self) -> list[str]:
        """The one that decides first."""
        cells = [cell for row in self.content.get("samples", {}).values() for cell in row.values()]
        return sorted(cells[0], key=lambda name: name != CASES[self.name].decides) if cells else []

    def samples(self, metric: str = "") -> Sheet | None:
        """By a metric; the first where none is named."""
        names = self.metrics
        return Sheet.of(self.content["samples"], metric or names[0]) if names else None

    def text(self) -> str:
        return "\n\n".join(self._parts())

    def _loud(self) -> str:
        """What became of the published variance where a network's noise is too large."""
        if self.content.get("loud") is None:
            return ""
        return (
            f" Its E||eps||² / d is above 1 up to log-SNR {self.content['loud']:.1f}, as that of no exact score is: by the"
            " published formula nothing is left to be known there, so that its variance is beta-tilde and its optimal path"
            " steps over these levels."
        )

    def _parts(self) -> Iterator[str]:
        content = self.content
        yield f"## {self.title}"
        yield command(self.name)
        shape = "x".join(map(str, content["shape"]))
        costs = f"Images are {shape}; the pass took {content['evaluations']:,} network evaluations."
        yield wrapped(f"{CASES[self.name].about} {costs}{self._loud()}")
        if self.bits is not None:
            yield f"### Bits/dim of {content['examples']} test images"
            yield self.bits.table(STEPS, FAMILIES, lambda cell: bar(cell.value))
            yield "Above Analytic-DDPM on the even trajectory at as many steps, paired:"
            yield self.bits.table(self.bits.paired, FAMILIES, lambda cell: bar(cell.paired, "+"))
        for i, metric in enumerate(self.metrics):
            sheet = self.samples(metric)
            assert sheet is not None
            yield f"### {content['count']} samples: {TITLES[metric]}"
            yield sheet.table(sorted({*FEW, *STEPS}), OF_SAMPLES, lambda cell: bar(cell.value))
            if not i:
                yield "Above Analytic-DDPM at as many steps, paired:"
                yield sheet.table(sheet.paired, OF_SAMPLES, lambda cell: bar(cell.paired, "+"))


#: Columns of the summaries: what they are called, and which rows they may take.
BITS_COLUMNS = {
    "Analytic-DDPM, even": [f"{EVEN}: {ANALYTIC}"],
    "Analytic-DDPM, optimal": [f"{OPTIMAL}: {ANALYTIC}"],
    "the same, best decoder": [f"{OPTIMAL}: {ANALYTIC}, best decoder"],
    "one variance, optimal": [f"{OPTIMAL}: {ONE}"],
    "ours, one variance": [f"{OURS}: {ONE}"],
    "ours, best": [],
}
SAMPLES_COLUMNS = {
    "Analytic-DDPM": [f"{EVEN}: {ANALYTIC}"],
    "DDIM": [f"{EVEN}: {DDIM}"],
    "Analytic-DDIM": [f"{EVEN}: {ANALYTIC_DDIM}"],
    "ours, a chain": [],
    "ours, a table": [f"{OURS}: {TABLES}"],
}


def keys_of(sheet: Sheet, column: str, named: list[str]) -> list[str]:
    """The rows of a column of a summary."""
    own = [key for key in sheet.rows if key.startswith(OURS) and (column != "ours, a chain" or not key.endswith(TABLES))]
    return [key for key in named if key in sheet.rows] if named else own


def fewest(sheet: Sheet, keys: Iterable[str], told: bool = False) -> int | None:
    """Of several rows."""
    return min((steps for key in keys if (steps := sheet.enough(key, told)) is not None), default=None)


def times(steps: int) -> str:
    """How many times fewer than all."""
    many = TABLE / steps
    return f"{many:.0f}" if many >= 10.0 else f"{many:.2g}"


def times_fewer(steps: int | None) -> str:
    return "never" if steps is None else f"{steps} ({times(steps)}x)"


def summary(sheets: Mapping[str, Sheet], columns: Mapping[str, list[str]], told: bool) -> str:
    lines = []
    for title, sheet in sheets.items():
        if not sheet.reference:
            continue
        cells = [_enough(sheet, keys_of(sheet, column, named), told) for column, named in columns.items()]
        best = f"{bar(sheet.rows[sheet.reference][TABLE].value)} ({sheet.reference.split(', ')[1]})"
        lines.append([title, best, *cells])
    return markdown(["", f"DDPM, K = {TABLE}", *columns], lines)


def _enough(sheet: Sheet, keys: list[str], told: bool) -> str:
    if not keys:
        return "-"
    steps = times_fewer(fewest(sheet, keys))
    return f"{steps}; {times_fewer(fewest(sheet, keys, told=True))}" if told else steps


def reached(sheets: Mapping[str, Sheet], columns: Mapping[str, list[str]], column: str, told: bool = False) -> str:
    """In how many steps a column of a summary is no worse than DDPM, over all data sets that have it; `told` as `enough`."""
    asked = [(sheet, keys_of(sheet, column, columns[column])) for sheet in sheets.values() if sheet.reference]
    known = [fewest(sheet, keys, told) for sheet, keys in asked if keys]
    some = sorted(steps for steps in known if steps is not None)
    if not some:
        return "in no number of steps that was measured"
    ends = list(dict.fromkeys((some[0], some[-1])))
    factors = list(dict.fromkeys((times(some[-1]), times(some[0]))))
    text = f"in {' to '.join(map(str, ends))} step{'' if ends == [1] else 's'} ({' to '.join(factors)} times fewer"
    lacking = len(known) - len(some)
    return f"{text}, on {lacking} of {len(known)} data sets never)" if lacking else f"{text})"


def said_of_bits(sheets: Mapping[str, Sheet]) -> str:
    own = {column: reached(sheets, BITS_COLUMNS, column) for column in BITS_COLUMNS}
    return (
        f"- **Bits.** The bits/dim of DDPM with all {TABLE} steps, the better of its two variances, are reached by"
        f" Analytic-DDPM {own['Analytic-DDPM, even']} of the even trajectory and {own['Analytic-DDPM, optimal']} of the optimal"
        f" one; by ours with one variance {own['ours, one variance']}, with the best of our rows {own['ours, best']}. With the"
        f" decoder alone replaced the published path gets there {own['the same, best decoder']}, and the path from 1/{TABLE}"
        f" that is optimal for the network's own residual {own['one variance, optimal']}: what is beyond that is the choice of"
        " the first time, of the basis and of the prior."
    )


def said_of_samples(sheets: Mapping[str, Sheet]) -> str:
    def of(column: str) -> str:
        no_worse, like = (reached(sheets, SAMPLES_COLUMNS, column, told) for told in (False, True))
        return no_worse if no_worse == like else f"{no_worse}, one that cannot be told from it {like}"

    return (
        f"- **Samples.** A distance from images no higher than that of DDPM with all {TABLE} steps is reached by Analytic-DDPM"
        f" {of('Analytic-DDPM')} (the abstract has 20 to 80 times); by DDIM {of('DDIM')}; by our chains {of('ours, a chain')};"
        f" by our tables {of('ours, a table')}."
    )


def said_of_losses(bits: Mapping[str, Sheet], samples: Mapping[str, Sheet]) -> str:
    lost = [*_lost(bits, "bits/dim", STEPS), *_lost(samples, "samples", sorted({*FEW, *STEPS}))]
    if not lost:
        return f"- **Where ours loses.** At equal steps {NOWHERE}."
    told = "by more than the paired error, the best of ours at as many steps"
    return f"- **Where ours loses** to a published row, {told}: {'; '.join(lost)}."


NOWHERE = "nowhere by more than the paired error, which of so few samples is large"


def _lost(sheets: Mapping[str, Sheet], what: str, wanted: Iterable[int]) -> Iterator[str]:
    steps = list(wanted)
    for title, sheet in sheets.items():
        for key, where in sheet.losses(steps).items():
            family, name = key.split(": ", 1)
            yield f"{title.split(',')[0]}, {what}: {name} ({family}) at K = {', '.join(map(str, where))}"


def page(folder: Path) -> str:
    """All of it."""
    files = {name: folder / f"papers_{name}.json" for name in CASES}
    sections = [Section(name, read_json(file, KIND)) for name, file in files.items() if file.exists()]
    bits = {section.title: sheet for section in sections if (sheet := section.bits) is not None}
    samples = {section.title: sheet for section in sections if (sheet := section.samples()) is not None}
    parts = [HEAD.rstrip()]
    said = said_of_bits(bits), said_of_samples(samples), said_of_losses(bits, samples)
    parts.append("\n".join(wrapped(one, "  ") for one in said))
    parts.append("## Steps for equal bits, calls for equal samples")
    parts.append(STEPS_FOR_BITS + "\n\n" + summary(bits, BITS_COLUMNS, told=False))
    parts.append(CALLS_FOR_SAMPLES + "\n\n" + summary(samples, SAMPLES_COLUMNS, told=True))
    parts += [READING, *(section.text() for section in sections)]
    if not files["cifar10"].exists():
        parts.append(f"## CIFAR-10, for those who have the weights\n\n{command('cifar10')}\n\n{CIFAR10}")
    return "\n\n".join(parts) + "\n"


CIFAR10 = """The weights are a folder as diffusers writes it, such as google/ddpm-cifar10-32; the images the data set's own
folder, for Python or for C, of which the file of test images is read, or a folder of pictures. The network and its schedule are
fed and read as the folder says ([cifar10.py](../../configs/cifar10.py)). Its tables then stand here."""
STEPS_FOR_BITS = """The fewest steps, of those measured, whose bits/dim are no higher than those of DDPM with 1000 steps, and
how many times fewer these are. The first column has the better of DDPM's two variances; "ours, best" is the row of ours that
needs the fewest, as these figures have it."""
CALLS_FOR_SAMPLES = """The fewest network calls whose distance from images is no higher than that of DDPM with 1000 steps;
after the semicolon, those from which on it cannot be told from it (95 % interval of the paired difference). It is the Frechet
distance in a classifier's features, and KID of cosines where there is no classifier. Published rows and chains were measured
at K = 2, 3, 5, 10, 25, .., tables at K = 1, 2, 3, 5, 10; so few samples tell large differences alone."""
