"""Every file of conf/: what it states about itself, and that it builds and trains what it names."""

import functools
import importlib
import importlib.util
import inspect
import math

import pytest
import torch
from torch import nn

from optbench import optimizers
from optbench.config import GROUPS, Choice, RunConfig, choices, compose, options, read_choice, resolve, schema
from optbench.config.composing import _chosen
from optbench.config.schema import OptionType
from optbench.config.targets import load_target
from optbench.config.tuning import validate
from optbench.training import build

CHOICES = [(group, name) for group in (*GROUPS, "transform") for name in choices(group)]
# Which of these a choice names itself; the others are read by the code of the group.
HAVE_NO_TARGET = {"budget", "trainer", "launcher", "search"}
NOTHING = {
    ("loss", "auto"),
    ("momentum_schedule", "none"),
    ("averaging", "none"),
    ("communication", "dense"),
    ("selection", "none"),
    ("tracker", "none"),
    ("transform", "none"),
}
# What the code of a group hands to every target, beside the options.
FROM_THE_GROUP = {
    "model": {"data"},
    "dataset": {"data_dir"},
    "schedule": {"horizon", "batch"},
    "momentum_schedule": {"horizon"},
    "init": {"model", "generator", "results_dir"},
    "averaging": {"model"},
    "communication": {"shapes"},
    "tracker": {"run", "options"},
    "optimizer": {"params", "model", "options"},
}
# Options that the code of a group deals with itself.
OF_THE_GROUP = {
    "schedule": {"warmup", "warmup_kind"},
    "optimizer": {"weight_decay_mode", "decay_norm_and_bias"},
    "tracker": {"finish_timeout"},
    "model": {"checkpointing"},
    "communication": {"shards"},
}


def target_of(group, choice):
    module, _, name = choice["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda word: word)
class TestEveryFile:
    def test_states_its_name_what_it_is_and_where_it_is_from(self, group, name):
        choice = read_choice(group, name)
        info = choice["info"]
        assert "name" in info["schema"] or choice["name"] == name
        assert info["about"].strip()
        assert "\n" not in info["about"].strip()
        assert info["source"].strip() or name in ("none", "auto")

    def test_states_the_type_of_every_option_and_its_defaults_pass(self, group, name):
        choice = read_choice(group, name)
        typed = choice["info"]["schema"]
        assert options(choice).keys() == typed.keys()
        schema.check(options(choice), typed, group)
        assert set(choice["info"].get("not_in_run_id", ())) <= typed.keys() | {"name"}

    def test_names_something_that_takes_its_options(self, group, name):
        choice = read_choice(group, name)
        if group in HAVE_NO_TARGET or (group, name) in NOTHING:
            assert "_target_" not in choice
            return
        if group == "scaling":  # one function reads the whole choice
            assert choice["_target_"] == "optbench.config.scaling.learning_rate"
            return
        target = target_of(group, choice)
        accepted = dict(inspect.signature(target).parameters)
        if hasattr(target, "from_model"):  # which makes groups of the model's parameters, and constructs
            accepted |= inspect.signature(target.from_model).parameters
        needed = {name for name, parameter in accepted.items() if parameter.default is parameter.empty}
        given = options(choice).keys() - OF_THE_GROUP.get(group, set()) - set(choice["info"].get("augmentation", ()))
        if group == "optimizer":
            given = optimizers._arguments(dict.fromkeys(given)).keys()
        assert given <= accepted.keys()
        assert needed <= given | FROM_THE_GROUP.get(group, set())

    def test_its_search_space_is_one_of_its_options_within_their_bounds(self, group, name):
        choice = read_choice(group, name)
        space, typed = choice["info"].get("search_space") or {}, choice["info"]["schema"]
        assert group == "optimizer" or not space
        assert space.keys() <= options(choice).keys()
        validate(space)
        for option, entry in space.items():
            kind = OptionType.parse(typed[option])
            if entry["distribution"] == "categorical":
                ends = entry["choices"]
            elif entry["distribution"] == "log_uniform_complement":
                ends = [1 - entry["low"], 1 - entry["high"]]
            else:
                ends = [entry["low"], entry["high"]]
            assert all(kind.accepts(end) for end in ends), (option, ends)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_default_among_its_choices(group):
    assert _chosen(group, []) in choices(group)


def test_the_facts_that_decide_what_fits_are_of_the_accepted_words():
    for name in choices("model"):
        info = read_choice("model", name)["info"]
        assert info["accepts"]
        assert set(info["accepts"]) <= {"image", "sequence", "tokens", "table", "noise", "problem"}
        assert isinstance(info["batch_norm"], bool)
    for name in choices("dataset"):
        info = read_choice("dataset", name)["info"]
        assert info["kind"] in ("image", "sequence", "tokens", "table", "noise", "problem")
        assert info["target"] in ("class", "class_per_step", "real", "value", "none")
        assert info["download"] in ("needed", "none")
    kinds = {"class", "class_per_step", "real", "value"}
    losses = {name: read_choice("loss", name)["info"] for name in choices("loss")}
    chosen = losses.pop("auto")["chooses"]
    assert chosen.keys() == kinds | {"none", "reconstruction"}
    assert all({*info["targets"]} <= kinds for info in losses.values())
    # What loss=auto chooses takes what it is chosen for.
    assert all(kind in losses[chosen[kind]]["targets"] for kind in kinds)
    assert losses[chosen["reconstruction"]]["reconstructs"]
    for name in choices("schedule"):
        choice = read_choice("schedule", name)
        assert choice["info"].get("changes_at") in {None, *options(choice)}


# ---- every model on every kind of data that it accepts ---------------------------------------------------------------------

PROBLEMS = (
    "rosenbrock", "nesterov_skokov", "beale", "beale_starts", "branin", "pl_sine", "star_convex", "saddle", "phase_retrieval",
    "matrix_factorization", "matrix_sensing", "matrix_completion", "tensor_decomposition", "deep_linear", "two_magnitudes",
)  # fmt: skip
SMALL_DATA = {
    "digits": {"train_limit": 16},
    "digits_table": {"train_limit": 16},
    "curves": {"examples": 24, "validation": 8},
    "quadratic": {"dimension": 12, "examples": 16},
    **{name: {"examples": 16, "noise": 0.1} for name in PROBLEMS},
    "natpatch": {"examples": 20, "validation": 10},
    "adding": {"length": 12, "examples": 16, "validation": 8},
    "multiplication": {"length": 12, "examples": 16, "validation": 8},
    "temporal_order_2": {"length": 20, "examples": 16, "validation": 8},
    "temporal_order_3": {"length": 20, "examples": 16, "validation": 8},
    "memorization": {"length": 5, "examples": 16, "validation": 8},
    "text": {"sequence_length": 12, "train_limit": 16},
}
NEEDS = {"natpatch": ("skimage", "sklearn", "PIL")}
# The same models with fewer or narrower layers, where the default is dear.
SMALL_MODELS = {
    "wrn": {"depth": 10, "width": 1},
    "zaremba_small": {"embedding": 12, "hidden": 12},
    "zaremba_medium": {"embedding": 12, "hidden": 12},
    "zaremba_large": {"embedding": 12, "hidden": 12},
    "gpt_small": {"layers": 2, "heads": 2, "width": 24},
    "autoencoder_faces": {"hidden": [40, 20]},
    "autoencoder_mnist": {"hidden": [40, 20]},
    "preresnet1001": {"depth": 20},
    "preresnet164": {"depth": 20},
    "preresnet110": {"depth": 20},
    "resnet110": {"depth": 20},
    "resnet56": {"depth": 20},
    "resnet44": {"depth": 20},
    "resnet34": {"depth": 18},
    "resnet50": {"depth": 18},
    "vgg13": {"depth": 11},
    "vgg16": {"depth": 11},
    "vgg19": {"depth": 11},
}


@functools.cache
def front_page():
    """The default configuration with a small run on it; callers do not change it."""
    return compose(["dataset=digits", "budget.steps=3", "batch=8", "tracker=none"]) | {
        "loss": read_choice("loss", "auto")
    }


@functools.cache
def data(name):
    lacking = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    dataset = read_choice("dataset", name) | SMALL_DATA[name]
    return build.load_data(RunConfig.of(resolve({**front_page(), "dataset": dataset, "model": fitting_model(dataset)})))


def fitting_model(dataset):
    names = {
        "image": "mlp",
        "sequence": "rnn",
        "tokens": "gpt",
        "noise": "quadratic",
        "problem": "problem",
        "table": "mlp",
    }
    return read_choice(
        "model", "autoencoder" if dataset["info"]["target"] == "none" else names[dataset["info"]["kind"]]
    )


def train_one_step(**chosen):
    """One step of the front page with these choices; returns the task."""
    config = resolve({**front_page(), **chosen})
    task = build.build_task(RunConfig.of(config), data(config["dataset"]["name"]))
    task.configure_optimizers()
    task.model.train()
    before = {name: parameter.detach().clone() for name, parameter in task.model.named_parameters()}
    task.take_step()
    assert math.isfinite(task.losses[0])
    still = [name for name, parameter in task.model.named_parameters() if torch.equal(parameter, before[name])]
    return task, still


def pairs():
    for name in choices("model"):
        info = read_choice("model", name)["info"]
        for dataset in SMALL_DATA:
            about = read_choice("dataset", dataset)["info"]
            if about["kind"] in info["accepts"] and (about["target"] != "none" or info.get("reconstructs")):
                # What is special about natpatch are colours and 32 x 32 pixels.
                dear = dataset == "natpatch" and name not in ("mlp", "lenet5", "wrn", "keskar_f1", "autoencoder_mnist")
                yield pytest.param(name, dataset, marks=pytest.mark.slow if dear else (), id=f"{name}-{dataset}")


@pytest.mark.parametrize(("model", "dataset"), pairs())
def test_every_model_takes_a_step_on_every_dataset_that_fits(model, dataset):
    chosen = {
        "model": read_choice("model", model) | SMALL_MODELS.get(model, {}),
        "dataset": read_choice("dataset", dataset) | SMALL_DATA[dataset],
    }
    task, still = train_one_step(**chosen)
    assert task.step == 1
    reached = [name for name, parameter in task.model.named_parameters() if parameter.grad is not None]
    assert len(reached) == len(list(task.model.parameters()))
    # A unit that no input of one batch reaches may have a gradient of zero, a whole network may not.
    assert len(still) < len(reached) / 2, still


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_the_dear_models_take_a_step_at_their_full_size(model):
    kind = read_choice("model", model)["info"]["accepts"][0]
    dataset = {"image": "digits", "tokens": "text"}[kind]
    train_one_step(
        model=read_choice("model", model), dataset=read_choice("dataset", dataset) | SMALL_DATA[dataset], batch=2
    )


def test_every_dataset_without_download_is_among_them():
    free = {name for name in choices("dataset") if read_choice("dataset", name)["info"]["download"] == "none"}
    assert free == SMALL_DATA.keys()


@pytest.mark.parametrize(
    "group",
    [
        "optimizer",
        "schedule",
        "scaling",
        "averaging",
        "communication",
        "selection",
        "init",
        "loss",
        "momentum_schedule",
    ],
)
def test_every_choice_of_the_other_groups_takes_a_step(group):
    for name in choices(group):
        chosen = {
            group: read_choice(group, name),
            "dataset": read_choice("dataset", "digits") | SMALL_DATA["digits"],
            "model": read_choice("model", "mlp"),
        }
        if group == "momentum_schedule":
            chosen["optimizer"] = read_choice("optimizer", "momentum")
        if group == "schedule" and name == "batch_growth":
            chosen["schedule"] |= {"milestones": ["1epochs"], "growth": 2.0}
        if group == "init" and name in ("esn", "identity"):
            chosen["model"] = read_choice("model", "irnn")
        if group == "loss" and name == "bernoulli":
            chosen["model"] = read_choice("model", "autoencoder")
        if group == "loss" and name == "value":
            chosen["model"] = read_choice("model", "problem")
            chosen["dataset"] = read_choice("dataset", "beale") | SMALL_DATA["beale"]
        if group == "loss" and name == "mse":
            chosen["model"] = read_choice("model", "rnn")
            chosen["dataset"] = read_choice("dataset", "adding") | SMALL_DATA["adding"]
        if group == "init" and name == "run":
            continue  # tests/training/test_starting.py has a run to start from
        if group == "optimizer" and name == "zoo" and importlib.util.find_spec("pytorch_optimizer") is None:
            continue
        task, still = train_one_step(**chosen)
        if name == "soap":
            continue  # its first gradient makes the bases, and no step
        # A learning rate may start from zero; whatever else, a step moves the weights.
        moved = task.optimizer.param_groups[0]["lr"] == 0 or len(still) < len(list(task.model.parameters()))
        assert moved, name


@pytest.mark.parametrize("name", choices("model"))
def test_every_model_at_its_full_size_is_built_without_its_numbers(name):
    """The models that SMALL_MODELS shrinks above are at least built as their files say."""
    from optbench.data import quadratic
    from optbench.data.problems import beale
    from optbench.data.spec import DataSpec

    choice = read_choice("model", name)
    specs = {
        "image": DataSpec("image", (3, 32, 32), 10),
        "sequence": DataSpec("sequence", (20, 4), 3),
        "tokens": DataSpec("tokens", (20,), 50, "class_per_step", vocabulary=50),
        "table": DataSpec("table", (7,), 3),
        "noise": quadratic.load("", dimension=7).spec,
        "problem": beale.load("").spec,
    }
    for kind in choice["info"]["accepts"]:
        with torch.device("meta"):
            model = load_target(Choice.of("model", choice), nn.Module)(
                specs[kind], **Choice.of("model", choice).options
            )
        has_norms = any(key.endswith("running_mean") for key in model.state_dict())
        assert has_norms == choice["info"]["batch_norm"]
