"""Local steps: fixed points and variances in closed form, and workers that begin with copies of one state."""

import pytest
import torch
from torch import nn

from optbench.communication.local import LocalSGD


class Point(nn.Module):
    """A vector x, from zeros."""

    def __init__(self, dimension=1):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(dimension, dtype=torch.float64))


def trained(gradient, steps, workers, period, start=0, rate=0.5, dimension=1, momentum=0.0, local=None):
    """x after ``steps`` of SGD with ``gradient(worker, step, x)``; the dense steps are those of the mean gradient."""
    model = Point(dimension)
    made = []

    def make():
        made.append(torch.optim.SGD(model.parameters(), rate, momentum=momentum))
        return made[-1]

    optimizer = make()
    local = local or LocalSGD({"x": (dimension,)}, workers, period, start)
    for step in range(steps):

        def closure(worker, step=step):
            def evaluate():
                model.x.grad = gradient(worker, step, model.x.detach())
                return 0.0

            return evaluate

        if not local.is_local(step):
            model.x.grad = sum(gradient(worker, step, model.x.detach()) for worker in range(workers)) / workers
            optimizer.step()
            continue
        if not local.has_begun:
            local.begin([model.x], optimizer, make)
        local.step(step, closure)
    return model.x.detach().clone()


@pytest.mark.parametrize("period", [1, 8])
def test_on_one_quadratic_the_average_is_that_of_large_batches(period):
    """h = 1, noise of variance 1 in every worker's gradient, 40 steps: var = α / (h (2 - α h) W), whatever the period.

    Coordinate (w, t) has the noise of worker w at step t alone, so that the squares of the coordinates add up to the variance.
    """
    workers, steps, rate = 4, 40, 0.3
    noise = torch.eye(workers * steps, dtype=torch.float64).view(workers, steps, -1)
    end = trained(
        lambda worker, step, x: x + noise[worker, step], steps, workers, period, rate=rate, dimension=workers * steps
    )
    assert float(end.square().sum()) == pytest.approx(0.0441176, abs=1e-7)


@pytest.mark.parametrize(("period", "fixed_point"), [(1, 0.1666667), (4, 0.2683783), (16, 0.4489479), (64, 0.4997051)])
def test_on_unlike_quadratics_long_periods_move_the_fixed_point(period, fixed_point):
    """f_w = ½ h_w (x - b_w)²: Σ (1 - q_w^H) b_w / Σ (1 - q_w^H), where q_w = 1 - α h_w; the optimum is that of H = 1."""
    curvatures, minima = (1.0, 0.2), (0.0, 1.0)
    end = trained(lambda worker, _, x: curvatures[worker] * (x - minima[worker]), 128, 2, period)
    assert float(end) == pytest.approx(fixed_point, abs=1e-6)


def test_between_two_averages_the_model_is_the_mean_of_the_workers():
    local = LocalSGD({"x": (1,)}, 2, period=8)
    end = trained(lambda worker, _, x: torch.full_like(x, float(worker + 1)), 3, 2, 8, rate=1.0, local=local)
    assert [float(local.weights[worker][0]) for worker in range(2)] == [-3.0, -6.0]
    assert float(end) == -4.5


def test_dense_steps_come_first_and_hand_their_momentum_on():
    """x'' with momentum ½ and gradients 1: two dense steps leave the velocity 1.5, from which both workers go on."""
    local = LocalSGD({"x": (1,)}, 2, period=4, start=2)
    end = trained(lambda worker, _, x: torch.ones_like(x), 3, 2, 4, start=2, rate=1.0, momentum=0.5, local=local)
    assert float(end) == -(1 + 1.5 + 1.75)
    own = [optimizer.state_dict()["state"][0]["momentum_buffer"] for optimizer in local.optimizers.values()]
    assert [float(each) for each in own] == [1.75, 1.75]
    assert own[0].data_ptr() != own[1].data_ptr()


def test_a_state_read_back_continues_within_a_period():
    def gradient(worker, step, x):
        return (x - worker) * (1 + step % 3)

    whole = trained(gradient, 7, 2, 4, momentum=0.9, rate=0.1)
    model = Point()

    def make():
        return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    saved = LocalSGD({"x": (1,)}, 2, 4)
    stopped = trained(gradient, 5, 2, 4, momentum=0.9, rate=0.1, local=saved)
    model.x.data.copy_(stopped)
    resumed = LocalSGD({"x": (1,)}, 2, 4)
    resumed.begin([model.x], make(), make)
    resumed.load_state_dict(saved.state_dict())
    for step in (5, 6):

        def closure(worker, step=step):
            def evaluate():
                model.x.grad = gradient(worker, step, model.x.detach())

            return evaluate

        resumed.step(step, closure)
    assert torch.equal(model.x, whole)


def test_the_bytes_of_whole_and_broken_periods():
    shapes = {"hidden": (64, 196), "b1": (64,), "head": (10, 64), "b2": (10,)}
    assert LocalSGD(shapes, period=8).bytes_per_step(1000) == 53_032 / 8
    assert round(LocalSGD(shapes, period=32).bytes_per_step(1000)) == 1_644  # 31 averages
    assert LocalSGD(shapes, period=1).bytes_per_step(1000) == 53_032
    assert round(LocalSGD(shapes, period=32, start=750).bytes_per_step(1000)) == 40_145  # 750 steps and 7 averages
