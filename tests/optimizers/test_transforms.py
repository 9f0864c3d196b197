"""Transforms of optimizers: points computed apart, other implementations, what they keep, and what they refuse."""

import copy

import pytest
import torch
from golden import assert_is, numbers, on_matrix, on_objective, on_valley, valley
from torch import nn

from optbench.errors import UserError
from optbench.optimizers import SAM, SOAP, Lion, Transformed, with_decoupled_weight_decay
from optbench.optimizers.mars import MARS
from optbench.optimizers.transforms.cautious import Cautious
from optbench.optimizers.transforms.centralize import Centralize
from optbench.optimizers.transforms.hyperball import Hyperball
from optbench.optimizers.transforms.lookahead import Lookahead
from optbench.optimizers.transforms.mars import Corrected
from optbench.optimizers.transforms.sam import Ascended


def around(inner, *transforms, **options):
    return lambda parameters: Transformed(inner(parameters, **options), transforms)


def momentum(parameters, lr=0.01, momentum=0.9, **options):
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, **options)


# ---- cautious --------------------------------------------------------------------------------------------------------------


def on_two_valleys(make, steps):
    """One tensor of two points, each with its own valley."""
    point = nn.Parameter(numbers([-0.5, 0.8, 0.3, -0.2]))
    optimizer = make([point])
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            value = valley(point[:2]) + valley(point[2:])
            value.backward()
            return value.detach()

        optimizer.step(closure)
    return point.detach()


def test_cautious_momentum():
    found = on_two_valleys(around(momentum, Cautious()), 8)
    assert_is(found, 0.072751177420, 0.000219371780, 0.525696173078, 0.202041145810)


def test_cautious_adamw_decays_all_coordinates():
    found = on_two_valleys(around(torch.optim.AdamW, Cautious(), lr=0.05, weight_decay=0.1), 8)
    assert_is(found, -0.691204398244, 0.428492153822, 0.391822779337, 0.106824026791)


def test_cautious_masks_and_scales_a_given_step():
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    weight.grad = numbers([1, 1, 1, -1])

    class Given(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            self.param_groups[0]["params"][0].sub_(numbers([1, -2, 3, 0.5]))

    Transformed(Given([weight], lr=1.0), [Cautious()]).step()
    assert_is(weight.detach(), -2, 0, -6, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda p, **o: torch.optim.AdamW(p, **o),
        lambda p, **o: Lion(p, **o),
        lambda p, **o: MARS(p, **o),
        lambda p, weight_decay, **o: with_decoupled_weight_decay(torch.optim.Adam)(
            [{"params": p, "decoupled_decay": weight_decay}], **o
        ),
    ],
)
def test_where_all_coordinates_agree_nothing_changes_with_decoupled_decay(make):
    """The first step of a method without memory goes down its gradient, so that the mask is one; the decay has no part in it."""
    ends = []
    for transforms in ((), (Cautious(),)):
        weight = nn.Parameter(numbers([[3.0, -4.0], [0.1, 5.0]]))
        weight.grad = numbers([[1e-3, 2.0], [-3.0, 1.0]])
        inner = make([weight], lr=0.1, weight_decay=0.5)
        (Transformed(inner, transforms) if transforms else inner).step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-14, atol=1e-15)


def test_a_method_that_makes_no_first_step_does_not_decay_in_it():
    weight = nn.Parameter(numbers([[3.0, -4.0], [0.1, 5.0]]))
    weight.grad = numbers([[1.0, 2.0], [-3.0, 1.0]])
    before = weight.detach().clone()
    Transformed(SOAP([weight], lr=0.1, weight_decay=0.5), [Cautious()]).step()
    assert torch.equal(weight, before)


# ---- lookahead -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "fast"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.01), (-0.642990340349, 0.590836903188)),
        (momentum, (-0.723776053294, 0.325289198466)),
    ],
)
def test_five_steps_of_lookahead(inner, fast):
    assert_is(on_valley(around(inner, Lookahead(period=2, alpha=0.5)), 5), *fast)


def test_the_slow_weights_are_those_for_evaluation():
    made = []

    def make(parameters):
        made.append(around(torch.optim.SGD, Lookahead(period=2, alpha=0.5), lr=0.01)(parameters))
        return made[-1]

    on_valley(make, 5)
    ((_, slow),) = made[0].evaluation_parameters().items()
    assert_is(slow, -0.607880418235, 0.646166478267)
    assert not hasattr(
        around(momentum, Lookahead(evaluate="fast"))([nn.Parameter(torch.zeros(2))]), "evaluation_parameters"
    )


# ---- centralize, mars, sam -------------------------------------------------------------------------------------------------


def test_three_steps_on_centralized_gradients_keep_the_sums_of_rows():
    found = on_matrix(around(torch.optim.SGD, Centralize(), lr=0.1), 3)
    assert_is(found, 0.671552815211, -0.151513786522, -0.120039028689, 0.079074561274, 0.357359299085, -0.536433860359)
    assert_is(found.view(2, 3).sum(1), 0.4, -0.1)


def test_a_kernel_is_centralized_over_all_but_its_outputs_and_a_vector_not_at_all():
    kernel, bias = nn.Parameter(torch.zeros(2, 3, 2, 2)), nn.Parameter(torch.zeros(2))
    kernel.grad, bias.grad = torch.randn(2, 3, 2, 2), torch.ones(2)
    expected = kernel.grad - kernel.grad.flatten(1).mean(1).view(2, 1, 1, 1)
    around(torch.optim.SGD, Centralize(), lr=1.0)([kernel, bias]).step()
    torch.testing.assert_close(kernel.detach(), -expected)
    torch.testing.assert_close(bias.detach(), -torch.ones(2))


@pytest.mark.parametrize(
    ("first", "expected"),
    [("zero", (-0.692317311583, 0.562945599312)), ("same", (-0.686073311623, 0.567398663240))],
)
def test_adamw_on_the_gradient_of_mars_is_mars(first, expected):
    """The points of the optimizer, computed apart."""
    made = around(
        torch.optim.AdamW,
        Corrected(beta=0.95, first=first, vectors=True),
        lr=0.05,
        weight_decay=0.1,
        betas=(0.95, 0.99),
    )
    assert_is(on_valley(made, 5, batches=(0.01, (0.0, 0.5))), *expected)


@pytest.mark.parametrize(
    ("options", "decay", "expected"),
    [
        ({"radius": 0.05}, 0.0, (-0.675825363051, 0.545946858454)),
        ({"radius": 0.05}, 0.1, (-0.673893484273, 0.543916791222)),
    ],
)
def test_sgd_on_the_gradient_of_sam_is_sam(options, decay, expected):
    made = around(torch.optim.SGD, Ascended(**options), lr=0.01, weight_decay=decay)
    assert_is(on_valley(made, 3), *expected)


def test_the_second_evaluation_of_an_objective_is_not_changed_again():
    """The hook on gradients, which the second evaluation reaches too."""
    found = on_objective(
        lambda model: around(torch.optim.SGD, Ascended(), lr=0.01)(model.parameters()), 3, start=(-0.5, 0.8)
    )
    assert_is(found, -0.675825363051, 0.545946858454)


def test_adaptive_ascents_are_those_of_asam():
    """T = |w| + η is that of matrices."""
    makes = [
        around(momentum, Ascended(radius=0.5, adaptive=True, eta=0.02)),
        lambda p: SAM(p, lr=0.01, momentum=0.9, radius=0.5, adaptive=True, eta=0.02),
    ]
    torch.testing.assert_close(*(on_matrix(make, 3) for make in makes), rtol=1e-13, atol=0)


def test_sam_needs_a_closure():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    with pytest.raises(UserError, match="transform=sam: needs a closure"):
        around(momentum, Ascended())([weight]).step()


# ---- hyperball -------------------------------------------------------------------------------------------------------------


def test_four_steps_on_the_hyperball():
    found = on_matrix(around(torch.optim.SGD, Hyperball(), lr=0.1), 4)
    assert_is(found, 0.607958087334, -0.219668036218, -0.046399616133, 0.225457249382, 0.517082294750, -0.414457383442)
    assert float(found.norm()) == pytest.approx(numbers([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]]).norm().item(), rel=1e-14)


def test_the_hyperball_takes_no_part_of_the_decay():
    ends = [on_matrix(around(torch.optim.AdamW, Hyperball(), lr=0.1, weight_decay=decay), 3) for decay in (0.0, 0.3)]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_vectors_and_zeros_take_the_step_as_it_is():
    vector, zeros = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(2, 2))
    vector.grad, zeros.grad = torch.ones(3), torch.ones(2, 2)
    around(torch.optim.SGD, Hyperball(), lr=0.25)([vector, zeros]).step()
    assert torch.equal(vector.detach(), torch.full((3,), 0.75))
    assert torch.equal(zeros.detach(), torch.full((2, 2), -0.25))


# ---- several, and what is kept ---------------------------------------------------------------------------------------------

ALL = (Ascended, Centralize, Corrected, Cautious, Hyperball, Lookahead)


def test_a_state_continues_exactly_and_holds_the_slow_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = torch.randn(8, 3, dtype=torch.float64)

    def made(net):
        return Transformed(torch.optim.AdamW(net.parameters(), lr=0.02), [each() for each in ALL])

    def steps(net, optimizer, count):
        for _ in range(count):

            def closure():
                optimizer.zero_grad()
                loss = net(inputs).square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)

    optimizer = made(model)
    steps(model, optimizer, 7)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    twin.load_state_dict(model.state_dict())
    again = made(twin)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # loading copies no tensor, as torch's own
    steps(model, optimizer, 6)
    steps(twin, again, 6)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(optimizer.evaluation_parameters()[one], again.evaluation_parameters()[other])


def test_everything_else_is_that_of_the_inner_optimizer():
    inner = momentum([nn.Parameter(torch.zeros(2))])
    inner.diagnostics = {"distance": 1.0}
    found = Transformed(inner, [Cautious()])
    assert found.param_groups is inner.param_groups
    assert found.state is inner.state
    assert found.diagnostics == {"distance": 1.0}
    assert not hasattr(found, "check")
    assert not hasattr(found, "steps")
    assert not hasattr(found, "evaluation_parameters")


def test_two_of_a_kind_are_refused():
    with pytest.raises(UserError, match="Cautious is there twice"):
        Transformed(momentum([nn.Parameter(torch.zeros(2))]), [Cautious(), Cautious()])
