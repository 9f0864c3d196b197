"""K-FAC as a preconditioner: its step against closed forms, its periods, ranks and state."""

import functools
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import nn

from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Objective
from optbench.objective.execution import Execution, Network
from optbench.objective.losses import CrossEntropy, SquaredError
from optbench.optimizers.ekfac import EKFAC
from optbench.optimizers.kfac import KFAC

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
PLAIN = {"momentum": 0.0, "kl_clip": None}
METHODS = {
    "kfac": KFAC,
    "kfac_eigen": functools.partial(KFAC, inverse="eigen"),
    "kfac_empirical": functools.partial(KFAC, targets="empirical"),
    "ekfac": EKFAC,
    "ekfac_empirical": functools.partial(EKFAC, targets="empirical"),
}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), BatchNorm(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 5), nn.Tanh(),
        nn.Linear(5, 3),
    )  # fmt: skip
    model[1].group = 4
    return model.double()


def batch(step, size=8):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(size, 2, 4, 4, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (size,), generator=generator)


def train(model, optimizer, steps, first=0, execution=None, part=slice(None)):
    prepared = Network(model)
    losses = []
    for step in range(first, first + steps):
        inputs, targets = batch(step)
        objective = Objective(prepared, CrossEntropy(), inputs[part], targets[part], execution)
        losses.append(float(optimizer.step(objective)))
        objective.finish()
    return losses


def test_one_step_with_hardly_any_damping_solves_least_squares():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    inputs, targets = torch.randn(20, 4).double(), torch.randn(20, 3).double()
    optimizer = KFAC(model, lr=1.0, damping=1e-14, targets="exact", **PLAIN)
    loss = optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
    solution = torch.linalg.lstsq(F.pad(inputs, (0, 1), value=1), targets).solution
    torch.testing.assert_close(model.weight, solution[:-1].T, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bias, solution[-1], rtol=1e-5, atol=1e-6)
    assert loss > 0.5 * ((F.pad(inputs, (0, 1), value=1) @ solution - targets) ** 2).sum() / 20


def test_ekfac_with_one_layer_and_squared_loss_solves_it_too():
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double()
    inputs, targets = torch.randn(20, 4).double(), torch.randn(20, 3).double()
    optimizer = EKFAC(model, lr=1.0, damping=1e-14, targets="exact", **PLAIN)
    optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
    torch.testing.assert_close(model.weight, torch.linalg.lstsq(inputs, targets).solution.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_with_immense_damping_it_is_momentum_sgd(kind):
    """(F + λ I)^-1 g = g / λ as λ grows: the layers then learn at the rate lr / λ, the others at lr."""
    damping, rate = 1e8, 0.01
    model, twin = network(), network()
    factored = [parameter for index in (0, 4, 6) for parameter in twin[index].parameters()]
    sgd = torch.optim.SGD(
        [{"params": factored, "lr": rate / damping}, {"params": twin[1].parameters(), "lr": rate}], momentum=0.7
    )
    ours = kind(model, lr=rate, damping=damping, momentum=0.7, kl_clip=None)
    train(model, ours, 4)
    train(twin, sgd, 4)
    start = dict(network().named_parameters())
    for (name, found), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        # Batch norm takes away what a bias before it adds.
        assert name == "0.bias" or not torch.equal(found, start[name])
        # Relative to how far they moved.
        torch.testing.assert_close(found - start[name], expected - start[name], rtol=1e-2, atol=1e-15)


def test_weight_decay_is_added_after_preconditioning():
    model, twin = network(), network()
    train(model, KFAC(model, lr=0.1, weight_decay=0.3, **PLAIN), 1)
    train(twin, KFAC(twin, lr=0.1, **PLAIN), 1)
    for (name, found), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        start = dict(network().named_parameters())[name]
        decay = 0.3 if start.ndim > 1 else 0.0
        torch.testing.assert_close(found, other - 0.1 * decay * start, **TIGHT)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("rate", [1e-4, 0.3])
def test_the_step_is_clipped_to_its_bound(kind, rate):
    bound, model = 1e-3, network()
    optimizer = kind(model, lr=rate, momentum=0.0, kl_clip=bound)
    free, twin = network(), network()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, optimizer, 1)
    train(free, kind(free, lr=rate, **PLAIN), 1)
    gradients = dict(zip(before, Objective(Network(twin), CrossEntropy(), *batch(0)).gradient(), strict=True))

    def along(moved):
        # lr^2 <u, g> = -lr <step, g>
        parts = [
            (gradients[name] * (parameter.detach() - before[name])).sum()
            for name, parameter in moved.named_parameters()
            if not name.startswith("1.")
        ]
        return float(-rate * torch.stack(parts).sum().detach())

    # nu scales u in the product <nu u, g>, and the bound is one on nu^2 <u, g>.
    scale = min(1.0, (bound / along(free)) ** 0.5)
    assert along(model) == pytest.approx(scale * along(free), rel=1e-9)
    assert scale * along(model) <= bound * (1 + 1e-9)
    assert (scale < 1) == (rate == 0.3)
    norm = [name for name in before if name.startswith("1.")]
    for name in norm:  # the plain gradient is not clipped
        torch.testing.assert_close(dict(model.named_parameters())[name], dict(free.named_parameters())[name], **TIGHT)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_a_learning_rate_of_zero_moves_nothing(kind):
    model = network()
    train(model, kind(model, lr=0.0), 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), network().parameters(), strict=True))


@pytest.mark.parametrize(
    ("factor_period", "inverse_period", "updates", "inversions"),
    [(1, 100, range(12), [0, 1, 3, 7]), (2, 6, range(0, 12, 2), [0, 2, 6]), (3, 4, [0, 3, 6, 9], [0, 3, 4, 8])],
)
def test_factors_and_inverses_keep_their_periods(factor_period, inverse_period, updates, inversions):
    model = network()
    optimizer = KFAC(model, factor_period=factor_period, inverse_period=inverse_period)
    changed = {"factors": [], "inverses": []}
    for step in range(12):
        before = optimizer.factors.current, optimizer.inverses
        train(model, optimizer, 1, step)
        if optimizer.factors.current is not before[0]:
            changed["factors"].append(step)
        if optimizer.inverses is not before[1]:
            changed["inverses"].append(step)
    assert changed == {"factors": list(updates), "inverses": inversions}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_where_an_undisturbed_one_does(method, through_a_file):
    options = {"lr": 0.05, "factor_period": 2, "inverse_period": 3}
    whole = network()
    losses = train(whole, METHODS[method](whole, **options), 10)
    for last in (1, 4, 6):
        model = network()
        optimizer = METHODS[method](model, **options)
        train(model, optimizer, last)
        state = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        model = network()
        optimizer = METHODS[method](model, **options)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if last == 4:  # once more, before a step is taken
            state = through_a_file(optimizer.state_dict())
            optimizer = METHODS[method](model, **options)
            optimizer.load_state_dict(state)
        assert train(model, optimizer, 10 - last, last) == losses[last:]
        for (name, found), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
            assert torch.equal(found, expected), name


@pytest.mark.parametrize("method", METHODS)
def test_the_result_does_not_depend_on_the_micro_batch(method):
    whole, parts = network(), network()
    options = {"lr": 0.05, "factor_period": 1, "inverse_period": 2}
    train(whole, METHODS[method](whole, **options), 5)
    train(parts, METHODS[method](parts, **options), 5, execution=Execution(micro_batch=4))
    for found, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


FRACTIONS = {"every": 1.0, "half": 0.5, "one": 0.0}
CASES = [("kfac", "every"), ("kfac", "half"), ("kfac", "one"), ("kfac_eigen", "half"), ("kfac_empirical", "one")]


def make(method, fraction, model):
    options = {} if method.startswith("ekfac") else {"placement": FRACTIONS[fraction]}
    return METHODS[method](model, lr=0.05, factor_period=1, inverse_period=2, **options)


def rank_losses(case, rank, world_size):
    def backward(loss, last):
        loss.backward()
        if last:
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size

    model = network()
    model[1].eval()
    share = 8 // world_size
    execution = Execution(world_size=world_size, rank=rank, backward=backward)
    part = slice(rank * share, (rank + 1) * share)
    optimizer = make(*case, model)
    train(model, optimizer, 3, execution=execution, part=part)
    # Resumed from the state of rank 0, which does not hold all inverses.
    state = [optimizer.state_dict() if rank == 0 else None]
    dist.broadcast_object_list(state)
    resumed = make(*case, model)
    resumed.load_state_dict(state[0])
    train(model, resumed, 2, 3, execution=execution, part=part)
    return [parameter.detach() for parameter in model.parameters()]


def on_a_rank(rank, folder, port, world_size):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    cases = [*CASES, ("ekfac", "every")]
    torch.save([rank_losses(case, rank, world_size) for case in cases], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_several_ranks_give_what_one_gives_wherever_the_inverses_are(world_size, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(on_a_rank, (str(tmp_path), port, world_size), nprocs=world_size)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    for index, case in enumerate([*CASES, ("ekfac", "every")]):
        model = network()
        model[1].eval()
        train(model, make(*case, model), 5)
        for rank in range(world_size):
            for one, first, expected in zip(found[rank][index], found[0][index], model.parameters(), strict=True):
                torch.testing.assert_close(
                    one, expected, rtol=1e-8, atol=1e-10, msg=lambda text, case=case: f"{case}: {text}"
                )
                assert torch.equal(one, first)


@pytest.mark.parametrize("method", METHODS)
def test_it_descends_faster_than_sgd_where_features_differ_in_scale(method):
    """On an ill-conditioned regression of classes, whose features differ in scale by a thousand."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-1.5, 1.5, 8, dtype=torch.float64)
    inputs = torch.randn(256, 8, dtype=torch.float64, generator=generator) * scales
    targets = (inputs / scales) @ torch.randn(8, 3, dtype=torch.float64, generator=generator)
    targets = targets.argmax(1)
    ends = {}
    for name in ("sgd", method):
        model = nn.Linear(8, 3).double()
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01) if name == "sgd" else None
        if optimizer is None:
            optimizer = METHODS[method](
                model, lr=0.3, damping=1e-3, kl_clip=None, momentum=0.0, factor_period=1, inverse_period=5
            )
        for _ in range(40):
            loss = optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
        ends[name] = float(loss)
    assert ends[method] < 0.7 * ends["sgd"], ends


def test_what_it_cannot_take_is_refused():
    with pytest.raises(UserError, match=r"optimizer=kfac: no layer has Kronecker factors: .*BatchNorm"):
        KFAC(nn.Sequential(BatchNorm(3)))
    with pytest.raises(UserError, match=r"optimizer=ekfac: no layer"):
        EKFAC(nn.Sequential(BatchNorm(3)))
    with pytest.raises(UserError, match=r"needs an optbench.objective.Objective"):
        KFAC(nn.Linear(2, 2)).step(lambda: torch.zeros(()))
    for options in ({"damping": 0}, {"kl_clip": 0}, {"placement": 1.5}, {"inverse": "qr"}, {"factor_decay": 1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            KFAC(nn.Linear(2, 2), **options)


def test_it_says_what_it_does_with_every_parameter():
    lines = KFAC(network()).describe()
    assert lines == [
        "0: factors of 10 and 2, 2 groups",
        "4: factors of 17 and 5",
        "6: factors of 6 and 3",
        "1.weight: plain gradient, BatchNorm has no factors",
        "1.bias: plain gradient, BatchNorm has no factors",
    ]
