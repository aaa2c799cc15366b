"""--mode=inspect: what a network is, and how it is fed and read, found by trying what is usual on a few examples.

Writes the section "wiring" of WORKDIR/report.json and WORKDIR/found.py, a config that fits: --config=WORKDIR/found.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import versions
from score_sde_analytic.files import write_text
from score_sde_analytic.measure.wiring import Remembering, Wiring, WiringCost, told, wiring_costs
from score_sde_analytic.models.identity import unwrapped
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study.names import construct

from . import build, datasets, networks
from .record import record

#: Examples that are tried, and fewer of which tell nothing.
COUNT, LEAST = 48, 8
AS_TOLD = "as its source and the config say"
#: How networks are fed: schedule, time label, coordinates.
FED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"name": "ddpm_linear"}, {"name": "zero_based", "steps": 1000}, "schedule"),
    ({"name": "ddpm_linear"}, {"name": "one_based", "steps": 1000}, "schedule"),
    ({"name": "ddpm_scaled_linear"}, {"name": "zero_based", "steps": 1000}, "schedule"),
    ({"name": "ddpm_cosine"}, {"name": "zero_based", "steps": 1000}, "schedule"),
    ({"name": "ddpm_sigmoid"}, {"name": "zero_based", "steps": 1000}, "schedule"),
    ({"name": "linear_vp"}, {"name": "continuous", "scale": 999.0}, "schedule"),
    ({"name": "linear_vp"}, {"name": "continuous", "scale": 1.0}, "schedule"),
    ({"name": "cosine_vp"}, {"name": "continuous", "scale": 1.0}, "schedule"),
    ({"name": "rectified_flow"}, {"name": "interpolant", "scale": 1000.0}, "schedule"),
    ({"name": "rectified_flow"}, {"name": "interpolant", "scale": 1.0}, "schedule"),
    ({"name": "rectified_flow"}, {"name": "interpolant", "from_noise": True}, "schedule"),
    ({"name": "ve"}, {"name": "sigma"}, "schedule"),
    ({"name": "ve", "sigma_min": 0.002, "sigma_max": 80.0}, {"name": "log_snr", "scale": -0.125}, "edm"),
]
#: Settings that say what a network takes and gives.
DESIGN = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
#: Fields of config.data that a config repeats.
OF_DATA = ("name", "source", "directory", "levels", "split", "size", "channels")
READ = ("eps", "x_0", "v", "velocity")
RANGES = (DataRange(-1.0, 1.0), DataRange(0.0, 1.0))


@dataclass(frozen=True)
class Fields:
    """Fields of the config that say a wiring."""

    schedule: dict[str, Any]
    times: dict[str, Any]
    coordinates: str
    predicts: str
    data_range: DataRange

    def __str__(self) -> str:
        label = ", ".join(f"{key}={value}" for key, value in self.times.items() if key != "name")
        scaled = "" if self.coordinates == "schedule" else f", {self.coordinates} coordinates"
        span = f"data in [{self.data_range.lo:g}, {self.data_range.hi:g}]"
        return f"{self.predicts}, {self.schedule['name']}, {self.times['name']}({label}){scaled}, {span}"

    def wiring(self, net: nn.Module) -> Wiring:
        """Of a network."""
        schedule = construct(networks.SCHEDULES, self.schedule, "schedule")
        times = construct(networks.TIMES, self.times, "network time label")
        model = ScoreModel(net, schedule, self.predicts, times, self.coordinates)  # type: ignore[arg-type]
        return Wiring(str(self), model, self.data_range)


def candidates() -> Iterator[Fields]:
    """All that is tried."""
    for data_range in RANGES:
        for schedule, times, coordinates in FED:
            for predicts in (*READ, "edm") if coordinates == "edm" else READ:
                yield Fields(schedule, times, coordinates, predicts, data_range)


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Look, try, say, and write a config; returns what was written."""
    device = build.device(config)
    found = networks.find(config, workdir)
    if isinstance(found, ScoreModel):
        raise InputError(f"{config.network.source} makes a whole ScoreModel, which says itself how its network is fed and read")
    print("\n".join(_seen(config, found)))
    x_0, conditions = _examples(config)
    net = Remembering(found.net.to(device))
    tried = {str(each): each for each in candidates()}
    wirings = [*_as_told(config, found, net), *(each.wiring(net) for each in tried.values() if _sensible(each))]
    declared = datasets.data_range(config)
    given = {name: value.to(device) for name, value in conditions.items()}
    costs = wiring_costs(wirings, x_0.to(device), declared, seed=config.seed, conditions=given)
    print(_table(costs))
    sentences = [*told(costs), *_against_source(costs)]
    print(f"\nOn {len(x_0)} pictures " + ".\n".join(sentences) + ".")
    report = record(workdir, "wiring", _content(costs, sentences), _about(config))
    best = costs[0].wiring.name
    if best not in tried:
        return [report]
    path = workdir / "found.py"
    write_text(path, _config(config, tried[best], len(x_0)))
    return [report, path]


def _against_source(costs: list[WiringCost]) -> Iterator[str]:
    """What the source says, where that is not what fits best."""
    own = next((cost for cost in costs if cost.wiring.name == AS_TOLD), None)
    if own is not None and own is not costs[0]:
        yield f"{AS_TOLD} it costs {own.nats:.3f} nats/dim{f' ({own.failure})' if own.failure else ''}"


def _sensible(fields: Fields) -> bool:
    """Whether the schedule lets the network be read so: where it ends in noise eps has nothing to go by."""
    return not (fields.schedule["name"] == "rectified_flow" and fields.predicts == "eps")


def _about(config: ConfigDict) -> dict[str, Any]:
    return {"config": config.to_dict(), "model": config.network.source, "versions": versions()}


def _as_told(config: ConfigDict, found: networks.Found, net: nn.Module) -> list[Wiring]:
    """What the source says, and the config."""
    try:
        settings, schedule = networks.wiring(config, found), networks.schedule(config, found)
    except InputError:
        return []
    settings.pop("clamp", None)
    return [Wiring(AS_TOLD, ScoreModel(net, schedule, **settings), datasets.data_range(config))]


def _seen(config: ConfigDict, found: networks.Found) -> Iterator[str]:
    """What the network is."""
    inner = unwrapped(found.net)
    count = sum(each.numel() for each in inner.parameters())
    kinds = sorted({str(each.dtype).removeprefix("torch.") for each in inner.parameters()})
    yield f"{config.network.source}: {type(inner).__name__}, {count:,} weights ({', '.join(kinds) or 'none'})"
    settings = getattr(inner, "config", {})
    known = {name: settings[name] for name in DESIGN if name in settings}
    if known:
        yield "  " + ", ".join(f"{name} {value}" for name, value in known.items())
    with suppress(ValueError):  # TorchScript has no signature
        taken = [name for name in inspect.signature(inner.forward).parameters if name not in ("self", "return_dict", "kwargs")]
        yield f"  it takes {', '.join(taken)}"
    if found.wiring:
        yield "  its source says: " + ", ".join(f"{name}={value}" for name, value in found.wiring.items())
    if found.schedule is not None:
        yield f"  trained with {found.schedule}"


def _examples(config: ConfigDict) -> tuple[Tensor, dict[str, Tensor]]:
    """A few, of the validation split before the others, and what they are conditioned on."""
    splits = datasets.splits(config)
    parts = [as_dataset(splits.some(name, COUNT), splits.data_range) for name in ("validation", "test", "train")]
    batches = [part.batch(range(len(part))) for part in parts]
    x_0 = torch.cat([batch.x_0 for batch in batches])[:COUNT]
    if len(x_0) < LEAST:
        raise InputError(f"{len(x_0)} pictures tell nothing of a wiring; give {LEAST} or more, better {COUNT}")
    names = batches[0].conditions
    return x_0, {name: torch.cat([batch.conditions[name] for batch in batches])[:COUNT] for name in names}


def _table(costs: list[WiringCost]) -> str:
    """The best ten, and R by level."""
    levels = [f"R at {level:g}" for level in costs[0].log_snr]
    rows = [
        [each.wiring.name, f"{each.nats:.3f}", "" if each is costs[0] else f"{each.above(costs[0]):+.3f}"]
        + [f"{value:.3g}" for value in each.residual]
        for each in costs[:10]
        if not each.failure
    ]
    return markdown(["wiring", "nats/dim", "above the best", *levels], rows)


def _content(costs: list[WiringCost], sentences: list[str]) -> dict[str, Any]:
    tried = [
        {"wiring": each.wiring.name, "nats": each.nats.value, "stderr": each.nats.stderr, "R": each.residual}
        if not each.failure
        else {"wiring": each.wiring.name, "failure": each.failure}
        for each in costs
    ]
    return {"said": sentences, "log_snr": costs[0].log_snr, "tried": tried}


def _config(config: ConfigDict, fields: Fields, count: int) -> str:
    """A config file that says the wiring."""
    data = {name: config.data[name] for name in OF_DATA if config.data[name]}
    lines = [
        f'"""{config.network.source}, fed and read as fits it best on {count} examples."""',
        "",
        "from ml_collections import ConfigDict",
        "from score_sde_analytic.configs.images import get_config as images",
        "",
        "",
        "def get_config() -> ConfigDict:",
        "    config = images()",
        *(f"    config.data.{name} = {value!r}" for name, value in data.items()),
        f"    config.data.lo, config.data.hi = {fields.data_range.lo!r}, {fields.data_range.hi!r}",
        f"    config.schedule = ConfigDict({fields.schedule!r})",
        f"    config.network.source = {config.network.source!r}",
        f"    config.network.weights = {config.network.weights!r}",
        f"    config.network.condition = {config.network.condition!r}",
        f"    config.network.predicts = {fields.predicts!r}",
        f"    config.network.times = ConfigDict({fields.times!r})",
        f"    config.network.coordinates = {fields.coordinates!r}",
        "    return config",
        "",
    ]
    return "\n".join(lines)
