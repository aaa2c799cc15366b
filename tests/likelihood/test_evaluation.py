"""The evaluation driver: resumed, sharded, batched or shared, the same numbers; and errors that say what to do.

Every method runs on the same few examples, so that what holds for one holds for all.
"""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from score_sde_analytic.covariance.isotropic import Beta, Isotropic
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.likelihood import (
    BITS,
    Bound,
    Chain,
    ContinuousTime,
    Diffused,
    ExactTrace,
    Fixed,
    Flow,
    Uniform,
    bits_per_dim,
)
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import LinearVP

QUIET = {"progress": False}
CURVE = NoiseCurve(np.zeros(1), np.array([1.0]))
METHODS = {
    "chain": Chain(even(4, 0.05), Beta(), 0.2),
    "continuous": ContinuousTime(0.05, GaussianDecoder(0.2), 3, CURVE),
    "flow": Flow(1e-3, solver=Fixed(2, "euler"), examples_per_block=3),
    "weighted": Flow(1e-3, Uniform(), ExactTrace(), Fixed(2, "euler"), importance_samples=2, examples_per_block=3),
}
LEVELS = DataRange(-1, 1, 5)
X = -1.0 + 0.5 * torch.randint(0, 5, (11, 2), generator=torch.Generator().manual_seed(0)).double()


class Interrupting(GaussianMixture):
    """A network that is cut off after so many calls."""

    def __init__(self):
        super().__init__([0.5, 0.5], [[-0.5, 0.2], [0.6, -0.4]], 0.1)
        self.budget = math.inf

    def forward(self, x, log_snr):
        self.budget -= 1
        if self.budget < 0:
            raise KeyboardInterrupt
        return super().forward(x, log_snr)


@pytest.fixture
def net():
    return Interrupting()


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def evaluate(net, name, x=X, method=None, **options):
    options = {"batch_size": 3, "seed": 5, **QUIET} | options
    data_range = LEVELS if name == "weighted" else None
    return bits_per_dim(net.score_model(LinearVP()), x, method or METHODS[name], data_range, **options)


def assert_same(a, b):
    """To the last bit."""
    assert np.array_equal(a.terms, b.terms)
    assert np.array_equal(a.indices, b.indices)
    assert (a.columns, a.dim, a.evaluations, a.vector_products) == (b.columns, b.dim, b.evaluations, b.vector_products)


# --- one evaluation, however it is run ----------------------------------------------------------------------------------


def test_interrupted_and_resumed(net, name, tmp_path):
    """Cut off again and again, each time a few calls later: the same to the last bit, and nothing finished is done twice."""
    whole, path, cuts = evaluate(net, name, draws=2), tmp_path / "folder" / "bound.safetensors", 0
    while True:
        net.budget = (12, 17, 14)[cuts % 3]
        try:
            found = evaluate(net, name, draws=2, path=path)
            break
        except KeyboardInterrupt:
            cuts += 1
            assert cuts < 10
    assert cuts > 0
    assert_same(found, whole)
    assert_same(Bound.load(path), whole)


def test_what_was_finished_is_on_disk(net, name, tmp_path):
    """Whole blocks, at once after an interruption, however long the saving interval."""
    net.budget = 1000
    evaluate(net, name, x=X[:3])
    per_block = 1000 - net.budget
    net.budget = 2 * per_block + 1
    with pytest.raises(KeyboardInterrupt):
        evaluate(net, name, path=tmp_path / "bound")
    assert Bound.load(tmp_path / "bound").indices.tolist() == list(range(6))


def test_a_finished_file_costs_nothing(net, name, tmp_path):
    first = evaluate(net, name, path=tmp_path / "bound")
    written = (tmp_path / "bound").stat().st_mtime_ns
    net.budget = 0
    again = evaluate(net, name, path=tmp_path / "bound")
    assert_same(again, first)
    assert again.identity == first.identity
    assert (tmp_path / "bound").stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_another_batch_size_resumes_the_same_file(net, name, batch_size, tmp_path):
    whole, path = evaluate(net, name), tmp_path / "bound"
    net.budget = 13 if name != "weighted" else 30
    with pytest.raises(KeyboardInterrupt):
        evaluate(net, name, path=path, batch_size=1)
    net.budget = math.inf
    found = evaluate(net, name, path=path, batch_size=batch_size)
    np.testing.assert_allclose(found.terms, whole.terms, rtol=1e-9, atol=1e-12)
    assert (found.evaluations, found.vector_products) == (whole.evaluations, whole.vector_products)


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_shards_merge_to_the_whole(net, name, shards):
    """In any order; blocks are not cut."""
    whole = evaluate(net, name)
    parts = [evaluate(net, name, shard=(i, shards)) for i in range(shards)]
    assert sorted(i for part in parts for i in part.indices.tolist()) == list(range(11))
    merged = Bound.merge(parts[::-1])
    np.testing.assert_allclose(merged.terms, whole.terms, rtol=1e-12, atol=1e-14)
    assert_same(Bound.merge(parts), merged)
    assert merged.total == pytest.approx(whole.total, rel=1e-12)
    assert (merged.evaluations, merged.vector_products) == (whole.evaluations, whole.vector_products)


def test_shards_equal_the_whole_exactly(net, name):
    """Where the cuts fall between batches, to the last bit."""
    x = X[:9]
    assert_same(Bound.merge([evaluate(net, name, x=x, shard=(i, 3)) for i in range(3)]), evaluate(net, name, x=x))


def test_shards_have_files_of_their_own(net, name, tmp_path):
    path = tmp_path / "bound.safetensors"
    parts = [evaluate(net, name, shard=(i, 3), path=path) for i in range(3)]
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == [f"bound-{i}of3.safetensors" for i in (1, 2, 3)]
    for part, file in zip(parts, files, strict=True):
        assert_same(Bound.load(tmp_path / file), part)
    net.budget = 0
    assert_same(evaluate(net, name, shard=(1, 3), path=path), parts[1])


def test_the_batch_size_does_not_matter(net, name):
    for batch_size in (1, 4, 100):
        np.testing.assert_allclose(
            evaluate(net, name, batch_size=batch_size).terms, evaluate(net, name).terms, rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_draws_are_independent_and_averaged(net, name):
    """Two draws are the mean of two evaluations, the first of which is the single one."""
    one, two = evaluate(net, name), evaluate(net, name, draws=2)
    assert two.evaluations == 2 * one.evaluations
    assert two.vector_products == 2 * one.vector_products
    second = 2 * two.terms - one.terms
    noisy = [i for i, column in enumerate(one.columns) if column not in ("prior", "dequantisation")]
    assert not np.allclose(second[:, noisy], one.terms[:, noisy])
    np.testing.assert_allclose(evaluate(net, name, draws=2, batch_size=100).terms, two.terms, rtol=1e-9, atol=1e-12)


def test_seeds_and_examples_have_noise_of_their_own(net, name):
    found = evaluate(net, name, x=X[:1].repeat(4, 1)).per_example
    assert len(set(found.tolist())) > 1  # two coordinates have two Rademacher probes, but for the sign
    assert not np.allclose(evaluate(net, name, seed=6).per_example, evaluate(net, name).per_example)


@pytest.mark.slow
def test_containers_of_data(net, name):
    whole = evaluate(net, name)
    for data in (
        TensorDataset(X, torch.zeros(11)),
        DataLoader(TensorDataset(X), batch_size=2, shuffle=True),
        Subset(X, range(11)),
    ):
        assert_same(evaluate(net, name, x=data), whole)


def test_the_bar_runs_to_its_end(net, name, capfd):
    found = evaluate(net, name, progress=True)
    assert_same(found, evaluate(net, name))
    shown = capfd.readouterr().err
    assert type(METHODS[name]).__name__ in shown
    assert "11" in shown


# --- what is saved ------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(net, name, tmp_path):
    bound = evaluate(net, name)
    bound.save(tmp_path / "bound")
    loaded = Bound.load(tmp_path / "bound", bound.identity)
    assert_same(loaded, bound)
    assert loaded.identity == bound.identity
    assert loaded.total == bound.total
    assert loaded.summary()["total"] == bound.summary()["total"]


def test_sums(net, name):
    """Columns add up to examples, parts to the total; nats and calls per example."""
    bound = evaluate(net, name)
    np.testing.assert_allclose(bound.terms.sum(1), bound.per_example)
    parts = {part: bound.parts[part].value for part in dict.fromkeys(bound.columns)}
    assert sum(parts.values()) == pytest.approx(bound.total.value)
    assert bound.total.stderr == pytest.approx(bound.per_example.std(ddof=1) / math.sqrt(11))
    np.testing.assert_allclose(bound.nats, bound.per_example * 2 * math.log(2))
    assert bound.nats.mean() == pytest.approx(bound.total.value * 2 / BITS)
    assert bound.calls_per_example == bound.evaluations / 11
    assert bound.summary()["examples"] == 11
    assert bound.dim == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 6}, "seed: file has 5, expected 6"),
        ({"draws": 2}, "draws: file has 1, expected 2"),
        ({"x": X.flip(0)}, "data: file has"),
        ({"x": X[:10]}, "data: file has"),
    ],
)
def test_files_of_other_evaluations_are_refused(net, name, change, match, tmp_path):
    evaluate(net, name, path=tmp_path / "bound")
    with pytest.raises(ValueError, match=match):
        evaluate(net, name, path=tmp_path / "bound", **change)


def test_files_of_other_models_are_refused(net, name, tmp_path):
    evaluate(net, name, path=tmp_path / "bound")
    net.means += 0.1
    with pytest.raises(ValueError, match=r"model\.network: file has"):
        evaluate(net, name, path=tmp_path / "bound")
    net.means -= 0.1
    other = ScoreModel(net, LinearVP(0.1, 19.0), times=LogSNR(), coordinates="vp")
    data_range = LEVELS if name == "weighted" else None
    with pytest.raises(ValueError, match=r"schedule\.beta_max: file has 20\.0, expected 19\.0"):
        bits_per_dim(other, X, METHODS[name], data_range, path=tmp_path / "bound", seed=5, **QUIET)


OTHERS = {
    "chain": [
        (Chain(even(5, 0.05), Beta(), 0.2), r"method\.times"),
        (Chain(even(4, 0.05), Isotropic(CURVE), 0.2), r"method\.covariance"),
        (Chain(even(4, 0.05), Beta(), 0.3), r"method\.std: file has 0\.2, expected 0\.3"),
        (Chain(even(4, 0.05), Beta(), NoDecoder()), r"method\.decoder: file has 'gaussian', expected 'none'"),
        (ContinuousTime(0.05, NoDecoder()), r"method\.name: file has 'chain', expected 'continuous'"),
    ],
    "continuous": [
        (ContinuousTime(0.06, GaussianDecoder(0.2), 3, CURVE), r"method\.t_min"),
        (ContinuousTime(0.05, GaussianDecoder(0.2), 4, CURVE), r"method\.times: file has 3, expected 4"),
        (ContinuousTime(0.05, GaussianDecoder(0.2), 3), r"method\.curve"),
        (ContinuousTime(0.05, GaussianDecoder(0.2), 3, NoiseCurve(np.zeros(1), np.ones(1) * 2)), r"method\.curve"),
    ],
    "flow": [
        (Flow(2e-3, solver=Fixed(2, "euler"), examples_per_block=3), r"method\.t_min"),
        (Flow(1e-3, solver=Fixed(3, "euler"), examples_per_block=3), r"method\.solver\.steps: file has 2, expected 3"),
        (Flow(1e-3, solver=Fixed(2, "midpoint"), examples_per_block=3), r"method\.solver\.method"),
        (Flow(1e-3, solver=Fixed(2, "euler"), examples_per_block=4), r"method\.block"),
        (Flow(1e-3, solver=Fixed(2, "euler"), examples_per_block=3, variable="t"), r"method\.variable"),
    ],
}


@pytest.mark.parametrize(("name", "other", "match"), [(name, *row) for name, rows in OTHERS.items() for row in rows])
def test_files_of_other_methods_are_refused(net, name, other, match, tmp_path):
    evaluate(net, name, path=tmp_path / "bound")
    with pytest.raises(ValueError, match=match):
        evaluate(net, name, method=other, path=tmp_path / "bound")


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-8]])
def test_damaged_files_are_refused(net, name, damage, tmp_path):
    path = tmp_path / "bound"
    evaluate(net, name, path=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="truncated"):
        evaluate(net, name, path=path)


def test_files_of_another_kind_are_refused(net, tmp_path):
    save_arrays(tmp_path / "a", {"terms": np.zeros((1, 1))}, {"kind": "moments"})
    with pytest.raises(ValueError, match="holds 'moments', not 'bound'"):
        evaluate(net, "chain", path=tmp_path / "a")
    save_arrays(tmp_path / "b", {"terms": np.zeros((1, 1))}, {"kind": "bound"})
    with pytest.raises(ValueError, match="lacks indices"):
        evaluate(net, "chain", path=tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="no bound file"):
        Bound.load(tmp_path / "c")


def test_networks_need_an_identity_to_be_resumed(tmp_path):
    """A bare function has none; without a path it needs none."""
    model, named = (ScoreModel(lambda x, t: 0.5 * x, LinearVP(), fingerprint=f) for f in (None, "half"))
    bits_per_dim(model, X, METHODS["chain"], **QUIET)
    with pytest.raises(ValueError, match="pass fingerprint"):
        bits_per_dim(model, X, METHODS["chain"], path=tmp_path / "a", **QUIET)
    bits_per_dim(named, X, METHODS["chain"], path=tmp_path / "a", **QUIET)
    assert load_arrays(tmp_path / "a", "bound")[1]["identity"]["model"]["network"] == "half"


# --- shards that do not fit ---------------------------------------------------------------------------------------------


def test_merge_errors(net):
    parts = [evaluate(net, "chain", shard=(i, 3)) for i in range(3)]
    with pytest.raises(ValueError, match="no shards"):
        Bound.merge([])
    with pytest.raises(ValueError, match="occurs in two shards"):
        Bound.merge([parts[0], parts[1], parts[0]])
    with pytest.raises(ValueError, match=r"shard 2 was made for something else .*seed: file has 6, expected 5"):
        Bound.merge([parts[0], evaluate(net, "chain", shard=(1, 3), seed=6)])
    with pytest.raises(ValueError, match=r"method\.name"):
        Bound.merge([parts[0], evaluate(net, "flow", shard=(1, 3))])


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_bad_shards_are_refused(net, shard):
    with pytest.raises(ValueError, match=r"0 <= i < n|at least 0"):
        evaluate(net, "chain", shard=shard)


def test_more_shards_than_blocks(net):
    """Some are empty, and merge all the same."""
    parts = [evaluate(net, "flow", shard=(i, 6)) for i in range(6)]
    assert min(len(part.indices) for part in parts) == 0
    assert_same(Bound.merge(parts), evaluate(net, "flow"))


# --- data and networks that do not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "data_range", "match"),
    [
        (torch.zeros(0, 2), None, "empty"),
        (torch.full((3, 2), torch.nan), None, "NaN"),
        (torch.full((3, 2), torch.inf), LEVELS, "NaN or inf"),
        (torch.full((3, 2), 2.0), LEVELS, "declared range"),
        (torch.full((3, 2), 0.3), LEVELS, "grid of 5"),
        (torch.zeros(3, 2, dtype=torch.uint8), None, "DataRange.encode converts"),
    ],
)
@pytest.mark.parametrize(
    "method", [METHODS["chain"], METHODS["continuous"], METHODS["weighted"]], ids=["chain", "continuous", "flow"]
)
def test_bad_data_are_refused(net, method, x, data_range, match):
    if isinstance(method, Flow) and data_range is None:
        method = METHODS["flow"]
    model = net.score_model(LinearVP())
    with model.metered() as cost, pytest.raises(ValueError, match=match):
        bits_per_dim(model, x, method, data_range, **QUIET)
    assert cost.calls == 0


def test_a_network_that_returns_nan(name):
    """Named before anything is averaged."""
    model = ScoreModel(lambda x, t: x * torch.nan, LinearVP())
    with pytest.raises(RuntimeError, match="NaN or inf"):
        bits_per_dim(model, X, METHODS[name], LEVELS if name == "weighted" else None, **QUIET)


def test_a_network_that_breaks_down_late_keeps_what_was_done(net, name, tmp_path):
    """Blocks before the breakdown stay on disk."""
    path = tmp_path / "bound"
    broken = ScoreModel(lambda x, t: 0.5 * x + torch.where(x > 3.0, torch.nan, 0.0), LinearVP(), fingerprint="half")
    x = X.clone()
    x[7] = 40.0
    method = METHODS["flow" if name == "weighted" else name]
    with pytest.raises(RuntimeError, match="NaN or inf"):
        bits_per_dim(broken, x, method, batch_size=3, path=path, **QUIET)
    assert Bound.load(path).indices.tolist() == list(range(6))


def test_no_gradients_are_kept(net, name):
    """Neither in the result nor in the parameters; and the caller's grad mode stays."""
    linear = torch.nn.Linear(2, 2).double()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x, t):
            return self.linear(x)

    model = ScoreModel(Net(), LinearVP())
    bits_per_dim(model, X, METHODS[name], LEVELS if name == "weighted" else None, **QUIET)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in linear.parameters())


# --- several methods ----------------------------------------------------------------------------------------------------


def test_all_methods_at_once_are_each_alone(net):
    methods = {k: m for k, m in METHODS.items() if k != "weighted"}
    model = net.score_model(LinearVP())
    with model.metered() as cost:
        together = bits_per_dim(model, X, methods, batch_size=3, seed=5, **QUIET)
    assert list(together) == list(methods)
    for name, bound in together.items():
        assert_same(bound, evaluate(net, name))
    assert cost.evaluations == sum(bound.evaluations for bound in together.values())


def nested(schedule=None):
    """Grids whose times are among those of the finest."""
    times = (schedule or LinearVP()).time(np.linspace(-10.0, 6.0, 13))
    times[0] = 1.0
    return {k: Grid((*times[:: 12 // k].tolist(), 0.0)) for k in (1, 2, 3, 4, 6, 12)}


def test_nested_chains_share_the_network(net):
    """One call per distinct time; each chain is the same to the last bit as alone, with every decoder and covariance."""
    grids = nested()
    chains = {f"{k}": Chain(grid, Isotropic(CURVE), 0.1) for k, grid in grids.items()}
    chains |= {f"{k} beta": Chain(grid, Beta(), 0.3) for k, grid in grids.items()}
    chains |= {f"{k} categorical": Chain(grid, Beta(), CategoricalDecoder()) for k, grid in grids.items()}
    model = net.score_model(LinearVP())
    with model.metered() as shared:
        together = bits_per_dim(model, X, chains, LEVELS, batch_size=4, **QUIET)
    distinct = {t for grid in grids.values() for t in grid.times[:-1]}
    assert shared.evaluations == len(distinct) * len(X) == 13 * len(X)
    for name, chain in chains.items():
        alone = net.score_model(LinearVP())
        with alone.metered() as cost:
            bound = bits_per_dim(alone, X, chain, LEVELS, batch_size=4, **QUIET)
        np.testing.assert_allclose(together[name].terms, bound.terms, rtol=1e-12)
        calls = chain.grid.steps - ("categorical" in name)
        assert together[name].evaluations == bound.evaluations == cost.evaluations == calls * len(X)
        assert chain.calls == calls


def test_chains_without_a_time_in_common(net):
    chains = {"a": Chain(even(3, 0.1), Beta(), 0.2), "b": Chain(even_log_snr(LinearVP(), 4, 0.03), Beta(), NoDecoder())}
    model = net.score_model(LinearVP())
    with model.metered() as cost:
        bits_per_dim(model, X, chains, **QUIET)
    assert cost.evaluations == (1 + 2 + 2) * len(X)  # t = 1 is shared, the last of "b" needs no call


def test_some_methods_finished(net, tmp_path):
    """A folder that holds one chain complete, one in part and one not at all; each counts its own calls once."""
    chains = {
        "a": Chain(even(4, 0.05), Beta(), 0.2),
        "b": Chain(even(3, 0.02), Beta(), 0.2),
        "c/d": Chain(even(2, 0.1), Beta(), 0.2),
    }
    options = {"batch_size": 4, "seed": 5, **QUIET}
    whole = bits_per_dim(net.score_model(LinearVP()), X, chains, **options)
    bits_per_dim(net.score_model(LinearVP()), X, {"a": chains["a"]}, path=tmp_path, **options)
    net.budget = 4
    with pytest.raises(KeyboardInterrupt):  # after one batch of four and a call
        bits_per_dim(net.score_model(LinearVP()), X, {"b": chains["b"]}, path=tmp_path, **options)
    net.budget = math.inf
    found = bits_per_dim(net.score_model(LinearVP()), X, chains, path=tmp_path, **options)
    for name, bound in found.items():
        assert_same(bound, whole[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "c_d.safetensors"]


def test_parts_of_one_batch_finished(net, tmp_path):
    """Another batch size cuts through what one of two chains has finished: it is not measured, or counted, again."""
    chains = {"a": Chain(even(4, 0.05), Beta(), 0.2), "b": Chain(even(3, 0.02), Beta(), 0.2)}
    whole = bits_per_dim(net.score_model(LinearVP()), X, chains, seed=5, **QUIET)
    net.budget = 4 * 2 + 1
    with pytest.raises(KeyboardInterrupt):  # examples 0 and 1
        bits_per_dim(net.score_model(LinearVP()), X, {"a": chains["a"]}, path=tmp_path, seed=5, batch_size=1, **QUIET)
    net.budget = math.inf
    found = bits_per_dim(net.score_model(LinearVP()), X, chains, path=tmp_path, seed=5, **QUIET)
    for name, bound in found.items():
        np.testing.assert_allclose(bound.terms, whole[name].terms, rtol=1e-12)
        assert bound.evaluations == whole[name].evaluations, name


def test_names_must_have_files_of_their_own(net, tmp_path):
    """A slash becomes an underscore: two names may not meet there."""
    chains = {"a/b": Chain(even(4, 0.05), Beta(), 0.2), "a_b": Chain(even(3, 0.05), Beta(), 0.2)}
    model = net.score_model(LinearVP())
    bits_per_dim(model, X, chains, **QUIET)
    with pytest.raises(ValueError, match=r"'a/b' and 'a_b' would share the file .*a_b\.safetensors"):
        bits_per_dim(model, X, chains, path=tmp_path, **QUIET)


# --- what a careful reader tried ---------------------------------------------------------------------------------------


def test_merging_needs_every_shard(net):
    shards = [evaluate(net, "chain", shard=(i, 3)) for i in range(3)]
    with pytest.raises(ValueError, match=r"hold \d+ of 11 examples"):
        Bound.merge(shards[::2])
    assert len(Bound.merge(shards[::2], partial=True).indices) < 11


def test_shards_hold_the_same_examples_for_all_methods(net):
    """Whole blocks of the flow, though the chain has none; an empty shard says so without a warning."""
    methods = {"chain": METHODS["chain"], "flow": METHODS["flow"]}
    for i in range(6):
        found = bits_per_dim(net.score_model(LinearVP()), X, methods, shard=(i, 6), **QUIET)
        np.testing.assert_array_equal(found["chain"].indices, found["flow"].indices)
        assert len(found["chain"].indices) or math.isnan(found["chain"].total.value)


@pytest.mark.parametrize("where", ["a file as folder", "a folder as file", "a name too long"])
def test_bad_paths_are_found_before_the_work(net, tmp_path, where):
    net.budget = 0
    (tmp_path / "file").write_text("")
    path = {
        "a file as folder": tmp_path / "file" / "x",
        "a folder as file": tmp_path,
        "a name too long": tmp_path / ("n" * 300),
    }
    with pytest.raises((ValueError, OSError)) as error:
        evaluate(net, "chain", path=path[where])
    assert "KeyboardInterrupt" not in repr(error.value)


def test_files_changed_by_hand_are_refused(net, tmp_path):
    path = tmp_path / "bound.safetensors"
    bound = evaluate(net, "chain", path=path)
    arrays, metadata = load_arrays(path, "bound")
    for change in ({"terms": bound.terms[:, :2]}, {"terms": bound.terms * np.nan}, {"indices": np.zeros(11, dtype=np.int64)}):
        save_arrays(path, arrays | change, metadata)
        with pytest.raises(ValueError, match=r"inconsistent|NaN"):
            evaluate(net, "chain", path=path)
    save_arrays(path, arrays | {"indices": np.arange(11) + 5}, metadata)
    with pytest.raises(ValueError, match="inconsistent"):
        evaluate(net, "chain", path=path)


def test_loaders_of_their_own_mind_are_refused(net):
    data = TensorDataset(X)
    for loader in (DataLoader(data, collate_fn=lambda items: items), DataLoader(data, sampler=SubsetRandomSampler([1]))):
        with pytest.raises(ValueError, match="would be ignored"):
            bits_per_dim(net.score_model(LinearVP()), loader, METHODS["chain"], **QUIET)


def test_decoders_and_entries_are_checked():
    assert ContinuousTime(0.05, 0.1).decoder == GaussianDecoder(0.1)
    with pytest.raises(ValueError, match="a decoder is"):
        Chain(even(3, 0.1), Beta(), "wide")
    with pytest.raises(ValueError, match="entry must be"):
        Flow(0.1, GaussianDecoder(0.1))
    with pytest.raises(ValueError, match="density of noisy data"):
        Flow(0.1, Diffused(NoDecoder()), ExactTrace(), importance_samples=2)


def test_inference_mode_does_not_stop_a_flow(net):
    with torch.inference_mode():
        inside = evaluate(net, "flow")
    np.testing.assert_allclose(inside.per_example, evaluate(net, "flow").per_example, rtol=1e-12)
