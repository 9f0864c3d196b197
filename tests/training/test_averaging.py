"""Averages against plain loops in numpy and against torch.optim.swa_utils."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

from optbench.config import Choice
from optbench.config.durations import BatchPlan, Horizon
from optbench.training import averaging
from optbench.training.averaging import ExponentialMovingAverage, StochasticWeightAveraging

CONF = Path(__file__).parents[2] / "conf" / "averaging"


class Net(nn.Module):
    """Parameters, running statistics, a counter, and a buffer that no checkpoint holds."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first = nn.Linear(4, 3, dtype=dtype)
        self.norm = nn.BatchNorm1d(3, dtype=dtype)
        self.tied = nn.Linear(4, 3, dtype=dtype)
        self.tied.weight = self.first.weight
        self.register_buffer("hidden", torch.zeros(5, dtype=dtype), persistent=False)

    def forward(self, inputs):
        return self.norm(self.first(inputs) + self.tied(inputs))


def models(steps, dtype=torch.float64, seed=0):
    """A model on a random path: yields it after each of ``steps`` steps, always the same object."""
    generator = torch.Generator().manual_seed(seed)
    model = Net(dtype)
    for step in range(steps):
        with torch.no_grad():
            for tensor in [*model.parameters(), model.norm.running_mean, model.norm.running_var, model.hidden]:
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        model.norm.num_batches_tracked += 1
        yield step, model


def _averaged(model):
    return {name: table[key] for name, (table, key) in averaging._places(model).items()}


def snapshot(model):
    return {name: tensor.detach().double().numpy().copy() for name, tensor in _averaged(model).items()}


def run(average, steps, **options):
    """Update ``average`` along a path; returns it, the model, and what the model was after each step."""
    path = []
    for step, model in models(steps, **options):
        if callable(average):
            average = average(model)
        average.update(model, step)
        path.append(snapshot(model))
    return average, model, path


def averaged(average, model):
    with average.applied_to(model):
        return snapshot(model)


def assert_same(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], err_msg=name, **(tolerance or {"rtol": 1e-12}))


def test_what_is_averaged():
    assert set(_averaged(Net())) == {
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "tied.bias",
    }


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_exponential_moving_average_equals_a_plain_loop(warmup, start):
    average, model, path = run(lambda model: ExponentialMovingAverage(model, 0.8, warmup, start), 60)
    first, *rest = path[max(start - 1, 0) :]
    expected = first
    for update, values in enumerate(rest, start=1):
        decay = min(0.8, (1 + update) / (10 + update)) if warmup else 0.8
        expected = {name: decay * expected[name] + (1 - decay) * values[name] for name in values}
    assert_same(averaged(average, model), expected)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (0, 7), (10, 1), (10, 5), (20, 100)])
def test_stochastic_weight_averaging_equals_the_mean_of_the_snapshots(start, every):
    average, model, path = run(lambda model: StochasticWeightAveraging(model, start, every), 30)
    # path[i] is the model that i + 1 steps have made.
    taken = [path[made - 1] for made in range(1, 31) if made >= start and (made - start) % every == 0]
    assert len(taken) == average.updates == {(0, 1): 30, (0, 7): 4, (10, 1): 21, (10, 5): 5, (20, 100): 1}[start, every]
    expected = {name: np.mean([values[name] for values in taken], axis=0) for name in path[0]}
    assert_same(averaged(average, model), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda model: ExponentialMovingAverage(model, 0.9, warmup=False), get_ema_avg_fn(0.9)),
        (StochasticWeightAveraging, get_swa_avg_fn()),
    ],
)
def test_equals_torch(make, rule):
    theirs = None
    for step, model in models(25):
        if step == 0:
            ours, theirs = make(model), AveragedModel(model, avg_fn=rule, use_buffers=True)
        ours.update(model, step)
        theirs.update_parameters(model)
    assert_same(averaged(ours, model), snapshot(theirs.module))


def test_the_model_comes_back_bit_for_bit_also_after_an_error():
    average, model, _ = run(lambda model: ExponentialMovingAverage(model, 0.9), 10, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = [parameter.data_ptr() for parameter in model.parameters()]
    hidden = model.hidden.clone()

    def evaluate():
        with average.applied_to(model):
            changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
            assert changed == set(before) - {"norm.num_batches_tracked"}
            assert model.tied.weight is model.first.weight
            assert torch.equal(model.hidden, hidden)
            model.train()
            model(torch.randn(8, 4))  # moves the running statistics that the average lent
            raise RuntimeError("while evaluating")

    with pytest.raises(RuntimeError, match="while evaluating"):
        evaluate()

    after = model.state_dict()
    for name in set(before) - {"norm.num_batches_tracked"}:
        assert torch.equal(after[name], before[name]), name
    assert [parameter.data_ptr() for parameter in model.parameters()] == identities


def test_the_average_itself_is_not_changed_by_being_used():
    average, model, _ = run(lambda model: ExponentialMovingAverage(model, 0.9), 10)
    first = averaged(average, model)
    with average.applied_to(model), torch.no_grad():
        model.first.weight.zero_()
    assert_same(averaged(average, model), first, rtol=0)


def test_before_its_start_there_is_no_average():
    average, model, path = run(lambda model: StochasticWeightAveraging(model, start=11), 10)
    assert not average.active
    assert_same(averaged(average, model), path[-1], rtol=0)
    average.update(model, 10)
    assert average.active


@pytest.mark.parametrize(
    "make", [ExponentialMovingAverage, lambda model: StochasticWeightAveraging(model, start=15, every=2)]
)
@pytest.mark.parametrize("resume_at", [5, 20])
def test_a_resumed_average_ends_bit_for_bit_where_an_undisturbed_one_ends(make, resume_at):
    undisturbed, model, _ = run(make, 30, dtype=torch.float32)
    for step, other in models(30, dtype=torch.float32):
        if step == 0:
            resumed = make(other)
        if step == resume_at:
            checkpoint = io.BytesIO()
            torch.save(resumed.state_dict(), checkpoint)
            checkpoint.seek(0)
            resumed = make(other)
            resumed.load_state_dict(torch.load(checkpoint, weights_only=True))
        resumed.update(other, step)
    assert resumed.active
    assert_same(averaged(resumed, other), averaged(undisturbed, model), rtol=0)


def test_a_loaded_state_is_a_copy():
    average, model, _ = run(ExponentialMovingAverage, 3)
    state = average.state_dict()
    before = {name: tensor.clone() for name, tensor in state["average"].items()}
    resumed = ExponentialMovingAverage(model)
    resumed.load_state_dict(state)
    resumed.update(model, 3)
    assert all(torch.equal(state["average"][name], tensor) for name, tensor in before.items())


def test_the_state_of_another_model_is_refused():
    average, _, _ = run(ExponentialMovingAverage, 3)
    with pytest.raises(ValueError, match=r"tied\.bias"):
        ExponentialMovingAverage(Net().first).load_state_dict(average.state_dict())


def test_tensors_that_a_model_replaces_are_followed():
    average, model, path = run(StochasticWeightAveraging, 2)
    model.to(torch.float32).to(torch.float64)  # puts new buffers in the place of the old
    for name in path[0]:
        path[1][name] = path[1][name].astype(np.float32).astype(np.float64)
    average.update(model, 2)
    with average.applied_to(model):
        assert not np.allclose(snapshot(model)["norm.running_mean"], path[1]["norm.running_mean"])
    assert_same(snapshot(model), path[1], rtol=0)


def test_small_changes_to_a_bfloat16_model_are_not_lost():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.constant_(model.weight, 0.0)
    average = ExponentialMovingAverage(model, 0.999, warmup=False)
    average.update(model, 0)
    nn.init.constant_(model.weight, 1.0)
    for step in range(1, 3001):
        average.update(model, step)
    with average.applied_to(model):
        assert model.weight.dtype == torch.bfloat16
        assert model.weight.item() == pytest.approx(1 - 0.999**3000, rel=2**-8)
    assert model.weight.item() == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("none", type(None)), ("ema", ExponentialMovingAverage), ("swa", StochasticWeightAveraging)],
)
def test_every_choice_builds(name, expected):
    choice = Choice.of("averaging", yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    in_steps = choice.in_steps(Horizon(BatchPlan(10), examples=100, steps=100))
    assert type(averaging.build(in_steps, Net())) is expected
