"""The objective against a plain computation on the whole batch, as closure of optimizers, and in low precision."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from optbench import randomness
from optbench.errors import UserError
from optbench.models.layers import BatchNorm, Dropout, set_ghost_batch_size
from optbench.objective import Execution, LossScale, Network, Objective, dropout_key
from tests.two_ranks import on_two_ranks

BATCH, GROUP, KEY = 22, 4, dropout_key(0, 5)  # groups of batch norm of 4, 4, 4, 4, 4 and 2
TIGHT = {"rtol": 1e-12, "atol": 1e-13}


def problem(norm=True, dropout=0.3, dtype=torch.float64, seed=0):
    """A small classifier with its batch."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 10), BatchNorm(10) if norm else nn.Identity(), nn.Tanh(), Dropout(dropout), nn.Linear(10, 3)
    ).to(dtype)
    set_ghost_batch_size(model, GROUP)
    inputs, targets = torch.randn(BATCH, 6, dtype=dtype), torch.randint(0, 3, (BATCH,))
    return model, inputs, targets


def mask_of(model, rows=range(BATCH), key=KEY):
    """The factors on the hidden units of some rows of the batch, from the definition of dropout's draws."""
    positions = torch.tensor(rows)[:, None] * 10 + torch.arange(10)
    probability = model[3].probability
    kept = randomness.uniform((key + 0x9E3779B1) % 2**32, positions) >= probability
    return kept.double() / (1 - probability)


def plain_loss(model, inputs, targets, mask):
    """The loss of the whole batch at once, in torch's own functions."""
    first, norm, _, _, last = model
    hidden = F.linear(inputs, first.weight, first.bias)
    if isinstance(norm, BatchNorm):
        groups = hidden.split(GROUP)
        hidden = torch.cat([F.batch_norm(group, None, None, norm.weight, norm.bias, True) for group in groups])
    return F.cross_entropy(F.linear(torch.tanh(hidden) * mask, last.weight, last.bias), targets)


def plain_statistics(model, inputs):
    """The running statistics of batch norm after one step from their initial values 0 and 1."""
    groups = F.linear(inputs, model[0].weight, model[0].bias).detach().split(GROUP)
    mean = torch.stack([group.mean(0) for group in groups]).mean(0)
    variance = torch.stack([group.var(0) for group in groups]).mean(0)
    return 0.1 * mean, 0.9 + 0.1 * variance


def objective_of(model, inputs, targets, **execution):
    return Objective(Network(model), F.cross_entropy, inputs, targets, Execution(**execution), KEY)


def snapshot(model):
    """Copies of parameters, running statistics and gradients."""
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return copy.deepcopy(model.state_dict()), gradients


def assert_unchanged(model, kept):
    state, gradients = kept
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


# ---- the loss and its gradient --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "micro_batch"),
    [
        *itertools.product([False], [1, 3, 7, 21, None, 22, 100]),
        *itertools.product([True], [4, 8, 12, 20, None, 22, 100]),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradient_are_those_of_the_whole_batch(norm, dropout, micro_batch):
    model, inputs, targets = problem(norm, dropout)
    expected = plain_loss(model, inputs, targets, mask_of(model))
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # of the step before
    objective = objective_of(model, inputs, targets, micro_batch=micro_batch)
    value = objective()
    assert value.shape == ()
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach(), **TIGHT)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **TIGHT)
    torch.testing.assert_close(objective.loss(), expected.detach(), **TIGHT)


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_calls_within_a_step_see_the_same_masks_and_are_recorded_once(micro_batch):
    model, inputs, targets = problem()
    mean, variance = plain_statistics(model, inputs)
    objective = objective_of(model, inputs, targets, micro_batch=micro_batch)
    first = objective()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    for _ in range(2):
        assert torch.equal(objective(), first)
        assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))
    with torch.no_grad():
        model[0].weight += 1.0
    assert not torch.equal(objective(), first)
    objective.loss()
    assert torch.equal(objective.value, first)  # where the step began
    assert objective.evaluations == 4
    assert not model[1].running_mean.any()
    objective.finish()
    torch.testing.assert_close(model[1].running_mean, mean, **TIGHT)
    torch.testing.assert_close(model[1].running_var, variance, **TIGHT)
    kept = snapshot(model)
    objective.finish()
    assert_unchanged(model, kept)
    model(inputs)  # without an objective, batch norm follows every pass again
    assert not torch.equal(model[1].running_mean, mean)


def test_running_statistics_move_once_in_every_step():
    model, inputs, targets = problem()
    network, running = Network(model), torch.zeros(10, dtype=torch.float64)
    for step in range(3):
        batch = inputs + step
        objective = Objective(network, F.cross_entropy, batch, targets, Execution(micro_batch=8), dropout_key(0, step))
        objective()
        objective()
        objective.finish()
        groups = model[0](batch).detach().split(GROUP)
        running = 0.9 * running + 0.1 * torch.stack([group.mean(0) for group in groups]).mean(0)
        torch.testing.assert_close(model[1].running_mean, running, **TIGHT)


def test_the_key_names_the_masks():
    model, inputs, targets = problem()
    network = Network(model)
    keys = [dropout_key(seed, step) for seed, step in [(0, 0), (0, 1), (1, 0), (0, 10), (10, 0)]]
    assert len(set(keys)) == 5
    for key in keys:
        value = Objective(network, F.cross_entropy, inputs, targets, dropout_key=key)()
        expected = plain_loss(model, inputs, targets, mask_of(model, key=key))
        torch.testing.assert_close(value, expected.detach(), **TIGHT)


def test_a_later_rank_takes_the_masks_of_its_place_in_the_global_batch():
    model, inputs, targets = problem()
    objective = objective_of(model, inputs[:12], targets[:12], micro_batch=8, rank=2)
    expected = plain_loss(model, inputs[:12], targets[:12], mask_of(model, range(24, 36)))
    torch.testing.assert_close(objective(), expected.detach(), **TIGHT)


def test_backward_is_told_which_part_is_the_last():
    model, inputs, targets = problem()
    told = []

    def backward(loss, last):
        told.append(last)
        loss.backward()

    objective_of(model, inputs, targets, micro_batch=8, backward=backward)()
    assert told == [False, False, True]


def test_frozen_parameters_have_no_gradient():
    model, inputs, targets = problem()
    model[0].weight.requires_grad_(False)
    objective = objective_of(model, inputs, targets)
    objective()
    assert [parameter.grad is None for parameter in model.parameters()] == [True] + [False] * 5
    trial = [parameter.detach() + 0.1 for parameter in model.parameters()]
    expected = plain_loss(moved(model, trial), inputs, targets, mask_of(model))
    torch.testing.assert_close(objective.loss(at=trial), expected.detach(), **TIGHT)


# ---- the loss elsewhere ---------------------------------------------------------------------------------------------


def moved(model, trial):
    """A copy of ``model`` with other parameters."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, value in zip(twin.parameters(), trial, strict=True):
            parameter.copy_(value)
    return twin


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_the_loss_at_other_parameters(micro_batch):
    model, inputs, targets = problem()
    objective = objective_of(model, inputs, targets, micro_batch=micro_batch)
    objective()
    kept, places = snapshot(model), [parameter.data_ptr() for parameter in model.parameters()]
    recorded = len(model[1].recorded)
    generator = torch.Generator().manual_seed(1)
    trial = [p.detach() + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]
    value = objective.loss(at=trial)
    expected = plain_loss(moved(model, trial), inputs, targets, mask_of(model))
    torch.testing.assert_close(value, expected.detach(), **TIGHT)
    assert not value.requires_grad
    assert_unchanged(model, kept)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert len(model[1].recorded) == recorded
    # A call after it is still that of the model's own parameters.
    assert torch.equal(objective(), objective.value)


def test_a_failing_trial_leaves_the_parameters():
    model, inputs, targets = problem()
    kept = snapshot(model)
    objective = objective_of(model, inputs, targets)
    wrong = [torch.zeros(1, 1, dtype=torch.float64) for _ in model.parameters()]
    with pytest.raises(RuntimeError):
        objective.loss(at=wrong)
    assert_unchanged(model, kept)
    with pytest.raises(UserError, match=r"objective\.loss\(at=\.\.\.\): 2 tensors for 6 parameters"):
        objective.loss(at=wrong[:2])
    assert_unchanged(model, kept)


# ---- clipping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [1e-3, 0.1, 1e3])
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_clipping_is_torchs(clip_norm, micro_batch):
    model, inputs, targets = problem()
    expected = plain_loss(model, inputs, targets, mask_of(model))
    twin = copy.deepcopy(model)
    for parameter, gradient in zip(
        twin.parameters(), torch.autograd.grad(expected, list(model.parameters())), strict=True
    ):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
    objective = objective_of(model, inputs, targets, micro_batch=micro_batch, clip_norm=clip_norm)
    objective()
    torch.testing.assert_close(objective.gradient_norm, norm, **TIGHT)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, **TIGHT)


# ---- the closure of torch's optimizers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_optimizer", "tolerance"),
    [
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True), 1e-12),
        # The bias before batch norm has the gradient 0 but for rounding, which a smaller eps would blow up.
        (lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-4), 1e-11),
        (lambda parameters: torch.optim.LBFGS(parameters, lr=0.2, max_iter=4), 1e-8),
        (lambda parameters: torch.optim.LBFGS(parameters, max_iter=4, line_search_fn="strong_wolfe"), 1e-8),
    ],
    ids=["sgd", "adam", "lbfgs", "lbfgs_wolfe"],
)
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_closure_of_an_optimizer(make_optimizer, tolerance, micro_batch):
    model, inputs, targets = problem()
    twin = copy.deepcopy(model)
    network, mine, others = Network(model), make_optimizer(model.parameters()), make_optimizer(twin.parameters())
    for step in range(4):
        key, batch = dropout_key(0, step), inputs.roll(step, 1)
        mask = mask_of(twin, key=key)
        objective = Objective(network, F.cross_entropy, batch, targets, Execution(micro_batch=micro_batch), key)
        returned = mine.step(objective)
        objective.finish()

        def closure():
            others.zero_grad()
            loss = plain_loss(twin, batch, targets, mask)  # noqa: B023
            loss.backward()
            return loss

        expected = others.step(closure)
        assert objective.value is not None
        torch.testing.assert_close(returned, expected.detach(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(objective.value, expected.detach(), rtol=tolerance, atol=tolerance)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=tolerance, atol=tolerance)


# ---- loss scaling ---------------------------------------------------------------------------------------------------


class HalfGradient(torch.autograd.Function):
    """The identity, whose gradient passes through float16 as under fp16 autocast: infinite from 65520 on."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()


class Passes:
    """A loss, twice the sum of the outputs it is given, that counts how often it is evaluated."""

    def __init__(self):
        self.count = 0

    def __call__(self, outputs, targets):
        self.count += 1
        return 2 * HalfGradient.apply(outputs).sum()


def scaled_problem(scale, **execution):
    torch.manual_seed(0)
    model = nn.Sequential(BatchNorm(3), nn.Linear(3, 1, bias=False))
    inputs, loss = torch.randn(4, 3), Passes()
    objective = Objective(Network(model), loss, inputs, torch.zeros(4), Execution(loss_scale=scale, **execution))
    return model, inputs, loss, objective


@pytest.mark.parametrize(
    ("factor", "left", "passes"), [(2.0**16, 2.0**14, 3), (2.0**15, 2.0**14, 2), (2.0**10, 2.0**10, 1)]
)
def test_an_overflow_halves_the_factor_and_the_batch_is_evaluated_again(factor, left, passes):
    """The gradient at the outputs is 2 times the factor, which float16 holds up to a factor of 2^14."""
    scale = LossScale(factor)
    model, inputs, loss, objective = scaled_problem(scale)
    value = objective()
    assert (scale.factor, loss.count) == (left, passes)
    normal = F.batch_norm(inputs, None, None, training=True)
    torch.testing.assert_close(model[1].weight.grad, 2 * normal.sum(0, keepdim=True), rtol=0, atol=1e-5)
    plain_model, _, _, plain = scaled_problem(None)
    assert torch.equal(plain(), value)  # not scaled
    for parameter, other in zip(model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)  # powers of two are exact
    # Of all evaluations of the batch, one is counted in the running statistics.
    assert len(model[0].recorded) == 1
    objective.finish()
    plain.finish()
    assert torch.equal(model[0].running_mean, plain_model[0].running_mean)
    assert torch.equal(model[0].running_var, plain_model[0].running_var)


def test_overflow_in_one_of_several_micro_batches():
    scale = LossScale(2.0**16)
    model, inputs, loss, _ = scaled_problem(scale)
    set_ghost_batch_size(model, 2)
    objective = Objective(Network(model), loss, inputs, torch.zeros(4), Execution(micro_batch=2, loss_scale=scale))
    objective()
    # Each part has the weight 1/2: the gradient is 1 at every output, which float16 holds up to a factor of 2^15. The
    # first part overflows already, and both are evaluated again.
    assert (scale.factor, loss.count) == (2.0**15, 4)
    normal = torch.cat([F.batch_norm(part, None, None, training=True) for part in inputs.split(2)])
    torch.testing.assert_close(model[1].weight.grad, normal.sum(0, keepdim=True), rtol=0, atol=1e-5)


def test_gradients_are_clipped_after_they_are_unscaled():
    _, _, _, objective = scaled_problem(LossScale(2.0**16), clip_norm=1.0)
    plain_model, _, _, plain = scaled_problem(None)
    objective()
    plain()
    norm = torch.cat([parameter.grad.flatten() for parameter in plain_model.parameters()]).norm()
    torch.testing.assert_close(objective.gradient_norm, norm)


def test_the_factor_grows_after_a_stretch_without_overflow():
    scale = LossScale(2.0**13, growth_interval=3)
    _, _, _, objective = scaled_problem(scale)
    factors = []
    for _ in range(10):
        objective()
        factors.append(scale.factor)
    # 2^14 is the largest that fits: each time it grows beyond, the next evaluation halves it.
    exponents = [13, 13, 14, 14, 14, 15, 14, 14, 15, 14]
    assert factors == [2.0**exponent for exponent in exponents]


def with_gradients(*gradients):
    """One parameter for each gradient; None for a parameter that has none."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameters


INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "gradients",
    [
        [[INFINITY, 1.0], [1.0, 1.0]],
        [[1.0, 1.0], [1.0, -INFINITY]],
        [[INFINITY, -INFINITY], [1.0, 1.0]],
        [[-INFINITY, 1.0], [INFINITY, 1.0]],
        [[1.0, 1.0], None, [NAN, 1.0]],
    ],
    ids=str,
)
def test_any_gradient_that_is_not_finite_is_an_overflow(gradients):
    scale = LossScale(8.0)
    assert scale.grew_too_large(with_gradients(*gradients))
    assert scale.factor == 4.0


def test_finite_gradients_are_divided_by_the_factor():
    scale = LossScale(8.0)
    parameters = with_gradients([16.0, -24.0], None, [0.0, 1.0])
    assert not scale.grew_too_large(parameters)
    assert scale.factor == 8.0
    assert [None if p.grad is None else p.grad.tolist() for p in parameters] == [[2.0, -3.0], None, [0.0, 0.125]]


def test_an_overflow_starts_the_stretch_anew():
    scale, factors = LossScale(8.0, growth_interval=3), []
    for gradient in (1.0, 1.0, INFINITY, 1.0, 1.0, 1.0, 1.0):
        scale.grew_too_large(with_gradients([gradient, 1.0]))
        factors.append(scale.factor)
    assert factors == [8.0, 8.0, 4.0, 4.0, 4.0, 8.0, 8.0]


def test_growth_does_not_touch_the_gradient_of_the_evaluation_that_earned_it():
    grown, steady = LossScale(64.0, growth_interval=1), LossScale(64.0)
    models = []
    for scale in (grown, steady):
        model, _, _, objective = scaled_problem(scale)
        objective()
        models.append(model)
    assert (grown.factor, steady.factor) == (128.0, 64.0)
    assert torch.equal(models[0][1].weight.grad, models[1][1].weight.grad)


def test_a_loss_that_is_not_finite_ends_at_factor_one():
    scale = LossScale(2.0**4)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    passes = []

    def loss(outputs, targets):
        passes.append(len(outputs))
        return outputs.mean() * float("nan")

    value = Objective(Network(model), loss, torch.randn(4, 3), torch.zeros(4), Execution(loss_scale=scale))()
    assert value.isnan()
    assert model.weight.grad.isnan().all()
    assert (scale.factor, len(passes)) == (1.0, 5)


def test_the_state_of_the_scale_goes_on():
    scale = LossScale(2.0**13, growth_interval=3)
    _, _, _, objective = scaled_problem(scale)
    for _ in range(4):
        objective()
    state = copy.deepcopy(scale.state_dict())
    resumed = LossScale(growth_interval=3)
    resumed.load_state_dict(state)
    _, _, _, another = scaled_problem(resumed)
    factors = []
    for _ in range(6):
        objective()
        another()
        factors.append((scale.factor, resumed.factor))
    assert [one for one, _ in factors] == [2.0**exponent for exponent in (14, 15, 14, 14, 15, 14)]
    assert all(one == other for one, other in factors)


# ---- autocast -------------------------------------------------------------------------------------------------------


def test_autocast_computes_in_its_type():
    model, inputs, targets = problem(norm=False, dropout=0.0, dtype=torch.float32)
    seen = []

    def loss(outputs, targets):
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs.float(), targets)

    objective = Objective(Network(model), loss, inputs, targets, Execution(dtype=torch.bfloat16, micro_batch=8))
    value = objective()
    objective.loss()
    assert seen == [torch.bfloat16] * 6
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    expected = plain_loss(model, inputs, targets, torch.ones(BATCH, 10))
    torch.testing.assert_close(value, expected.detach(), rtol=0.03, atol=0.03)
    assert not torch.equal(value, expected.detach())


@pytest.mark.parametrize("change", ["in_place", "data"])
def test_autocast_sees_parameters_that_change_between_calls(change):
    """Autocast keeps casts of the parameters for as long as its context lasts."""
    model, inputs, targets = problem(norm=False, dtype=torch.float32)
    objective = objective_of(model, inputs, targets, dtype=torch.bfloat16)
    before = objective()
    trial = [parameter.detach() * 2 + 0.5 for parameter in model.parameters()]
    elsewhere = objective.loss(at=trial)
    for parameter, value in zip(model.parameters(), trial, strict=True):
        if change == "data":
            parameter.data = value
        else:
            with torch.no_grad():
                parameter.copy_(value)
    after, gradients = objective(), [parameter.grad.clone() for parameter in model.parameters()]
    fresh, fresh_inputs, _ = problem(norm=False, dtype=torch.float32)
    fresh = moved(fresh, trial)
    expected = objective_of(fresh, fresh_inputs, targets, dtype=torch.bfloat16)()
    assert torch.equal(after, expected)
    assert torch.equal(elsewhere, expected)
    assert not torch.equal(before, after)
    assert all(torch.equal(one, other.grad) for one, other in zip(gradients, fresh.parameters(), strict=True))


# ---- ranks ----------------------------------------------------------------------------------------------------------


def on_one_of_two_ranks(rank):
    model, inputs, targets = problem()

    def backward(loss, last):
        loss.backward()
        for parameter in model.parameters() if last else ():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2

    execution = Execution(micro_batch=8, world_size=2, rank=rank, backward=backward, clip_norm=0.1)
    share = slice(12 * rank, 12 * rank + 12)
    inputs, targets = torch.cat([inputs, -inputs])[:24], torch.cat([targets, targets])[:24]
    objective = Objective(Network(model), F.cross_entropy, inputs[share], targets[share], execution, KEY)
    value, elsewhere = objective(), objective.loss(at=[p.detach() + 0.1 for p in model.parameters()])
    objective.finish()
    gradients = [parameter.grad for parameter in model.parameters()]
    return value, elsewhere, gradients, objective.gradient_norm, model.state_dict()


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    ranks = on_two_ranks(on_one_of_two_ranks, tmp_path)
    model, inputs, targets = problem()
    inputs, targets = torch.cat([inputs, -inputs])[:24], torch.cat([targets, targets])[:24]
    mask = mask_of(model, range(24))
    expected = plain_loss(model, inputs, targets, mask)
    trial = [parameter.detach() + 0.1 for parameter in model.parameters()]
    elsewhere = plain_loss(moved(model, trial), inputs, targets, mask)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.1
    mean, variance = plain_statistics(model, inputs)
    for found in ranks:
        torch.testing.assert_close(found[0], expected.detach(), **TIGHT)
        torch.testing.assert_close(found[1], elsewhere.detach(), **TIGHT)
        for one, other in zip(found[2], gradients, strict=True):
            torch.testing.assert_close(one, other * (0.1 / (norm + 1e-6)), rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found[3], norm, **TIGHT)
        torch.testing.assert_close(found[4]["1.running_mean"], mean, **TIGHT)
        torch.testing.assert_close(found[4]["1.running_var"], variance, **TIGHT)
