"""Several processes of one programme: work is dealt by number, and every process goes on with all results in one order.

A launcher (torchrun, accelerate launch) starts the same programme n times. All of them come to the same decisions; only work on
the network is dealt: item i belongs to process i mod n. Results are exchanged, and used in the order of the items, so that sums
have the same last bit whatever n is. Files are written by the first process; the others write to private copies.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch
from torch import distributed
from torch.utils._pytree import tree_map_only

from score_sde_analytic.errors import InputError, PeerError, RunError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: nothing tells whether the owner of a folder lives, so none is removed
    flock = None  # type: ignore[assignment]

T = TypeVar("T")

#: Files that are replaced as a whole, never appended to, so that private copies may share them.
REPLACED = {".safetensors", ".pt", ".npz", ".png", ".ssac"}
#: No call of a network takes longer; a process that ended is noticed at once, by its closed connection.
PATIENCE = timedelta(days=7)


def count() -> int:
    """Processes of this run, 1 without a launcher."""
    return distributed.get_world_size() if _several() else 1


def number() -> int:
    """Of this process, 0 .. count() - 1; process 0 writes and speaks.

    >>> number(), count()
    (0, 1)
    """
    return distributed.get_rank() if _several() else 0


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def joined() -> Iterator[None]:
    """Be one of a launcher's processes while the block runs: those that torchrun and accelerate tell of each other.

    Where nothing was launched, or the programme has joined already, the block just runs.
    """
    if _several() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    cuda = torch.cuda.is_available() and distributed.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    store, rank, size = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(_meeting(store, rank, size), store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _meeting(store: distributed.Store, rank: int, size: int) -> str:
    """A name that only the processes that live now agree on.

    The store of torchrun outlives its processes and keeps what those of an earlier attempt wrote, their addresses among it:
    restarted ones would call the dead (pytorch #135712). Here each asks under a name of its own, and what the first answers to
    that is theirs to meet by.
    """
    name = uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", name)
        name = store.get(f"answers/{name}").decode()
        store.set(f"came/{name}/{rank}", "")
        return name
    for other in range(1, size):
        while not store.check([f"came/{name}/{other}"]):
            store.set(f"answers/{store.get(f'asks/{other}').decode()}", name)
            time.sleep(0.01)
    return name


def local(device: str) -> str:
    """The device of this process: of several GPUs, the one with the number that the launcher gave it on its machine.

    >>> local("cuda")
    'cuda'
    """
    if device != "cuda" or count() == 1 or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@dataclass(frozen=True)
class _Outcome:
    """What became of an item; tensors lie in the host's memory."""

    result: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


def _outcomes(results: Iterator[Any]) -> Iterator[_Outcome]:
    """The results up to the first error, and that."""
    try:
        for result in results:
            yield _Outcome(tree_map_only(torch.Tensor, lambda x: x.detach().cpu(), result))
    except Exception as error:
        yield _Outcome(error=_portable(error))


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(f"{type(error).__name__}: {error}")
    return error


def dealt(
    work: Callable[[T], Any], items: Iterable[T], stream: Callable[[Callable[[T], Any], Iterable[T]], Iterable[Any]] = map
) -> Iterator[Any]:
    """`stream(work, items)`, each item worked on by one process; every process is given all results, in order.

    What `work` raises is raised in every process when the item's turn comes. Tensors of results lie in the host's memory where
    there are several processes, and where `work` left them where there is one.

    Args:
        stream: how a process goes through its items, one result for each, such as with the next one under way already.

    >>> list(dealt(lambda item: item**2, range(4)))
    [0, 1, 4, 9]

    Raises:
        PeerError: another process ended.
    """
    if count() == 1:
        yield from stream(work, items)
        return
    left = list(items)
    results = _outcomes(iter(stream(work, mine(left))))
    for start in range(0, len(left), count()):
        own = next(results) if start + number() < len(left) else None
        for outcome in exchanged(own):
            if outcome is not None:
                yield outcome.get()


def mine(items: Sequence[T]) -> Sequence[T]:
    """Those of the items that `dealt` gives to this process.

    >>> mine(range(4))
    range(0, 4)
    """
    return items[number() :: count()]


def exchanged(value: T) -> list[T]:
    """The values that all processes pass, in the order of their numbers.

    >>> exchanged("alone")
    ['alone']

    Raises:
        PeerError: another process ended.
    """
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    try:
        distributed.all_gather_object(values, value, group=_host_group())
    except RuntimeError as error:
        raise PeerError(
            f"another process of this run ended, and process {number()} cannot go on alone; the same command goes on from"
            " what is kept, and torchrun --max-restarts=3 starts it again by itself"
        ) from error
    return values


#: Groups that exchange what lies in the host's memory, by the group of all; gone with that, for gloo's threads have to end
#: before the interpreter does.
_HOST_GROUPS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _host_group() -> Any:
    """The group of all processes where it exchanges what lies in the host's memory, else one beside it that does."""
    world = distributed.group.WORLD
    if "gloo" in str(distributed.get_backend_config(world)):
        return world
    if world not in _HOST_GROUPS:
        _HOST_GROUPS[world] = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return _HOST_GROUPS[world]


def own(path: Path) -> Path:
    """The path in the first process; in others a private copy of what is there, which is gone when they end.

    So every process finds the same files, decides alike, and writes at its own pace without touching what another reads.

    >>> own(Path("results"))
    PosixPath('results')

    Raises:
        InputError: the processes see different files there, as on machines that share no folder.
    """
    if count() == 1:
        return path
    place = path.absolute()
    if number() and _private() in place.parents:
        return path
    target = path if number() == 0 else _private() / place.relative_to(place.anchor)
    if not _COPIED.isdisjoint((place, *place.parents)):
        return target
    names = exchanged(_names(path) if number() == 0 else None)[0]  # what the first has written, before it writes more
    lacking = [] if number() == 0 else _copy(path, names or [], target)
    if missing := next((files for files in exchanged(lacking) if files), None):
        raise InputError(f"not all processes see {path / missing[0]}: put it on storage that all machines share")
    _COPIED.add(place)
    return target


#: Folders of processes, in that of temporary files, and the file whose lock says that one has an owner.
PRIVATE, OWNER = "score_sde_analytic-private-", ".owner"
#: Paths that `own` was asked for.
_COPIED: set[Path] = set()


@cache
def _private() -> Path:
    """A folder of this process alone; those that killed processes left behind are removed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{PRIVATE}*"):
        if (left / OWNER).is_file() and _ours(left):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{PRIVATE}"))
    _ours(made)  # before others find it under its name
    folder = made.rename(root / made.name.removeprefix("."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder.resolve()


#: Held open for as long as the process lives: its lock says that a folder has an owner.
_OWNED: list[Any] = []


def _ours(folder: Path) -> bool:
    """Whether the lock of a folder was free, and now is this process's."""
    if flock is None:
        return False
    try:
        owner = open(folder / OWNER, "a")  # noqa: SIM115
        flock(owner, LOCK_EX | LOCK_NB)
    except OSError:
        return False
    _OWNED.append(owner)
    return True


def _names(path: Path) -> list[str]:
    """Files there, the path itself as "."."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [str(file.relative_to(path)) for file in files if file.is_file()]


def _copy(path: Path, names: Iterable[str], target: Path) -> list[str]:
    """Copy these files; returns those that are not there."""
    missing = []
    target.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            _share(path / name, target / name)
        except FileNotFoundError:
            missing.append(name)
    return missing


def _share(file: Path, target: Path) -> None:
    """A link to a file that is only ever replaced, a copy of any other; what this process has of it already is newer."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        return
    if file.suffix in REPLACED and file.exists():
        target.symlink_to(file.resolve())
    else:
        shutil.copy2(file, target)
