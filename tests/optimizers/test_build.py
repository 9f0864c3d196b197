import pytest
import torch
from built import build
from torch import nn

from optbench import optimizers
from optbench.config import choices, tuning
from optbench.config.schema import check
from optbench.errors import UserError
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers import LAMB, LARS, Lion, Muon

NAMES = sorted(choices("optimizer"))
FIXED = {"_target_", "name", "info"}
# Those that decide about biases and norm scales by themselves, or have no weight decay.
WITHOUT_DECAY = {
    *("lbfgs", "rprop", "kfac_natural", "hessian_free", "saddle_free", "damped_newton", "cubic_newton"),
    *("lm", "score_ggn", "entropy_sgd", "zeroth_order", "perturbed_sgd", "ogr"),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 4, 5), nn.ReLU(), nn.Linear(5, 2)
    )


@pytest.mark.parametrize("name", NAMES)
class TestEveryChoice:
    def test_states_the_type_of_each_option_and_its_defaults_pass(self, name, choice):
        config = choice(name)
        info = config["info"]
        check(
            {key: value for key, value in config.items() if key in info["schema"] or key not in FIXED}, info["schema"]
        )
        assert info["family"] in ("sgd", "adaptive", "second_order")
        assert info["evaluations"] in ("one", "several")
        assert info["about"]
        assert info["source"]

    def test_every_point_of_its_space_passes_and_builds(self, name, choice, model):
        config = choice(name)
        space = config["info"].get("search_space", {})
        for trial in range(1, 9) if space else ():
            options = tuning.trial_options(space, trial)
            check({key: {**config, **options}[key] for key in config["info"]["schema"]}, config["info"]["schema"])
            build({**config, **options}, model, options.get("learning_rate", config.get("learning_rate")))

    def test_its_default_learning_rate_lies_within_its_space(self, name, choice):
        config = choice(name)
        bounds = config["info"].get("search_space", {}).get("learning_rate")
        if bounds:
            assert bounds["low"] <= config.get("learning_rate") <= bounds["high"]

    def test_groups_cover_each_parameter_once_and_know_their_initial_rate(self, name, choice, model):
        frozen = model[3].weight.requires_grad_(False)
        config = choice(name)
        rate = None if config.get("learning_rate") is None else 0.037
        optimizer = build(config, model, rate)
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(map(id, held)) == sorted(id(p) for p in model.parameters() if p is not frozen)
        assert all(group["initial_lr"] == group["lr"] and group["params"] for group in optimizer.param_groups)
        assert rate is None or {group["lr"] for group in optimizer.param_groups} == {rate}

    def test_lowers_a_loss_by_closure(self, name, choice, model):
        config = choice(name)
        optimizer = build(config, model, config.get("learning_rate"))
        inputs = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        labels = torch.arange(8) % 2

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        def objective():
            return Objective(Network(model), CrossEntropy(), inputs, labels)

        # Those that use curvature need to know more than a closure tells.
        info = config["info"]
        needs_more = info["family"] == "second_order" or info.get("gradients") == "none"
        needs_more &= config["_target_"].startswith("optbench.")
        needs_more |= bool(info.get("products"))
        losses = [optimizer.step(objective() if needs_more else closure).item() for _ in range(30)]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", sorted({*NAMES} - WITHOUT_DECAY - {"zoo", "lars", "lamb"}))
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
def test_only_matrices_and_kernels_are_decayed(name, decay_norm_and_bias, choice, model):
    config = choice(name, weight_decay=0.25, decay_norm_and_bias=decay_norm_and_bias)
    modes = ["coupled", "decoupled"] if "weight_decay_mode" in config else [None]
    for mode in modes:
        optimizer = build({**config, "weight_decay_mode": mode} if mode else config, model, 0.1)
        key = "decoupled_decay" if mode == "decoupled" else "weight_decay"
        decays = {p: group[key] for group in optimizer.param_groups for p in group["params"]}
        assert decays.keys() == set(model.parameters())
        for parameter, decay in decays.items():
            assert decay == (0.25 if parameter.ndim > 1 or decay_norm_and_bias else 0.0)
        assert mode != "decoupled" or all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_parameters_that_decay_alike_are_one_group(choice, model):
    """Kernels run once a group: on a small model a second one costs several per cent of a step."""
    assert len(build(choice("adam", weight_decay=0.0), model, 0.1).param_groups) == 1
    assert len(build(choice("adam", weight_decay=0.1), model, 0.1).param_groups) == 2


def test_a_model_of_vectors_only_has_one_group(choice):
    model = nn.LayerNorm(4)
    assert len(build(choice("adam"), model, 0.1).param_groups) == 1
    assert len(build(choice("muon"), model, 0.1).param_groups) == 1


@pytest.mark.parametrize(("name", "kind"), [("lars", LARS), ("lamb", LAMB), ("lion", Lion), ("muon", Muon)])
def test_builds_our_own_classes_with_the_options_as_given(name, kind, choice, model):
    options = {"momentum": 0.7} if name in ("lars", "muon") else {"beta1": 0.7, "beta2": 0.8}
    optimizer = build(choice(name, **options), model, 0.1)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["momentum"] == 0.7 if "momentum" in options else group["betas"] == (0.7, 0.8)


def test_pairs_of_options_become_pairs_of_arguments(choice, model):
    group = build(choice("rprop", eta_plus=1.3, step_size_max=7.0), model, 0.1).param_groups[0]
    assert (group["etas"], group["step_sizes"]) == ((0.5, 1.3), (1e-6, 7.0))
    assert build(choice("adafactor", epsilon2=0.01), model, 0.1).param_groups[0]["eps"] == (None, 0.01)


FUSED = ["sgd", "momentum", "adam", "adamw", "adagrad"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUSED)
def test_fused_kernels_are_used_where_torch_has_them(name, dtype, choice, model):
    optimizer = build(choice(name), model.to(dtype), 0.1)
    assert all(group["fused"] for group in optimizer.param_groups)


class MySGD(torch.optim.SGD):
    pass


class MyAdamW(torch.optim.AdamW):
    pass


class SignSGD(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class CountedAdamW(torch.optim.AdamW):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


@pytest.mark.parametrize(
    ("name", "kind", "fused"),
    [("sgd", MySGD, True), ("adamw", MyAdamW, True), ("sgd", SignSGD, False), ("adamw", CountedAdamW, False)],
)
def test_a_class_made_from_one_of_torchs_has_its_kernel_while_it_has_its_step(
    name, kind, fused, choice, model, monkeypatch
):
    monkeypatch.setattr("optbench.optimizers.load_target", lambda *_: kind)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):  # the first instance changes the class
        optimizer = build(choice(name), model, 0.1)
        assert type(optimizer) is kind
        assert [bool(group["fused"]) for group in optimizer.param_groups] == [fused] * len(optimizer.param_groups)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = [(old - new).detach() for old, new in zip(start, model.parameters(), strict=True)]
    if name == "sgd":  # a gradient of ones is its own sign
        assert all(torch.allclose(distance, torch.tensor(0.1)) for distance in moved)
    else:
        assert all((distance > 0.09).all() for distance in moved)
        assert getattr(optimizer, "steps", 1) == 1


class RMSprop(torch.optim.Optimizer):
    def __init__(self, params, lr, alpha=0.9, eps=1e-8, momentum=0.0, centered=False):
        super().__init__(params, {"lr": lr})


def test_a_class_that_only_has_the_name_of_one_of_torchs(choice, model, monkeypatch):
    monkeypatch.setattr("optbench.optimizers.load_target", lambda *_: RMSprop)
    config = choice("rmsprop")
    assert type(build(config, model, 0.1)) is RMSprop


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUSED)
def test_every_element_moves_in_every_precision(name, dtype, choice):
    """In torch 2.13, fused SGD moves only the last elements of a bfloat16 tensor on the CPU."""
    model = nn.Linear(40, 1, bias=False, dtype=dtype)
    before = nn.init.ones_(model.weight).detach().clone()
    optimizer = build(choice(name), model, 0.1)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert (model.weight < before).all()


def test_complex_parameters_go_without_fused_kernels(choice):
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    assert not build(choice("adam"), model, 0.1).param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"_target_": "torch.optim.SGDD"}, "SGDD"),
        ({"_target_": "no_such_module.SGD"}, "no_such_module"),
        ({"_target_": "SGD"}, "_target_=SGD"),
        ({"momentum": -1.0}, "momentum"),
    ],
)
def test_mistakes_are_one_message(overrides, said, choice, model):
    with pytest.raises(UserError, match=said):
        build({**choice("momentum"), **overrides}, model, 0.1)


def test_a_model_with_nothing_to_train_is_refused(choice, model):
    with pytest.raises(UserError, match="no parameters"):
        build(choice("adam"), model.requires_grad_(False), 0.1)


@pytest.mark.parametrize("name", ["kfac", "ekfac", "kfac_natural", "hessian_free", "entropy_sgd", "adahessian"])
def test_what_an_optimizer_draws_depends_on_the_seed(name, choice):
    """Two seeds of a study are two samples of everything that is random, the optimizer's own draws too."""

    def after_three_steps(seed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        inputs, targets = torch.randn(16, 4), torch.arange(16) % 3
        optimizer = build(choice(name), model, choice(name)["learning_rate"], seed)
        for _ in range(3):
            optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first, again, other = after_three_steps(0), after_three_steps(0), after_three_steps(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


OF_A_MODEL = [optimizers.KFAC, optimizers.EKFAC, optimizers.KFACNatural]
OF_PARAMETERS = [
    kind
    for kind in (getattr(optimizers, name) for name in optimizers.__all__)
    if isinstance(kind, type)
    and kind not in OF_A_MODEL
    and kind is not optimizers.NAdam  # which is torch's but for a sign
]


@pytest.mark.parametrize("kind", OF_A_MODEL)
def test_one_that_knows_layers_says_that_it_takes_a_model(kind, model):
    for given, named in ((model.parameters(), "generator"), (list(model.parameters()), "list")):
        with pytest.raises(UserError, match=rf"given a {named} in place of a model; accepted: a torch\.nn\.Module"):
            kind(given)


@pytest.mark.parametrize("kind", OF_PARAMETERS)
def test_one_of_parameters_says_so_of_a_model(kind, model):
    with pytest.raises(
        UserError, match=r"given a model \(Sequential\) in place of parameters; accepted: model\.parameters"
    ):
        kind(model, **({"lr": 0.1} if kind is not optimizers.EntropySGD else {}))
    if hasattr(kind, "from_model"):
        with pytest.raises(UserError, match=r"accepted: a torch\.nn\.Module"):
            kind.from_model(model.parameters(), lr=0.1)
