"""Losses against formulas written out in numpy, against torch's functions, and by their derivatives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from optbench.config import Choice
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.objective import losses
from optbench.objective.losses import Bernoulli, CrossEntropy, OneHotSquaredError, SquaredError

CONF = Path(__file__).parents[2] / "conf" / "loss"
IMAGE_CLASS = DataSpec("image", (1, 2, 2), 5)
REAL = DataSpec("sequence", (3, 2), 2, target="real", tolerance=0.04)


def draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(*shape, count=5, seed=1):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def steps_with_gaps():
    targets = classes(6, 7)
    targets[0, 3:] = targets[1, :5] = -100
    targets[2, ::2] = -100
    return targets


def pixels(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    "class": (CrossEntropy(), draws(6, 5), classes(6)),
    "class, smoothed": (CrossEntropy(0.1), draws(6, 5), classes(6)),
    "class per step": (CrossEntropy(), draws(6, 7, 5), steps_with_gaps()),
    "class per step, smoothed": (CrossEntropy(0.2), draws(6, 7, 5), steps_with_gaps()),
    "squared error": (SquaredError(), draws(6, 3), draws(6, 3, seed=1)),
    "squared error without half": (SquaredError(half=False), draws(6, 3), draws(6, 3, seed=1)),
    "squared error of images": (SquaredError(), draws(6, 12), draws(6, 3, 2, 2, seed=1)),
    "squared error of scalars": (SquaredError(), draws(6, 1), draws(6, seed=1)),
    "squared error of classes": (OneHotSquaredError(), draws(6, 5), classes(6)),
    "squared error of classes without half": (OneHotSquaredError(half=False), draws(6, 5), classes(6)),
    "bernoulli": (Bernoulli(), draws(6, 8), pixels(6, 8)),
    "bernoulli of images": (Bernoulli(), draws(6, 8), pixels(6, 2, 2, 2)),
}
every_case = pytest.mark.parametrize(("loss", "outputs", "targets"), CASES.values(), ids=CASES.keys())


def by_hand(loss, outputs, targets):
    """The loss of every example, in numpy and in loops."""
    z, y = outputs.numpy(), targets.numpy()
    if isinstance(loss, CrossEntropy):
        z, y = (z[:, None], y[:, None]) if y.ndim == 1 else (z, y)
        result = []
        for example in range(len(z)):
            terms = []
            for logits, target in zip(z[example], y[example], strict=True):
                if target != -100:
                    q = np.full(len(logits), loss.label_smoothing / len(logits))
                    q[target] += 1 - loss.label_smoothing
                    terms.append(-q @ np.log(np.exp(logits) / np.exp(logits).sum()))
            result.append(np.mean(terms))
        return np.array(result)
    y = np.eye(z.shape[1])[y] if isinstance(loss, OneHotSquaredError) else y.reshape(z.shape)
    if isinstance(loss, SquaredError):
        return ((z - y) ** 2).sum(1) * (0.5 if loss.half else 1)
    p = 1 / (1 + np.exp(-z))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)


@every_case
def test_formula(loss, outputs, targets):
    expected = by_hand(loss, outputs, targets)
    np.testing.assert_allclose(loss.per_example(outputs, targets).numpy(), expected, rtol=1e-12)
    assert loss(outputs, targets).item() == pytest.approx(expected.mean(), rel=1e-12)
    assert loss(outputs, targets).ndim == 0


@every_case
def test_first_and_second_derivatives(loss, outputs, targets):
    outputs = outputs.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), outputs)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets), outputs)
    assert torch.autograd.gradcheck(lambda z: loss.per_example(z, targets), outputs)


def test_gradient_of_cross_entropy_by_hand():
    outputs, targets = draws(6, 5).requires_grad_(), classes(6)
    CrossEntropy()(outputs, targets).backward()
    expected = (outputs.detach().softmax(1) - F.one_hot(targets, 5)) / 6
    torch.testing.assert_close(outputs.grad, expected, rtol=1e-12, atol=1e-15)


def test_hessian_of_the_halved_squared_error_is_the_identity():
    targets = draws(1, 3, seed=1)
    hessian = torch.autograd.functional.hessian(lambda z: SquaredError()(z, targets), draws(1, 3))
    torch.testing.assert_close(hessian.reshape(3, 3), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(smoothing):
    loss = CrossEntropy(smoothing)
    outputs, targets = draws(6, 5), classes(6)
    expected = F.cross_entropy(outputs, targets, label_smoothing=smoothing)
    assert loss(outputs, targets).item() == expected.item()
    # With as many valid steps in every example, the mean over examples is that over all steps.
    outputs, targets = draws(6, 7, 5), classes(6, 7)
    targets[:, 2] = -100
    expected = F.cross_entropy(outputs.transpose(1, 2), targets, label_smoothing=smoothing)
    assert loss(outputs, targets).item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_example_without_targets_costs_nothing():
    targets = steps_with_gaps()
    targets[3] = -100
    values = CrossEntropy().per_example(draws(6, 7, 5), targets)
    assert values[3] == 0
    assert torch.isfinite(values).all()


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, outputs, targets, dtype):
    halved = outputs.to(dtype)
    value, values = loss(halved, targets), loss.per_example(halved, targets)
    assert value.dtype == values.dtype == torch.float32
    np.testing.assert_allclose(values.numpy(), by_hand(loss, halved.double(), targets), rtol=1e-5)
    assert value.item() == pytest.approx(by_hand(loss, halved.double(), targets).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (SquaredError(), draws(6, 2), draws(6)),
        (SquaredError(), draws(6, 6), draws(6, 1)),
        (OneHotSquaredError(), draws(6, 5), classes(6, 1)),
        (Bernoulli(), draws(6, 8), pixels(6, 1)),
        (CrossEntropy(), draws(6, 7, 5), classes(6)),
        (CrossEntropy(), draws(6, 5), classes(6, 7)),
    ],
)
def test_what_would_broadcast_is_refused(loss, outputs, targets):
    for evaluate in (loss, loss.per_example):
        with pytest.raises(ValueError, match="do not match"):
            evaluate(outputs, targets)


def test_bernoulli_of_large_logits_is_finite():
    outputs, targets = torch.tensor([[1000.0, -1000.0]]), torch.tensor([[1.0, 1.0]])
    assert Bernoulli()(outputs, targets).item() == 1000


def test_only_a_reconstruction_has_a_squared_error_beside_the_loss():
    logits = torch.tensor([[0.0, math.log(3.0)], [50.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.25], [1.0, 0.5]], dtype=torch.float64)
    assert Bernoulli().squared_error(logits, targets).tolist() == pytest.approx([0.25 + 0.25, 0.0])
    assert SquaredError().squared_error(logits, targets) is None


# ---- accuracy ----


def test_a_class_is_right_or_not():
    outputs = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    for loss in (CrossEntropy(), OneHotSquaredError()):
        correct = loss.correct(outputs, torch.tensor([1, 1, 2]), IMAGE_CLASS)
        assert correct.tolist() == [1, 0, 1]
        assert correct.dtype == torch.float32


def test_steps_are_right_in_part():
    outputs = F.one_hot(torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2], [0, 0, 0, 0]]), 3).float()
    targets = torch.tensor([[0, 1, 0, -100], [2, -100, -100, -100], [1, 0, 1, 0]])
    spec = DataSpec("tokens", (4,), 3, target="class_per_step", vocabulary=3)
    assert CrossEntropy().correct(outputs, targets, spec).tolist() == pytest.approx([2 / 3, 1, 1 / 2])


def test_real_targets_are_right_within_the_tolerance_in_all_outputs():
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    outputs = targets + torch.tensor([[0.039, -0.039], [0.0, 0.041], [-0.05, 0.0]])
    assert SquaredError().correct(outputs, targets, REAL).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("loss", "spec"),
    [
        (SquaredError(), DataSpec("sequence", (3, 2), 2, target="real")),
        (SquaredError(), DataSpec("image", (1, 2, 1), 2, target="none", tolerance=1.0)),
        (Bernoulli(), IMAGE_CLASS),
    ],
)
def test_where_there_is_no_accuracy(loss, spec):
    assert loss.correct(draws(4, 2), pixels(4, 2), spec) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_entropy", CrossEntropy()),
        ("mse", SquaredError()),
        ("mse_one_hot", OneHotSquaredError()),
        ("bernoulli", Bernoulli()),
    ],
)
def test_every_choice_builds(name, expected):
    assert losses.build(Choice.of("loss", yaml.safe_load((CONF / f"{name}.yaml").read_text()))) == expected


# ---- derivatives in the outputs -------------------------------------------------------------------------------------


def dense_hessians(loss, outputs, targets):
    """The Hessian of every example's loss in that example's outputs, (n, outputs, outputs), by torch's autograd."""
    each = [
        torch.autograd.functional.hessian(
            lambda z, example=example: loss.per_example(z, targets[example : example + 1]).sum(),
            outputs[example : example + 1],
        )
        for example in range(len(outputs))
    ]
    size = outputs[0].numel()
    return torch.stack([hessian.reshape(size, size) for hessian in each])


@every_case
def test_output_gradient_is_that_of_each_example(loss, outputs, targets):
    outputs = outputs.clone().requires_grad_()
    (mean,) = torch.autograd.grad(loss(outputs, targets), outputs)
    found = loss.output_gradient(outputs, targets)
    assert not found.requires_grad
    torch.testing.assert_close(found / len(outputs), mean, rtol=1e-12, atol=1e-15)


@every_case
def test_output_hessian_and_its_square_root(loss, outputs, targets):
    expected = dense_hessians(loss, outputs, targets)
    vectors = draws(*outputs.shape, seed=2)

    def times(matrices):
        return torch.einsum("nij,nj->ni", matrices, vectors.flatten(1)).view_as(outputs)

    columns = torch.stack([column.flatten(1) for column in loss.output_hessian_sqrt_columns(outputs, targets)], dim=2)
    tight = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(columns @ columns.mT, expected, **tight)
    torch.testing.assert_close(loss.output_hessian_product(outputs, targets, vectors), times(expected), **tight)
    torch.testing.assert_close(loss.output_hessian_sqrt_product(outputs, targets, vectors), times(columns), **tight)
    transposed = loss.output_hessian_sqrt_product(outputs, targets, vectors, transposed=True)
    torch.testing.assert_close(transposed, times(columns.mT), **tight)


def test_hessian_of_cross_entropy_by_hand():
    """diag(p) - p p^T; label smoothing leaves it alone; the mean over two of three steps halves it."""
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    expected = torch.diag(p) - p.outer(p)
    for loss in (CrossEntropy(), CrossEntropy(0.3)):
        unit = torch.eye(3, dtype=torch.float64)
        outputs = p.log().expand(3, 3)
        torch.testing.assert_close(loss.output_hessian_product(outputs, torch.arange(3), unit), expected)
        steps, targets = outputs[None, :, :], torch.tensor([[1, -100, 2]])
        found = loss.output_hessian_product(steps, targets, unit[None])[0]
        torch.testing.assert_close(found, expected * torch.tensor([0.5, 0, 0.5]).double()[:, None])


@every_case
def test_half_precision_outputs_have_float32_derivatives(loss, outputs, targets):
    halved, vectors = outputs.bfloat16(), draws(*outputs.shape, seed=2).float()
    expected = loss.output_hessian_product(halved.double(), targets, vectors.double())
    found = loss.output_hessian_product(halved, targets, vectors)
    assert found.dtype == loss.output_gradient(halved, targets).dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


# ---- samples ----


def uniform_grid(count):
    """Evenly spaced draws, so that frequencies are those of the distribution to 1 / count."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_sampled_classes_have_the_probabilities_of_the_softmax():
    p, count = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64), 1000
    drawn = CrossEntropy().sample(p.log().expand(count, 4), torch.zeros(count, dtype=torch.long), uniform_grid(count))
    assert drawn.dtype == torch.int64
    torch.testing.assert_close(drawn.bincount(minlength=4) / count, p.float(), atol=1.1e-3, rtol=0)


def test_samples_at_the_ends_of_the_unit_interval_are_possible():
    ends = torch.tensor([0.0, 1 - 2.0**-24])
    outputs = torch.tensor([[0.0, 1.0, -1.0], [0.0, 1.0, -1.0]])
    assert CrossEntropy().sample(outputs, torch.zeros(2, dtype=torch.long), ends).tolist() == [0, 2]
    normal = SquaredError().sample(torch.zeros(2, 1), torch.zeros(2, 1), ends[:, None])
    assert normal.isfinite().all()
    assert normal[0] == pytest.approx(-5.42, abs=0.01)
    assert normal[1] == pytest.approx(5.29, abs=0.2)
    assert Bernoulli().sample(torch.zeros(2, 1), torch.zeros(2, 1), ends[:, None]).tolist() == [[1.0], [0.0]]


def test_steps_without_a_target_are_not_sampled():
    outputs, targets = draws(6, 7, 5), steps_with_gaps()
    loss = CrossEntropy()
    drawn = loss.sample(outputs, targets, uniform_grid(42).view(6, 7))
    assert loss.sample_shape(outputs) == targets.shape
    assert torch.equal(drawn == -100, targets == -100)
    assert not loss.sampled_output_gradient(outputs, drawn)[targets == -100].any()


@pytest.mark.parametrize(("half", "variance"), [(True, 1.0), (False, 0.5)])
def test_sampled_real_targets_are_normal(half, variance):
    count = 2000
    drawn = SquaredError(half).sample(torch.full((count, 1), 3.0), torch.zeros(count, 1), uniform_grid(count)[:, None])
    assert drawn.mean().item() == pytest.approx(3, abs=1e-3)
    assert drawn.var().item() == pytest.approx(variance, rel=0.01)
    assert ((drawn - 3) ** 4).mean().item() == pytest.approx(3 * variance**2, rel=0.03)


def test_sampled_pixels_have_the_probabilities_of_the_sigmoid():
    count, p = 1000, 0.3
    logits = torch.full((count, 1), p, dtype=torch.float64).logit()
    drawn = Bernoulli().sample(logits, logits, uniform_grid(count)[:, None])
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(p, abs=1e-3)


SMALL = {
    "class": (CrossEntropy(), draws(2, 3), torch.tensor([0, 2])),
    "class, smoothed": (CrossEntropy(0.4), draws(2, 3), torch.tensor([0, 2])),
    "bernoulli": (Bernoulli(), draws(2, 1), pixels(2, 1)),
}


@pytest.mark.parametrize(("loss", "outputs", "targets"), SMALL.values(), ids=SMALL.keys())
def test_second_moment_of_sampled_gradients_by_enumeration(loss, outputs, targets):
    """Over all values that a target may have, weighted by their probabilities."""
    if isinstance(loss, Bernoulli):
        p = outputs.sigmoid()
        values, weights = [torch.ones_like(p), torch.zeros_like(p)], [p[:, 0], 1 - p[:, 0]]
    else:
        values = [torch.full((2,), k) for k in range(3)]
        weights = list(outputs.softmax(1).T)
    gradients = [loss.sampled_output_gradient(outputs, value) for value in values]
    mean = sum(w[:, None] * g for w, g in zip(weights, gradients, strict=True))
    moment = sum(w[:, None, None] * g[:, :, None] * g[:, None, :] for w, g in zip(weights, gradients, strict=True))
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(moment, dense_hessians(loss, outputs, targets))


def test_a_loss_that_defines_nothing_says_so():
    class Absolute(losses.Loss):
        def per_example(self, outputs, targets):
            return (outputs - targets).abs().sum(1)

    outputs, targets = draws(2, 3), draws(2, 3, seed=1)
    torch.testing.assert_close(Absolute().output_gradient(outputs, targets), (outputs - targets).sign())
    with pytest.raises(UserError, match=r"loss=Absolute: the curvature .* defines output_hessian_sqrt_product"):
        Absolute().output_hessian_product(outputs, targets, outputs)
    with pytest.raises(UserError, match=r"loss=Absolute: the distribution .* defines sample"):
        Absolute().sample(outputs, targets, outputs)
