"""The documents: their code runs, their links lead somewhere, their commands can be typed, and the README stays short."""

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from score_sde_analytic.runners import main
from torch import Tensor, nn

import score_sde_analytic
from score_sde_analytic import ROOMS, DataRange, Tabulated
from score_sde_analytic.interop import pipelines
from score_sde_analytic.study import CovarianceName, GridName

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "score_sde_analytic"
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
RECORDS = sorted((DOCS / "results").glob("*.md"))
COMMAND = re.compile(r"\s*(\S*python (?:-m runners\.main|-m benchmarks\.|benchmarks/)|score-sde-analytic )")
#: Value of the test images' pixels: one of 256 levels in [-1, 1].
LEVEL = 77 / 255


class Coins(nn.Module):
    """Exact eps of independent pixels +-LEVEL: x0_hat = LEVEL tanh(LEVEL alpha x / sigma^2); fed the index of DDPM's table."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Tabulated.linear()

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        level = self.schedule.level((float(index[0]) + 1.0) / 1000.0)
        x_0 = LEVEL * torch.tanh(x * (LEVEL * level.alpha / level.sigma**2))
        return (x - level.alpha * x_0) / level.sigma


def coins(count: int, seed: int) -> Tensor:
    """Grey images of 2 x 2 pixels, all of the same energy, so that few draws are precise enough."""
    signs = torch.randint(0, 2, (count, 1, 2, 2), generator=torch.Generator().manual_seed(seed))
    return LEVEL * (2.0 * signs - 1.0)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the code of README and guide expects to be there; it writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    pillow = pytest.importorskip("PIL.Image")
    for i, x in enumerate(DataRange(levels=256).index(coins(120, 2)).byte().numpy()):
        (tmp_path / "photographs" / f"person{i % 12}").mkdir(parents=True, exist_ok=True)
        pillow.fromarray(x[0]).save(tmp_path / "photographs" / f"person{i % 12}" / f"{i}.png")
    return {"net": Coins(), "validation_set": coins(200, 0), "test_set": coins(20, 1)}


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """(line of the fence, text) of each Python block of a page."""
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        yield text.count("\n", 0, match.start()) + 1, match[1]


def run(page: Path, line: int, code: str, names: dict[str, object]) -> None:
    """Run a block, so that an error names its place in the page."""
    names["__name__"] = page.stem
    exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), names)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page that begins a line; quotes and backslashes carry it over several."""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if not COMMAND.match(line):
            continue
        while True:
            try:
                yield shlex.split(line.replace("\\\n", " "), comments=True)
                break
            except ValueError:  # a quotation, or an escape, goes on
                line += "\n" + next(lines)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["without the report", "whole"])
def test_first_block_of_the_readme(
    whole: bool, names: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, code = next(blocks(README))
    lines = code.splitlines(keepends=True)
    assert len(lines) <= 8
    run(README, line, "".join(each for each in lines if whole or ".report(" not in each), names)
    assert names["samples"].shape == (64, 1, 2, 2)
    assert capsys.readouterr().out.count("bits/dim") == 4
    assert (tmp_path / "study").is_dir()
    assert (tmp_path / "report" / "report.html").is_file() == whole


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 900


def test_guide(names: dict[str, object]) -> None:
    for line, code in blocks(DOCS / "guide.md"):
        run(DOCS / "guide.md", line, code, names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [DOCS / "start.md", *sorted((DOCS / "how").glob("*.md"))], ids=lambda page: page.stem)
def test_pages_that_take_the_study_of_the_guide(page: Path, names: dict[str, object]) -> None:
    line, code = next(blocks(DOCS / "guide.md"))
    run(DOCS / "guide.md", line, code, names)
    for line, code in blocks(page):
        run(page, line, code, names)


@pytest.mark.slow
def test_coding(names: dict[str, object]) -> None:
    for line, code in blocks(DOCS / "coding.md"):
        run(DOCS / "coding.md", line, code, names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of passes of a few draws
def test_guidance() -> None:
    names: dict[str, object] = {}
    for line, code in blocks(DOCS / "guidance.md"):
        run(DOCS / "guidance.md", line, code, names)
    assert names["moved"].shape == names["edited"].shape == (4, 1)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_own_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for line, code in blocks(DOCS / "extend.md"):
        run(DOCS / "extend.md", line, code, names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of networks that know nothing
def test_pipelines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On tiny random networks, by passes of a few draws."""
    pytest.importorskip("transformers")
    tiny_pipelines = pytest.importorskip("tiny_pipelines", reason="pipelines are those of diffusers", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipelines, "analyse", partial(pipelines.analyse, budget=tiny_pipelines.QUICK["budget"]))
    tiny_pipelines.unconditional().save_pretrained("ddpm")
    tiny_pipelines.with_classes().save_pretrained("dit")
    tiny_pipelines.stable_diffusion(tmp_path / "words").save_pretrained("sd")
    tiny_pipelines.stable_diffusion_3(tmp_path / "words").save_pretrained("sd3")
    coloured = tiny_pipelines.pictures(channels=3, side=8)
    names: dict[str, object] = {
        "pictures": tiny_pipelines.pictures(),
        "labelled": [{"image": x, "label": i % 5} for i, x in enumerate(coloured)],
        "captioned": [{"image": x, "text": ("low", "l o")[i % 2]} for i, x in enumerate(coloured)],
    }
    for line, code in blocks(DOCS / "diffusers.md"):
        run(DOCS / "diffusers.md", line, code, names)
    assert type(names["pipe"].scheduler).__name__ == "AnalyticDPMScheduler"  # type: ignore[attr-defined]
    assert (tmp_path / "measured" / "README.md").is_file()


def test_examples_of_names() -> None:
    runner = doctest.DocTestRunner()
    names: dict[str, object] = {}
    for line, code in blocks(DOCS / "api.md"):
        example = doctest.DocTestParser().get_doctest(code, names, "api.md", str(DOCS / "api.md"), line)
        runner.run(example, clear_globs=False)
        names = example.globs
    assert runner.tries > 20
    assert runner.failures == 0


def test_variational(example_names: dict[str, object]) -> None:
    runner = doctest.DocTestRunner()
    for line, code in blocks(DOCS / "vdm.md"):
        runner.run(doctest.DocTestParser().get_doctest(code, dict(example_names), "vdm.md", str(DOCS / "vdm.md"), line))
    assert runner.tries > 8
    assert runner.failures == 0


def test_every_name_is_listed_in_its_room() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", (DOCS / "api.md").read_text(), re.M | re.S))
    rooms = [room for room in ROOMS if (PACKAGE / room / "__init__.py").is_file()]
    public = {room: getattr(importlib.import_module(f"score_sde_analytic.{room}"), "__all__", ()) for room in rooms}
    public["score_sde_analytic"] = score_sde_analytic.__all__
    listed = {room: set(re.findall(r"`(\w+)`", section)) for room, section in sections.items()}
    missing = {room: sorted({*names} - listed.get(room, set())) for room, names in public.items()}
    assert not any(missing.values()), missing


@pytest.mark.parametrize("page", RECORDS, ids=lambda page: page.stem)
def test_imports_of_records(page: Path) -> None:
    """The code of records needs networks and data; what it imports must be there."""
    for line, code in blocks(page):
        for statement in ast.parse(code).body:
            if isinstance(statement, ast.ImportFrom):
                run(page, line, ast.unparse(statement), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    absent = [target for target in targets if not (page.parent / target).exists()]
    mentioned = re.findall(r"\b(?:tests|configs|benchmarks|runners|score_sde_analytic)/[\w/]+\.py\b", page.read_text())
    absent += [path for path in mentioned if not (ROOT / path).is_file()]
    assert not absent


def test_every_page_is_in_the_index() -> None:
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)\s]+\.md)\)", (DOCS / "index.md").read_text())}
    assert {page for page in PAGES if page.resolve() not in linked} == {DOCS / "index.md"}


def benchmark(command: list[str]) -> Path | None:
    """The file of the benchmark that a command runs."""
    for word in command:
        if word.startswith("benchmarks/"):
            return ROOT / word
        if word.startswith("benchmarks."):
            module = ROOT / word.replace(".", "/")
            return module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags exist and take these values; names of covariances and grids are known."""
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        script = benchmark(command)
        flags = [word for word in command if word.startswith("--")]
        if script is not None:
            source = script.read_text()
            assert all(f'"{flag.partition("=")[0]}"' in source for flag in flags), command
            continue
        config = main.parse(["score-sde-analytic", *flags]).config
        for name in (config.covariance.name, *config.evaluate.variances, *config.sample.variances):
            CovarianceName.parse(name)
        for name in (*config.evaluate.grids, *config.evaluate.predicted_grids, *config.compare.grids, *config.sample.grids):
            GridName.parse(name)
