"""report.json: nothing that was recorded is lost, whoever else writes, and whatever lies there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from score_sde_analytic.configs import mixture
from score_sde_analytic.runners import record as module
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.record import record

from score_sde_analytic.errors import InputError

ABOUT = {"config": {"seed": 0}, "model": {}, "versions": {}}


def read(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def test_sections_come_together(tmp_path):
    record(tmp_path, "moments", {"R": np.array([0.5, np.nan, np.inf])}, ABOUT)
    path = record(tmp_path, "samples", {"calls": np.int64(3)}, ABOUT | {"config": {"seed": 1}})
    assert path == tmp_path / "report.json"
    report = read(tmp_path)
    assert report["moments"] == {"R": [0.5, None, None]}
    assert report["samples"] == {"calls": 3}
    assert report["configs"] == {"moments": {"seed": 0}, "samples": {"seed": 1}}
    record(tmp_path, "moments", {"R": 1}, ABOUT)
    assert read(tmp_path)["moments"] == {"R": 1}
    assert read(tmp_path)["samples"] == {"calls": 3}


def test_modes_at_once_lose_nothing(tmp_path, monkeypatch):
    """The second mode finishes while the first puts the report together, and writes it last but one."""
    write, others = module._write, ["evaluate"]

    def interrupted(path, content):
        if path.name == "report.json" and others:
            record(tmp_path, others.pop(), {"bits": 2}, ABOUT)
        write(path, content)

    monkeypatch.setattr(module, "_write", interrupted)
    record(tmp_path, "samples", {"calls": 3}, ABOUT)
    report = read(tmp_path)
    assert (report["samples"], report["evaluate"]) == ({"calls": 3}, {"bits": 2})


@pytest.mark.parametrize("damage", [b"", b'{"configs": {"mo', b"\xff\x00", b'{"configs": {"old": {}}, "old": {"R": 0.5}}'])
def test_a_report_that_cannot_be_kept_up_is_set_aside(damage, tmp_path):
    record(tmp_path, "moments", {"R": 1}, ABOUT)
    (tmp_path / "report.json").write_bytes(damage)
    with pytest.warns(UserWarning, match=r"kept as .*report\.json\.1"):
        record(tmp_path, "samples", {"calls": 3}, ABOUT)
    assert (tmp_path / "report.json.1").read_bytes() == damage
    assert {"moments", "samples"} < set(read(tmp_path))
    (tmp_path / "report" / "moments.json").write_bytes(damage)
    with pytest.warns(UserWarning, match=r"kept as .*moments\.json\.1"):
        record(tmp_path, "samples", {"calls": 4}, ABOUT)


@pytest.mark.parametrize("foreign", ["[1]", '"text"', "3", '{"accuracy": 0.9}'])
def test_a_file_of_another_programme_is_refused_before_the_work(foreign, tmp_path):
    (tmp_path / "report.json").write_text(foreign)
    with pytest.raises(InputError, match="move it away, or choose another --workdir"):
        Experiment(mixture.get_config(), tmp_path)
    with pytest.raises(InputError, match="move it away"):
        record(tmp_path, "samples", {"calls": 3}, ABOUT)
    assert (tmp_path / "report.json").read_text() == foreign
    assert json.loads((tmp_path / "report" / "samples.json").read_text())["content"] == {"calls": 3}
