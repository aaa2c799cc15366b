"""What samples of a study are conditioned on unless they are told: what its examples were, in turn."""

from __future__ import annotations

import numpy as np
import torch

from score_sde_analytic.data.examples import Examples, Rows
from score_sde_analytic.models.conditions import OfSamples
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import stream_seed

#: Examples whose conditions are kept, and bytes of them.
MOST, BYTES = 1000, 32 << 20


def of_examples(model: ScoreModel, examples: Examples, seed: int) -> Rows:
    """Those that the model is given of some examples, in a seeded order: data may be sorted by class.

    >>> examples = Examples(data, conditions={"component": [1] * 400})
    >>> of_examples(mixture.conditional(model.schedule), examples, seed=0)["component"].shape
    torch.Size([400])
    """
    wanted = model.wanted(examples.conditions)
    if not wanted:
        return {}
    first = examples.batch([0]).conditions
    size = sum(first[name].numel() * 4 for name in wanted)
    order = np.random.default_rng(stream_seed(seed, 13)).permutation(len(examples))[: max(1, min(MOST, BYTES // size))]
    rows = examples.batch(order).conditions
    return {name: rows[name].float() if rows[name].is_floating_point() else rows[name] for name in wanted}


def in_turn(rows: Rows) -> OfSamples | None:
    """Row i of n for the samples i, n + i, 2 n + i and so on; None where there are no conditions.

    >>> in_turn({"label": torch.tensor([3, 4])})(range(1, 4))
    {'label': tensor([4, 3, 4])}
    """
    if not rows:
        return None
    return lambda indices: {name: values[torch.tensor(indices) % len(values)] for name, values in rows.items()}
