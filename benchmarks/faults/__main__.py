"""Run the campaigns, print a table and keep every bad trial: `python -m benchmarks.faults --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.outcome import Outcome
from score_sde_analytic.files import write_text


class Budget(NamedTuple):
    """Of a whole campaign.

    Attributes:
        seconds: about what it takes on one core.
    """

    trials: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.trials} trials, about {self.seconds} s"


#: By name; each is a module with `outcomes(trials, seed) -> Iterator[Outcome]`.
CAMPAIGNS = {"kill": Budget(120, 400), "corrupt": Budget(4200, 20), "fuzz": Budget(3200, 25), "config": Budget(320, 20)}
BAD = ("silent", "raw", "hung")
VERDICTS = ("right", "refused", *BAD)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    budgets = "; ".join(f"{name} ({budget})" for name, budget in CAMPAIGNS.items())
    parser.add_argument("campaigns", nargs="*", default=list(CAMPAIGNS), help=f"all of them, or some: {budgets}")
    parser.add_argument("--trials", type=float, default=1.0, help="share of a whole campaign's trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/faults/results.json"))
    parser.add_argument("--output", type=Path, help="the table as Markdown")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.campaigns:
        trials = max(1, round(arguments.trials * CAMPAIGNS[name].trials))
        results[name] = run(name, trials, arguments.seed)
        write_text(arguments.out, json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(table(results))
    if arguments.output:
        write_text(arguments.output, table(results) + "\n")
    print(f"wrote {arguments.out}")
    raise SystemExit(any(row[verdict] for campaign in results.values() for row in campaign["rows"].values() for verdict in BAD))


def run(name: str, trials: int, seed: int) -> dict:
    """One campaign, as rows of counts per kind and the trials that went wrong."""
    campaign = importlib.import_module(f"benchmarks.faults.{name}")
    began = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in campaign.outcomes(trials, seed):
        outcomes.append(outcome)
        if outcome.verdict in BAD:
            print(f"{name}: {outcome.verdict}: {outcome.kind}: {outcome.trial}: {outcome.detail[:300]}", flush=True)
        if len(outcomes) % 100 == 0:
            print(f"{name}: {len(outcomes)}/{trials} in {time.monotonic() - began:.0f} s", flush=True)
    rows = {kind: counts(outcomes, kind) for kind in sorted({outcome.kind for outcome in outcomes})}
    bad = [vars(outcome) for outcome in outcomes if outcome.verdict in BAD]
    return {"seed": seed, "trials": len(outcomes), "seconds": round(time.monotonic() - began), "rows": rows, "bad": bad}


def counts(outcomes: list[Outcome], kind: str) -> dict[str, int]:
    """How often each verdict fell for one kind."""
    verdicts = Counter(outcome.verdict for outcome in outcomes if outcome.kind == kind)
    return {verdict: verdicts[verdict] for verdict in VERDICTS}


def table(results: dict) -> str:
    """All campaigns as one markdown table."""
    lines = [
        "| campaign | kind | trials | right | refused | silent wrong | raw traceback | hung |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, campaign in results.items():
        for kind, row in campaign["rows"].items():
            lines.append(
                f"| {name} | {kind} | {sum(row.values())} | " + " | ".join(str(row[verdict]) for verdict in VERDICTS) + " |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
