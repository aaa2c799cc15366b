"""Several processes: the same results as one, in every process, whatever fails.

Threads stand for processes here: each finds its own number, and `exchanged` waits for all of them, as the real one does.
`test_launched.py` launches real ones.
"""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde_analytic import Budget, GaussianMixture, LinearVP, bits_per_dim, processes
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids import even
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.measure import Recorder, estimate
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.process import GaussianDecoder
from score_sde_analytic.processes import PRIVATE
from score_sde_analytic.samplers import Ancestral, generate
from score_sde_analytic.samplers.flow_paths import record_paths

NUMBER = contextvars.ContextVar("number", default=0)
MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0, 0.0], [1.0, 0.5]], 0.1)
DATA = MIXTURE.sample(90)


class Crew:
    """So many threads that take themselves for processes."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self.folder = folder
        self.values = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def exchanged(self, value):
        self.values[NUMBER.get()] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found

    def private(self):
        return self.folder / f"process{NUMBER.get()}"

    def run(self, programme):
        """What the programme returns in each of them, or the error that it ended with."""

        def one(number: int):
            NUMBER.set(number)
            try:
                return programme()
            except Exception as error:
                return error

        contexts = [contextvars.copy_context() for _ in range(self.count)]
        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(lambda i: contexts[i].run(one, i), range(self.count)))


@pytest.fixture
def crew(monkeypatch, tmp_path):
    def made(count: int) -> Crew:
        crew = Crew(count, tmp_path / "private")
        monkeypatch.setattr(processes, "count", lambda: count)
        monkeypatch.setattr(processes, "number", NUMBER.get)
        monkeypatch.setattr(processes, "exchanged", crew.exchanged)
        monkeypatch.setattr(processes, "_private", crew.private)
        copied = {number: set() for number in range(count)}

        class Copied:
            isdisjoint = staticmethod(lambda paths: copied[NUMBER.get()].isdisjoint(paths))
            add = staticmethod(lambda path: copied[NUMBER.get()].add(path))

        monkeypatch.setattr(processes, "_COPIED", Copied)
        return crew

    return made


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [0, 1, 4, 7])
def test_every_process_has_every_result_in_order_and_each_item_is_worked_on_once(crew, count, items):
    worked = []

    def work(item):
        worked.append((item, NUMBER.get()))
        return 10 * item

    results = crew(count).run(lambda: list(processes.dealt(work, range(items))))
    assert results == [[10 * item for item in range(items)]] * count
    assert sorted(worked) == [(item, item % count) for item in range(items)]


def test_what_one_process_raises_all_raise_when_its_turn_has_come(crew):
    seen = {0: [], 1: [], 2: []}

    def work(item):
        if item == 4:
            raise InputError("a bad item; choose another")
        return item

    def programme():
        for item in processes.dealt(work, range(9)):
            seen[NUMBER.get()].append(item)

    errors = crew(3).run(programme)
    assert all(isinstance(error, InputError) and "a bad item" in str(error) for error in errors)
    assert seen == {number: [0, 1, 2, 3] for number in range(3)}


def test_an_error_that_cannot_travel_keeps_its_words(crew):
    class Local(Exception):
        pass

    def work(item):
        raise Local("words")

    errors = crew(2).run(lambda: list(processes.dealt(work, range(2))))
    assert all(isinstance(error, RunError) and str(error) == "Local: words" for error in errors)


def test_others_write_to_a_copy_and_read_what_was_there(crew, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "log.jsonl").write_text("first\n")
    (folder / "moments.safetensors").write_text("kept")

    def programme():
        own = processes.own(folder)
        assert processes.own(folder) == processes.own(own) == own
        with open(own / "log.jsonl", "a") as log:
            log.write(f"{NUMBER.get()}\n")
        new = own / "new"
        new.write_text("whole")
        new.replace(own / "moments.safetensors")
        return own, (own / "log.jsonl").read_text()

    results = crew(3).run(programme)
    assert [text for _, text in results] == [f"first\n{number}\n" for number in range(3)]
    assert len({own for own, _ in results}) == 3
    assert results[0][0] == folder
    assert (folder / "log.jsonl").read_text() == "first\n0\n"
    assert sorted(file.name for file in folder.iterdir()) == ["log.jsonl", "moments.safetensors"]


def test_a_copy_that_is_newer_stays(crew, tmp_path):
    folder = tmp_path / "results"
    (folder / "heads").mkdir(parents=True)
    for name in ("npr.safetensors", "npr.json"):
        (folder / "heads" / name).write_text("kept")

    def programme():
        inner = processes.own(folder / "heads")
        (inner / "npr.json").write_text(f"of {NUMBER.get()}")
        outer = processes.own(folder)
        return [(outer / "heads" / name).read_text() for name in ("npr.safetensors", "npr.json")]

    assert crew(3).run(programme) == [["kept", f"of {number}"] for number in range(3)]


def test_folders_of_others_stay(monkeypatch, tmp_path):
    """Temporary folders are removed where a process of ours left them behind, and nothing else is."""
    users, left, held = (tmp_path / name for name in ("score_sde_analytic-main", f"{PRIVATE}left", f"{PRIVATE}held"))
    for folder in (users, left, held):
        folder.mkdir()
        (folder / "moments.safetensors").write_text("kept")
    (left / ".owner").touch()
    seen = []

    def ours(folder):
        seen.append((folder.name, [found.name for found in tmp_path.glob(f"{PRIVATE}*")]))
        return True

    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(processes, "_ours", ours)
    made = processes._private.__wrapped__()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted((users.name, held.name, made.name))
    assert [name for name, _ in seen] == [left.name, f".{made.name}"]
    assert made.name not in seen[-1][1]  # nobody finds it before it has an owner


def test_processes_that_see_other_files_say_so(crew, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_names", lambda path: ["missing.json"])
    errors = crew(2).run(lambda: processes.own(tmp_path / "results"))
    assert all(isinstance(error, InputError) and "not all processes see" in str(error) for error in errors)


def measured(folder: Path):
    """Moments with recorded draws, bits, samples and paths of a small mixture, and what the network was asked in all."""
    from score_sde_analytic.data.basis import Pixel

    model, recorder = MIXTURE.score_model(LinearVP()), Recorder(Pixel())
    chain = Chain(even(3, 1e-2), BetaTilde(), GaussianDecoder(0.1))
    with model.metered() as cost:
        moments = estimate(
            model,
            DATA,
            np.linspace(-6, 6, 5),
            Budget(min_draws=96, max_draws=200, tolerance=0.1, batch_size=32),
            path=folder / "moments.safetensors",
            observers={"pixel": recorder},
            progress=False,
        )
        bound = bits_per_dim(model, DATA, chain, batch_size=20, path=folder / "bound.safetensors", progress=False)
        sampler = Ancestral(model, BetaTilde())
        x = generate(sampler, even(3, 1e-2), (2,), 30, batch_size=8)
        options = {"count": 25, "batch_size": 4, "path": folder / "paths.safetensors", "progress": False}
        paths = record_paths(model, LinearDenoiser.of(DATA), (2,), np.linspace(-4, 4, 4), **options)
    draws = recorder.arrays()
    arrays = [moments.sums, moments.products, draws["rms"], draws["knot"], bound.terms, x.numpy(), paths.predictions.numpy()]
    costs = [vars(cost), vars(moments.cost), bound.evaluations, vars(paths.cost)]
    return [array.tobytes() for array in arrays], costs, [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))]


def test_moments_bits_samples_and_paths_are_those_of_one_process(crew, tmp_path):
    (tmp_path / "alone").mkdir()
    alone = measured(tmp_path / "alone")
    for count in (2, 3):
        folder = tmp_path / f"of{count}"
        folder.mkdir()
        assert crew(count).run(lambda: measured(processes.own(folder))) == [alone] * count  # noqa: B023
        assert [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))] == alone[2]


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
def test_paths_begun_by_several_are_finished_by_one(crew, tmp_path, stopped_after):
    """An interruption leaves known levels of several batches, from which any number of processes goes on."""
    model, free = MIXTURE.score_model(LinearVP()), LinearDenoiser.of(DATA)

    def record(folder: Path, most: int = 10**9):
        calls = 0

        def count(_):
            nonlocal calls
            calls += 1
            if calls > most:
                raise RunError("stopped")

        options = {"count": 11, "batch_size": 2, "save_seconds": 0.0, "progress": False}
        with model.watched(count):
            return record_paths(model, free, (2,), np.linspace(-4, 4, 4), path=folder / "paths.safetensors", **options)

    whole = record(tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    errors = crew(3).run(lambda: record(processes.own(begun), stopped_after))
    assert all(isinstance(error, RunError) for error in errors)
    crew(1)
    again = record(begun)
    assert torch.equal(again.predictions, whole.predictions)
    assert vars(again.cost) == vars(whole.cost)


def test_restarted_processes_meet_each_other_and_not_the_dead(monkeypatch):
    """The store of torchrun keeps what processes of earlier attempts wrote, whether they met or one died on the way."""
    store, size = torch.distributed.HashStore(), 3
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: threading.Event().wait(1e-4))

    def attempt() -> list[str]:
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(lambda rank: processes._meeting(store, rank, size), range(size)))

    names = []
    for _ in range(20):
        store.set("asks/1", "the name of one that died before it was answered")
        names.append(attempt())
    assert all(len(set(found)) == 1 for found in names)
    assert len({found[0] for found in names}) == 20
