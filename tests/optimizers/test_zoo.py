import random
import sys

import numpy as np
import pytest
import torch
from built import build
from torch import nn

from optbench import config
from optbench.errors import UserError
from optbench.optimizers import zoo
from optbench.testing import problem
from optbench.testing.session import Steps
from optbench.training import run

package = pytest.importorskip("pytorch_optimizer")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 2)
    )


def train(model, optimizer, steps):
    inputs = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 2
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(steps)]
    return losses, calls


@pytest.mark.parametrize("name", ["adan", "ADAN", "AdaBelief", "shampoo"])
def test_trains_by_name(name, choice, model):
    optimizer = build(choice("zoo", name=name), model, None)
    losses, calls = train(model, optimizer, 10)
    assert type(optimizer).__name__.lower() == name.lower()
    assert losses[-1] < losses[0]
    assert calls == 10


def test_null_keeps_the_packages_defaults(choice, model):
    default = package.AdaBelief(model.parameters()).param_groups[0]
    for group in build(choice("zoo", name="adabelief"), model, None).param_groups:
        assert (group["lr"], group["initial_lr"], group["eps"]) == (default["lr"], default["lr"], default["eps"])


def test_options_and_decay_are_passed_on(choice, model):
    config = choice("zoo", name="adabelief", weight_decay=0.3, options={"eps": 1e-3})
    matrices, vectors = build(config, model, 0.02).param_groups
    assert (matrices["lr"], matrices["eps"], matrices["weight_decay"], vectors["weight_decay"]) == (
        0.02,
        1e-3,
        0.3,
        0.0,
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"name": "adabelif"}, "adabelief"),
        ({"name": "soap"}, "micro-batch.*; use optimizer=soap"),
        ({"name": "Lomo"}, "within the backward pass"),
        ({"name": "sam", "options": {"radius": 0.1}}, "options.radius: not an option of sam"),
        ({"name": "sam", "options": {"base": "adamm"}}, "options.base=adamm: cannot be wrapped; did you mean adam"),
        ({"name": "sam", "options": {"base": "sam"}}, "options.base=sam: cannot be wrapped"),
        ({"name": "sam", "options": {"base_options": {"lr": 0.1}}}, "learning_rate"),
        ({"name": "lookahead", "options": {"base_options": {"momentun": 0.1}}}, "base_options.momentun.*momentum"),
        ({"name": "adabelief", "options": {"base": "adam"}}, "options.base: not an option"),
        ({"name": "bsam"}, "num_data"),
        ({"name": "alig"}, "learning_rate=null: alig needs it"),
        ({"name": "shampoo", "options": {"precondition_compute_step": 5}}, "preconditioning_compute_steps"),
        ({"name": "adan", "options": {"lr": 0.1}}, "learning_rate"),
        ({"name": "lion", "options": {"betas": [0.9, 2.0]}}, "beta"),
        ({"name": "fromage", "weight_decay": 0.1}, "weight_decay"),
        ({"name": "a2grad"}, "schedule"),
    ],
)
def test_mistakes_are_one_message(overrides, said, choice, model):
    with pytest.raises(UserError, match=said):
        build(choice("zoo", **overrides), model, None)


def test_a_missing_package_names_the_extra(choice, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer", None)
    with pytest.raises(UserError, match=r"pip install 'optbench\[zoo\]'"):
        build(choice("zoo"), model, None)


class Valley(nn.Module):
    """(1 - x)² + 10 (y - x²)², as the mean over examples that are all the same."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.tensor([-0.5, 0.8], dtype=torch.float64))

    def forward(self):
        x, y = self.point
        return (1 - x) ** 2 + 10 * (y - x**2) ** 2


@pytest.mark.parametrize(
    ("name", "steps", "options", "end"),
    [
        # α = 0.01, ρ = 0.05, a = 0.4; the package takes norms in float32.
        ("sam", 3, {"base_options": {"momentum": 0.0}}, (-0.675825363051, 0.545946858454)),
        ("gsam", 3, {"base_options": {"momentum": 0.0}}, (-0.678166290175, 0.547309193079)),
        ("lookahead", 5, {"base_options": {"momentum": 0.0}, "k": 2}, (-0.642990340349, 0.590836903188)),
        ("lookahead", 5, {"k": 2}, (-0.723776053294, 0.325289198466)),
    ],
)
def test_methods_around_another_one_end_where_their_formulas_end(name, steps, options, end, choice):
    model = Valley()
    optimizer = build(choice("zoo", name=name, options=options), model, 0.01)

    def closure():
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        return loss

    for _ in range(steps):
        assert isinstance(optimizer.step(closure), torch.Tensor)
    torch.testing.assert_close(model.point.detach(), torch.tensor(end, dtype=torch.float64), rtol=0, atol=1e-8)


def test_adahessian_gets_the_products_of_the_bench(choice):
    """The package has no spatial average; else the two are the same method, on the same signs."""
    of_package = choice("zoo", name="adahessian", options={"eps": 1e-4})
    own = choice("adahessian", spatial_average="none", epsilon=1e-4, weight_decay=0.0)
    ends = [
        Steps(problem.network(), lambda model, each=each: build(each, model, 0.1)).step(5).weights()
        for each in (of_package, own)
    ]
    for name, weights in ends[0].items():
        torch.testing.assert_close(weights, ends[1][name], rtol=0, atol=1e-9)


def test_products_are_taken_at_their_period(choice):
    session = Steps(problem.network(), lambda model: build(choice("zoo", name="sophiah"), model, None))
    moments = []
    for _ in range(12):
        session.step()
        moments.append(session.optimizer.state[session.model.head.weight]["hessian_moment"].clone())
    changed = [step for step in range(1, 12) if not torch.equal(moments[step], moments[step - 1])]
    assert changed == [10]


def test_hidden_matrices_are_apart_from_all_other_parameters(choice, model):
    optimizer = build(choice("zoo", name="normuon", weight_decay=0.1), model, 0.02)
    groups = [
        ([tuple(each.shape) for each in group["params"]], group["use_muon"], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert groups == [
        ([(4, 1, 3, 3), (8, 16)], True, 0.02, 0.1),
        ([(2, 8)], False, 3e-4, 0.1),
        ([(4,), (8,), (8,), (8,), (2,)], False, 3e-4, 0.0),
    ]


def test_state_that_holds_objects_is_saved_as_plain_values(choice, model, through_a_file):
    optimizer = build(choice("zoo", name="conda", options={"update_proj_gap": 2}), model, None)
    train(model, optimizer, 3)
    saved = through_a_file(optimizer.state_dict())
    again = build(choice("zoo", name="conda", options={"update_proj_gap": 2}), model, None)
    again.load_state_dict(saved)
    (projector,) = {type(each["projector"]) for each in again.state.values() if "projector" in each}
    assert projector.__name__ == "GaLoreProjector"


@pytest.mark.parametrize(
    ("name", "options", "size"), [("kron", {"balance_prob": 0.5}, 8), ("sara", {"lambda_rank": 0.1}, 100)]
)
def test_draws_are_functions_of_the_seed_and_the_step(name, options, size, choice):
    """The generators of Python and NumPy are in no checkpoint: wherever they are, a step draws the same."""

    def places():
        return hash((random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()))

    inputs, targets = torch.randn(8, size, generator=torch.Generator().manual_seed(1)), torch.arange(8)

    def end(elsewhere, seed=0):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(size, size) for _ in range(3)])
        optimizer = build(choice("zoo", name=name, options=options), model, 0.01, seed)

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        for step in range(4):
            random.seed(elsewhere + step)
            np.random.seed(elsewhere + step)
            before = places()
            optimizer.step(closure)
            assert places() == before
        return torch.cat([each.detach().flatten() for each in model.parameters()])

    assert torch.equal(end(0), end(1000))
    assert not torch.equal(end(0), end(0, seed=1))


@pytest.mark.parametrize("name", ["splus", "schedulefreewrapper", "schedulefreesgd"])
def test_evaluations_do_not_touch_the_training(name, tmp_path):
    """Evaluated before the first step, after each, or at the end alone."""
    words = [
        "optimizer=zoo", f"optimizer.name={name}", "dataset=digits", "dataset.train_limit=100", "dataset.validation=16",
        "batch=32", "budget.steps=4", "tracker=none", "progress=false", "model=mlp", "model.hidden=[8]",
    ]  # fmt: skip
    ends = []
    for every in ("1steps", "4steps"):
        outcome = run.execute(config.compose([*words, f"eval_every={every}", f"results_dir={tmp_path / every}"]))
        assert outcome.state == "done", outcome.why
        ends.append(torch.load(outcome.directory.checkpoint))
    for key, weights in ends[0]["task"]["model"].items():
        assert torch.equal(weights, ends[1]["task"]["model"][key]), key
    assert any(not torch.equal(ends[0]["evaluation_model"][key], each) for key, each in weights_of(ends[0]).items())


def weights_of(state):
    return state["task"]["model"]


# Those that take products with the Hessian need an objective: test_zoo_names.py has one for every name.
OF_PRODUCTS = {name for name, takes in config.read_choice("optimizer", "zoo")["info"]["activations"].items() if takes}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*zoo.accepted()} - OF_PRODUCTS - {"alig", "bsam", "kron"}))
def test_every_accepted_name_takes_steps_on_kernels_and_resumes(name, choice, model, through_a_file):
    config_of = choice("zoo", name=name)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), torch.arange(16) % 2)
        loss.backward()
        return loss

    inputs = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    optimizer = build(config_of, model, None)
    assert all(torch.isfinite(optimizer.step(closure)) for _ in range(3))
    build(config_of, model, None).load_state_dict(through_a_file(optimizer.state_dict()))
