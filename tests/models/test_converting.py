"""Models from elsewhere: torch's batch norm and dropout become ours, and what depends on how a batch is cut is refused."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.errors import UserError
from optbench.models import layers
from optbench.models.converting import ConvertedBatchNorm, check_passes, converted
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy


def convnet(**norm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, **norm), nn.ReLU(), nn.Flatten(), nn.Dropout(0.4), nn.Linear(16, 3)
    ).double()


NORMS = [{}, {"momentum": 0.3, "eps": 1e-2}, {"momentum": None}, {"affine": False}]
if "bias" in inspect.signature(nn.BatchNorm2d).parameters:  # of recent versions of torch
    NORMS.append({"bias": False})


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_converted_model_trains_and_evaluates_as_torchs_does_on_whole_batches(norm):
    theirs = convnet(**norm)
    theirs[4].p = 0.0  # whose masks are not torch's
    ours = converted(copy.deepcopy(theirs))
    assert isinstance(ours[1], ConvertedBatchNorm)
    for seed in range(3):
        inputs = torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(inputs), theirs(inputs))
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    assert int(state["1.num_batches_tracked"]) == 3
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))
    convnet(**norm).load_state_dict(state)


def test_parameters_and_buffers_stay_the_same_tensors_and_modes_stay():
    model = convnet()
    model[1].eval()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    own = converted(model)
    assert own is model
    assert all(dict(model.named_parameters()).get(name, dict(model.named_buffers()).get(name)) is tensor
               for name, tensor in tensors.items())  # fmt: skip
    assert [type(module) for module in (model[1], model[4])] == [ConvertedBatchNorm, layers.Dropout]
    assert not model[1].training
    assert model[4].training
    assert model[4].probability == 0.4
    assert converted(model) is model  # nothing is left to do


def test_a_module_in_two_places_stays_one_and_a_model_may_be_a_norm_itself():
    norm = nn.BatchNorm1d(3)
    model = converted(nn.Sequential(norm, nn.Linear(3, 3), norm))
    assert model[0] is model[2]
    assert isinstance(converted(nn.BatchNorm2d(2)), ConvertedBatchNorm)
    assert isinstance(converted(nn.SyncBatchNorm(2)), ConvertedBatchNorm)
    assert isinstance(Network(nn.BatchNorm1d(2)).model, ConvertedBatchNorm)


def gradients(micro_batch):
    model = convnet()
    network = Network(model)
    layers.set_ghost_batch_size(model, 4)
    inputs = torch.randn(16, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = Objective(network, CrossEntropy(), inputs, torch.arange(16) % 3, Execution(micro_batch=micro_batch), 7)
    objective()
    objective.finish()
    return [p.grad for p in model.parameters()], model.state_dict()


def test_the_gradient_does_not_depend_on_the_micro_batch():
    whole, state = gradients(None)
    for micro_batch in (4, 8):
        parts, moved = gradients(micro_batch)
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(moved, state, rtol=1e-10, atol=1e-12)  # num_batches_tracked among it: one step
    assert int(state["1.num_batches_tracked"]) == 1


def test_it_is_said_once_in_a_line(capsys, monkeypatch):
    monkeypatch.setattr("optbench.system.saying._said", set())
    Network(convnet())
    Network(convnet())
    Network(nn.Linear(2, 2))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("optbench: Sequential: 1 BatchNorm2d, 1 Dropout replaced by those of optbench.models.layers")


class Inner(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), "no running statistics"),
        (lambda: nn.LazyBatchNorm1d(), "state its sizes"),
        (lambda: nn.LazyLinear(3), "state its sizes"),
        (lambda: nn.Dropout(1.0), "p=1.0"),
        (lambda: nn.Dropout2d(0.5), "torch's generator"),
        (lambda: nn.AlphaDropout(0.5), "torch's generator"),
        (lambda: nn.FeatureAlphaDropout(0.5), "torch's generator"),
        (lambda: nn.RReLU(), "torch's generator"),
        (lambda: nn.FractionalMaxPool2d(2, output_size=1), "torch's generator"),
        (lambda: nn.LSTM(3, 3, 2, dropout=0.1), "dropout=0.1; set it to 0"),
        (lambda: nn.MultiheadAttention(4, 2, dropout=0.1), "dropout=0.1; set it to 0"),
        (lambda: nn.TransformerEncoderLayer(4, 2, dropout=0.1), r"part\.self_attn \(MultiheadAttention\)"),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats=False"),
        (lambda: nn.utils.spectral_norm(nn.Linear(3, 3)), "power iteration"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), "power iteration"),
        (lambda: nn.Embedding(5, 3, max_norm=1.0), "max_norm=None"),
        (lambda: type("Mine", (nn.BatchNorm2d,), {})(3), "of its own kind"),
        (lambda: type("Mine", (nn.Dropout,), {})(0.1), "torch's generator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "module",
)
def test_what_depends_on_the_batch_and_cannot_be_replaced_is_refused_by_its_place(module, said):
    with pytest.raises(UserError, match=said) as error:
        converted(Inner(module()))
    assert str(error.value).startswith("model: its part part")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "module",
    [
        lambda: nn.LSTM(3, 3, 2),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.InstanceNorm2d(3),
        lambda: nn.GroupNorm(1, 3),
        lambda: nn.LayerNorm(3),
        lambda: nn.Embedding(5, 3),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ],
    ids=lambda _: "module",
)
def test_what_treats_each_example_by_itself_is_left_alone(module):
    model = Inner(module())
    parts = list(model.modules())
    assert list(converted(model).modules()) == parts


class Drawing(nn.Linear):
    def forward(self, inputs):
        return F.dropout(super().forward(inputs), 0.5, self.training)


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, inputs):
        self.mean += 0.1 * (inputs.mean(0) - self.mean)
        return super().forward(inputs - self.mean)


class Remembering(nn.Linear):
    """Sets up something at its first pass, and keeps it."""

    kept = None

    def forward(self, inputs):
        if self.kept is None:
            self.kept = torch.ones(3)
        return super().forward(inputs * self.kept)


def test_a_pass_that_draws_or_keeps_statistics_is_found():
    inputs, drawing = torch.randn(2, 3), Drawing(3, 2)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"Drawing draws from torch's generator.*not as a function"):
        check_passes(drawing, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match="Counting changes its own mean in every pass"):
        check_passes(Counting(), inputs)
    check_passes(Drawing(3, 2).eval(), inputs)
    check_passes(Remembering(3, 2), inputs)
    check_passes(nn.Linear(4, 2), inputs)  # whose error is the training's to tell
