"""Batch norm against torch's own, whole, in groups and over ranks; dropout against what its masks promise."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from optbench import randomness
from optbench.models.layers import (
    BatchNorm,
    Dropout,
    all_reduce_sum,
    batch_norms,
    commit_batch_norms,
    place_dropout,
    set_ghost_batch_size,
)
from optbench.objective import Execution
from tests.two_ranks import on_two_ranks

CHANNELS = 5
SHAPES = {"dense": (12, CHANNELS), "sequence": (12, CHANNELS, 7), "image": (12, CHANNELS, 4, 3)}
TORCH = {"dense": nn.BatchNorm1d, "sequence": nn.BatchNorm1d, "image": nn.BatchNorm2d}


def inputs_of(kind, seed=0, dtype=torch.float64, count=12):
    """Inputs whose channels differ in mean and spread."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *SHAPES[kind][1:])
    column = (1, CHANNELS) + (1,) * (len(shape) - 2)
    spread = torch.linspace(0.5, 3, CHANNELS, dtype=torch.float64).view(column)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * spread + spread**2).to(dtype)


def randomize(norm, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(CHANNELS, generator=generator))
    return norm


def curved(outputs):
    """A loss that no symmetry of batch norm sends to a constant."""
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    return (weights * outputs**2 + outputs.sin()).sum()


def by_hand(norm, inputs):
    """Batch norm of the whole batch in plain operations, with the weight and bias of ``norm``."""
    over, column = (0, *range(2, inputs.ndim)), (1, -1, *[1] * (inputs.ndim - 2))
    centred = inputs - inputs.mean(over, keepdim=True)
    deviation = (centred.square().mean(over, keepdim=True) + norm.eps).sqrt()
    return centred / deviation * norm.weight.view(column) + norm.bias.view(column)


def group_statistics(inputs, group):
    """The mean over groups of every channel's mean and unbiased variance, in plain formulas."""
    over = [0, *range(2, inputs.ndim)]
    parts = inputs.split(group)
    return (
        torch.stack([part.mean(over) for part in parts]).mean(0),
        torch.stack([part.var(over, unbiased=True) for part in parts]).mean(0),
    )


# ---- the whole batch as one group: ordinary batch norm --------------------------------------------------------------


@pytest.mark.parametrize("group", [None, 12, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("kind", SHAPES)
def test_one_group_is_torchs_batch_norm(kind, dtype, tolerance, group):
    """Five steps of gradient descent: outputs, gradients, parameters and running statistics, then eval mode."""
    ours = randomize(BatchNorm(CHANNELS, momentum=0.3, eps=1e-3).to(dtype))
    theirs = randomize(TORCH[kind](CHANNELS, momentum=0.3, eps=1e-3).to(dtype))
    ours.group = group
    for step in range(5):
        results = []
        for norm in (ours, theirs):
            norm.zero_grad()
            inputs = inputs_of(kind, step, dtype).requires_grad_()
            outputs = norm(inputs)
            curved(outputs).backward()
            with torch.no_grad():
                for parameter in norm.parameters():
                    parameter -= 1e-3 * parameter.grad
            results.append((outputs, inputs.grad, norm.weight.grad, norm.bias.grad, norm.weight, norm.bias))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)  # the same kernel
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=tolerance, atol=tolerance)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=10 * tolerance, atol=10 * tolerance)
    before = ours.running_mean.clone()
    ours(inputs)
    assert torch.equal(ours.running_mean, before)
    assert not ours.recorded


def test_defaults_are_torchs():
    ours, theirs = BatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    assert (ours.momentum, ours.eps) == (theirs.momentum, theirs.eps)
    state = theirs.state_dict()
    del state["num_batches_tracked"]
    assert {name: value.tolist() for name, value in ours.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }


def test_half_precision_inputs_keep_full_statistics():
    norm = BatchNorm(CHANNELS)
    inputs = inputs_of("image", dtype=torch.bfloat16)
    assert norm(inputs).dtype == torch.bfloat16
    mean, variance = group_statistics(inputs.double(), 12)
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * variance, rtol=1e-5, atol=1e-5)


# ---- ghost groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "group", [2, 4, 5, 6, 11], ids=lambda group: f"group{group}"
)  # 5: groups of 5, 5, 2; 11: of 11, 1
@pytest.mark.parametrize("kind", ["sequence", "image"])
def test_groups_are_batch_norms_of_their_own(kind, group):
    ours = randomize(BatchNorm(CHANNELS)).double()
    ours.group = group
    theirs = randomize(TORCH[kind](CHANNELS)).double()
    inputs, theirs_inputs = inputs_of(kind).requires_grad_(), inputs_of(kind).requires_grad_()
    outputs = ours(inputs)
    expected = torch.cat([theirs(part) for part in theirs_inputs.split(group)])
    assert torch.equal(outputs, expected)
    curved(outputs).backward()
    curved(expected).backward()
    torch.testing.assert_close(inputs.grad, theirs_inputs.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-12, atol=1e-12)
    mean, variance = group_statistics(inputs.detach(), group)
    torch.testing.assert_close(ours.running_mean, 0.1 * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * variance, rtol=1e-12, atol=1e-12)


def test_groups_see_nothing_of_each_other():
    norm = BatchNorm(CHANNELS)
    norm.group = 4
    inputs = inputs_of("dense", dtype=torch.float32)
    changed = inputs.clone()
    changed[4:8] = changed[4:8].square()
    one, other = norm(inputs), norm(changed)
    assert torch.equal(one[:4], other[:4])
    assert torch.equal(one[8:], other[8:])
    assert not torch.equal(one[4:8], other[4:8])


def test_gradients_of_groups_agree_with_finite_differences():
    norm = randomize(BatchNorm(CHANNELS)).double()
    norm.group = 5
    norm.recording = "hold"
    inputs = inputs_of("dense").requires_grad_()
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


# ---- when the running statistics move -------------------------------------------------------------------------------


def test_follow_moves_after_every_pass():
    norm = BatchNorm(CHANNELS, momentum=0.25).double()
    expected = torch.zeros(CHANNELS, dtype=torch.float64)
    for seed in range(3):
        norm(inputs_of("dense", seed))
        expected = 0.75 * expected + 0.25 * inputs_of("dense", seed).mean(0)
        torch.testing.assert_close(norm.running_mean, expected, rtol=1e-12, atol=1e-12)


def test_record_moves_once_by_the_mean_over_all_groups():
    """Three micro-batches of two groups each are one movement by the mean over six groups."""
    norm = BatchNorm(CHANNELS, momentum=0.25).double()
    norm.group, norm.recording = 6, "record"
    parts = [inputs_of("dense", seed) for seed in range(3)]
    for part in parts:
        norm(part)
        assert not norm.running_mean.any()
    norm.commit()
    mean, variance = group_statistics(torch.cat(parts), 6)
    torch.testing.assert_close(norm.running_mean, 0.25 * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance, rtol=1e-12, atol=1e-12)
    kept = copy.deepcopy(norm.state_dict())
    norm.commit()  # nothing is left to commit
    assert all(torch.equal(kept[name], value) for name, value in norm.state_dict().items())


def test_hold_moves_nothing_and_gives_the_same_outputs():
    norm = randomize(BatchNorm(CHANNELS))
    norm.group = 4
    following = copy.deepcopy(norm)
    norm.recording = "hold"
    inputs = inputs_of("image", dtype=torch.float32)
    assert torch.equal(norm(inputs), following(inputs))
    norm.commit()
    assert norm.running_mean.tolist() == [0.0] * CHANNELS
    assert norm.running_var.tolist() == [1.0] * CHANNELS
    assert following.running_mean.any()


def test_what_is_held_after_what_is_recorded_is_not_counted():
    norm = BatchNorm(CHANNELS).double()
    norm.recording = "record"
    norm(inputs_of("dense", 0))
    norm.recording = "hold"
    norm(100 * inputs_of("dense", 1))
    norm.commit()
    torch.testing.assert_close(norm.running_mean, 0.1 * inputs_of("dense", 0).mean(0), rtol=1e-12, atol=1e-12)


def test_the_recorded_statistics_hold_no_graph():
    norm = BatchNorm(CHANNELS)
    norm.recording = "record"
    norm(inputs_of("dense", dtype=torch.float32).requires_grad_())
    assert not any(tensor.requires_grad for pair in norm.recorded for tensor in pair)


def test_commit_batch_norms_moves_every_norm_by_its_own_groups():
    model = nn.Sequential(BatchNorm(CHANNELS, momentum=0.1), nn.Tanh(), BatchNorm(CHANNELS, momentum=0.5)).double()
    set_ghost_batch_size(model, 4)
    norms = batch_norms(model)
    assert norms == [model[0], model[2]]
    for norm in norms:
        norm.recording = "record"
    inputs = inputs_of("image")
    model(inputs)
    commit_batch_norms(norms)
    over = (0, 2, 3)
    hidden = torch.cat(
        [
            torch.tanh(
                (part - part.mean(over, keepdim=True)) / (part.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()
            )
            for part in inputs.split(4)
        ]
    )
    for norm, values in zip(norms, (inputs, hidden), strict=True):
        mean, variance = group_statistics(values, 4)
        kept = 1 - norm.momentum
        torch.testing.assert_close(norm.running_mean, norm.momentum * mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norm.running_var, kept + norm.momentum * variance, rtol=1e-10, atol=1e-12)
        assert not norm.recorded


def test_commit_batch_norms_passes_over_norms_that_recorded_nothing():
    idle, busy = BatchNorm(CHANNELS), BatchNorm(CHANNELS)
    busy.recording = "record"
    busy(inputs_of("dense", dtype=torch.float32))
    commit_batch_norms([idle, busy])
    assert not idle.running_mean.any()
    assert busy.running_mean.all()
    commit_batch_norms([])


# ---- one group over two ranks ---------------------------------------------------------------------------------------


def cubic(inputs):
    """The local part of a function of all ranks' inputs, whose sum over ranks is 3 (sum x^2)^3 for weights 1 and 2."""
    return (1 + dist.get_rank()) * all_reduce_sum(inputs.square().sum(), None) ** 3


def derivatives(function, inputs, vector):
    """The first three derivatives of ``function``: the gradient, H v, and the derivative of v H v."""
    inputs = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(inputs), inputs, create_graph=True)
    (product,) = torch.autograd.grad((gradient * vector).sum(), inputs, create_graph=True)
    (third,) = torch.autograd.grad((product * vector).sum(), inputs)
    return gradient.detach(), product.detach(), third


def on_one_of_two_ranks(rank):
    results = {}
    for kind in ("dense", "image"):
        for recording in ("follow", "record"):
            norm = randomize(BatchNorm(CHANNELS)).double()
            set_ghost_batch_size(norm, None, dist.group.WORLD)
            norm.recording = recording
            inputs = inputs_of(kind).chunk(2)[rank].clone().requires_grad_()
            outputs = norm(inputs)
            loss_of_mine(outputs, rank).backward()
            commit_batch_norms([norm], Execution(world_size=2).means_over_ranks)
            results[kind, recording] = (
                outputs.detach(),
                inputs.grad,
                norm.weight.grad,
                norm.bias.grad,
                norm.running_mean,
                norm.running_var,
            )
        norm.recording = "hold"
        share, vector = inputs_of(kind).chunk(2)[rank], inputs_of(kind, 1).chunk(2)[rank]
        results[kind, "derivatives"] = derivatives(lambda inputs: loss_of_mine(norm(inputs), rank), share, vector)  # noqa: B023
    # Ghost groups that do not span ranks: every rank has its own, and the running statistics their mean.
    norm = BatchNorm(CHANNELS).double()
    norm.group, norm.recording = 3, "record"
    norm(inputs_of("image").chunk(2)[rank])
    commit_batch_norms([norm], Execution(world_size=2).means_over_ranks)
    results["ghost"] = (norm.running_mean, norm.running_var)
    results["cubic"] = derivatives(cubic, inputs_of("dense").chunk(2)[rank], inputs_of("dense", 1).chunk(2)[rank])
    return results


def loss_of_mine(outputs, rank):
    return curved(outputs) * (1 + rank)


@pytest.mark.slow
def test_one_group_over_two_ranks_is_torchs_batch_norm_on_one(tmp_path):
    ranks = on_two_ranks(on_one_of_two_ranks, tmp_path)

    def close(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    def loss(outputs):
        return sum(loss_of_mine(part, rank) for rank, part in enumerate(outputs.chunk(2)))

    for kind in ("dense", "image"):
        norm = randomize(TORCH[kind](CHANNELS)).double()
        inputs = inputs_of(kind).requires_grad_()
        outputs = norm(inputs)
        loss(outputs).backward()
        for recording in ("follow", "record"):
            one, other = (rank[kind, recording] for rank in ranks)
            close(torch.cat([one[0], other[0]]), outputs.detach())
            close(torch.cat([one[1], other[1]]), inputs.grad)
            close(one[2] + other[2], norm.weight.grad)
            close(one[3] + other[3], norm.bias.grad)
            for part in (one, other):
                close(part[4], norm.running_mean)
                close(part[5], norm.running_var)
        found = [torch.cat(pair) for pair in zip(*(rank[kind, "derivatives"] for rank in ranks), strict=True)]
        # Third derivatives of torch's kernel are wrong: its double backward takes the saved mean for a constant.
        expected = derivatives(lambda inputs: loss(by_hand(norm, inputs)), inputs_of(kind), inputs_of(kind, 1))  # noqa: B023
        for actual, right in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, right, rtol=1e-8, atol=1e-8 * float(right.abs().max()))

    mean, variance = group_statistics(inputs_of("image"), 3)
    for rank in ranks:
        close(rank["ghost"][0], 0.1 * mean)
        close(rank["ghost"][1], 0.9 + 0.1 * variance)

    # f = 3 s^3 with s = x.x: the gradient is 18 s^2 x and H v = 18 s^2 v + 72 s (x.v) x. The gradient of
    # v.(H v) = 18 s^2 v.v + 72 s (x.v)^2 is 72 s (v.v) x + 144 (x.v)^2 x + 144 s (x.v) v.
    x, v = inputs_of("dense"), inputs_of("dense", 1)
    s, xv, vv = x.square().sum(), (x * v).sum(), v.square().sum()
    closed_forms = (
        18 * s**2 * x,
        18 * s**2 * v + 72 * s * xv * x,
        72 * s * vv * x + 144 * xv**2 * x + 144 * s * xv * v,
    )
    for number, right in enumerate(closed_forms):
        torch.testing.assert_close(torch.cat([rank["cubic"][number] for rank in ranks]), right, rtol=1e-12, atol=1e-6)


# ---- dropout --------------------------------------------------------------------------------------------------------


def placed(probability=0.3, layers=1, key=12345, first=0):
    """A chain of dropout layers under one draw."""
    model = nn.Sequential(*(Dropout(probability) for _ in range(layers)))
    draw = place_dropout(model, torch.device("cpu"))
    draw[0], draw[1] = key, first
    return model, draw


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_elements_are_kept_at_their_rate_and_scaled(probability):
    model, _ = placed(probability)
    inputs = torch.full((500, 40, 5), 2.0)
    outputs = model(inputs)
    kept = outputs != 0
    assert torch.equal(outputs[kept], torch.full_like(outputs[kept], 2.0 / (1 - probability)))
    deviation = math.sqrt(probability * (1 - probability) / inputs.numel())
    assert abs(kept.double().mean() - (1 - probability)) < 5 * deviation
    # Neither examples nor features are dropped as a whole.
    assert (kept.double().mean((1, 2)) - (1 - probability)).abs().max() < 5 * deviation * math.sqrt(500)
    assert (kept.double().mean(0) - (1 - probability)).abs().max() < 5 * deviation * math.sqrt(200)


def test_the_gradient_is_the_mask():
    model, _ = placed(0.4)
    inputs = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outputs = model(inputs)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, torch.where(outputs != 0, 1 / torch.tensor(1 - 0.4), 0.0))


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 5, 2], [12], [1, 11]], ids=str)
@pytest.mark.parametrize("first", [0, 36])
def test_masks_do_not_depend_on_the_cut_into_micro_batches(sizes, first):
    model, draw = placed(0.5, layers=2)
    inputs = torch.randn(48, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = model(inputs)[first : first + 12]
    parts = []
    for part in inputs[first : first + 12].split(sizes):
        draw[1] = first + sum(map(len, parts))
        parts.append(model(part))
    assert torch.equal(torch.cat(parts), whole)


def test_masks_of_examples_steps_and_layers_differ():
    inputs = torch.ones(1, 4096)
    model, draw = placed(0.5, layers=3)
    masks = {}
    for step in range(3):
        for first in (0, 1, 2):
            for layer in model:
                draw[0], draw[1] = randomness.key(0, "dropout", step), first
                masks[step, first, layer.layer] = layer(inputs) / 2
    names = list(masks)
    assert len(names) == 27
    for number, name in enumerate(names):
        for other in names[:number]:
            agreeing = (masks[name] == masks[other]).double().mean()
            assert abs(agreeing - 0.5) < 5 * 0.5 / math.sqrt(4096), (name, other)


def test_the_same_draw_gives_the_same_masks():
    inputs = torch.ones(8, 50)
    assert torch.equal(placed()[0](inputs), placed()[0](inputs))


def test_without_a_draw_torchs_generator_decides():
    inputs = torch.ones(8, 50)
    layer = Dropout(0.3)
    torch.manual_seed(5)
    ours = layer(inputs)
    torch.manual_seed(5)
    assert torch.equal(ours, F.dropout(inputs, 0.3))


@pytest.mark.parametrize("draw", [None, 1])
def test_eval_mode_and_probability_zero_change_nothing(draw):
    inputs = torch.ones(8, 50)
    for layer in (Dropout(0.3).eval(), Dropout(0.0)):
        if draw is not None:
            place_dropout(layer, torch.device("cpu"))
        assert torch.equal(layer(inputs), inputs)


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_what_is_not_a_probability_is_refused(probability):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        Dropout(probability)


def test_place_dropout_numbers_layers_in_the_order_of_modules():
    model = nn.Sequential(nn.Linear(2, 2), Dropout(0.1), nn.Sequential(nn.ReLU(), Dropout(0.2)), Dropout(0.3))
    draw = place_dropout(model, torch.device("cpu"))
    layers = [model[1], model[2][1], model[3]]
    assert [layer.layer for layer in layers] == [0, 1, 2]
    assert all(layer.draw is draw for layer in layers)
    assert draw.dtype == torch.int64
    assert draw.tolist() == [0, 0]
    assert not [name for name in model.state_dict() if "draw" in name]
    assert place_dropout(nn.Linear(2, 2), torch.device("cpu")) is None


def test_a_copy_of_a_model_keeps_one_draw():
    model, _ = placed(layers=2)
    twin = copy.deepcopy(model)
    assert twin[0].draw is twin[1].draw
    assert twin[0].draw is not model[0].draw


def test_inputs_in_half_precision_stay_so():
    model, _ = placed(0.5)
    assert model(torch.ones(4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
