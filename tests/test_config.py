"""The configuration: what enters the run id and what does not, and what follows from a configuration."""

import copy
import re

import pytest
import yaml

from optbench import config as configuration
from optbench.config import (
    ASIDE_GROUPS,
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    SCIENCE_KEYS,
    RunConfig,
    choices,
    compose,
    read_choice,
    resolve,
    run_id,
)
from optbench.config.schema import OptionType
from optbench.config.tuning import trial_options
from optbench.config.yaml_text import write_yaml
from optbench.errors import UserError

DIGITS = ("dataset=digits", "model=mlp")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch):
    monkeypatch.delenv("OPTBENCH_CONF", raising=False)
    monkeypatch.delenv("OPTBENCH_DATA", raising=False)


@pytest.fixture(scope="module")
def default():
    return compose()


@pytest.fixture(scope="module")
def composed():
    """The front page as Hydra alone composes it."""
    return hydra_alone([])


def hydra_alone(overrides):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("config", overrides=list(overrides)), resolve=True)


def other_values(text, value):
    """Values of the type ``text`` other than ``value``; none where it is the only one."""
    kind = OptionType.parse(text)
    if kind.choices:
        candidates = list(kind.choices)
    elif kind.base == "bool":
        candidates = [True, False]
    elif kind.base == "str":
        candidates = ["another"]
    elif kind.base == "duration":
        candidates = ["7epochs", "13%", 17]
    elif kind.base == "amount":
        candidates = ["13%", 17]
    elif kind.base == "mapping":
        candidates = [{"key": 1}]
    else:
        candidates = [0.37, 1.7, 2, 3, 41, 1000]
    candidates = [[candidate] for candidate in candidates] if kind.is_list else candidates
    candidates += [None] * kind.nullable
    return [new for new in candidates if kind.accepts(new) and kind.canonical(new) != kind.canonical(value)]


CHOICES = [(group, name) for group in GROUPS for name in choices(group)]
OPTIONS = [
    (group, name, option)
    for group, name in CHOICES
    for option, text in read_choice(group, name)["info"]["schema"].items()
    if other_values(text, read_choice(group, name)[option])
]
KEPT_OUT = {
    (group, name, option)
    for group, name, option in OPTIONS
    if group == "tracker" or option in read_choice(group, name)["info"].get("not_in_run_id", ())
}
# The limits of a budget are tested by themselves: only the one that holds counts.
LIMITS = {("budget", "default", unit) for unit in ("steps", "samples", "epochs")}


# ---- the run id -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SCIENCE_KEYS)
def test_every_key_of_the_science_changes_the_run_id(key, default):
    changed = other_values(SCIENCE_KEYS[key], default[key])
    assert len({run_id({**default, key: value}) for value in [default[key], *changed]}) == 1 + len(changed) >= 2


@pytest.mark.parametrize("key", MACHINE_KEYS)
def test_no_key_of_the_machine_changes_the_run_id(key, default):
    changed = other_values(MACHINE_KEYS[key], default[key])
    assert changed
    assert {run_id({**default, key: value}) for value in changed} == {run_id(default)}


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("launcher", "search")])
def test_every_option_of_every_choice_changes_the_run_id_unless_its_file_says_no(group, default):
    for name in choices(group):
        choice = read_choice(group, name)
        base = run_id({**default, group: choice})
        for option, text in choice["info"]["schema"].items():
            place = (group, name, option)
            if place not in OPTIONS or place in LIMITS:
                continue
            for value in other_values(text, choice[option]):
                changed = run_id({**default, group: {**choice, option: value}})
                # What data are called is in the readable part of the id, and not in the hash of the science.
                kept = slice(-10, None) if option == choice["info"].get("named_by") else slice(None)
                assert (changed[kept] == base[kept]) == (place in KEPT_OUT), (*place, value)


def test_what_is_kept_out_of_the_run_id_is_hardware_and_checks():
    assert {(group, option) for group, _, option in KEPT_OUT if group != "tracker"} == {
        ("dataset", "check_hash"),
        ("dataset", "path"),  # in its place the fingerprint of what is there counts
        ("dataset", "test_path"),
        ("dataset", "title"),
        ("dataset", "workers"),
        ("model", "checkpointing"),
        ("communication", "workers"),  # of dense, where a sum of whole gradients is the same for all
        *(
            ("trainer", option)
            for option in ("accelerator", "devices", "num_nodes", "rendezvous_seconds", "deterministic", "sharding")
        ),
    }


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("trainer", *ASIDE_GROUPS)])
def test_every_choice_of_a_group_has_a_run_id_of_its_own(group, default):
    ids = {name: run_id({**default, group: read_choice(group, name)}) for name in choices(group)}
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize("group", ["trainer", *ASIDE_GROUPS])
def test_trainers_launchers_searches_and_trackers_do_not_change_the_run_id(group, default):
    assert {run_id({**default, group: read_choice(group, name)}) for name in choices(group)} == {run_id(default)}


def test_workers_count_and_ranks_do_not(default):
    def with_workers(name, workers, devices=1):
        communication = {**read_choice("communication", name), "workers": workers}
        return run_id(
            {**default, "communication": communication, "trainer": {**default["trainer"], "devices": devices}}
        )

    assert with_workers("bf16", 4) != with_workers("bf16", 2)
    assert with_workers("bf16", 4, devices=2) == with_workers("bf16", 4, devices=4)
    # A sum of whole gradients is the same for any number of workers.
    assert with_workers("dense", 1) == with_workers("dense", 4) == run_id(default)


@pytest.mark.parametrize(
    ("budget", "idle"),
    [
        ({"steps": 10}, {"samples": 99}),
        ({"steps": 10}, {"epochs": 99}),
        ({"samples": 1000}, {"epochs": 99}),
    ],
)
def test_a_limit_of_the_budget_that_does_not_hold_does_not_count(budget, idle, default):
    def with_budget(**limits):
        return run_id({**default, "budget": {**default["budget"], **limits}})

    assert with_budget(**budget) == with_budget(**budget, **idle) != with_budget()
    unit = next(iter(budget))
    assert with_budget(**budget) != with_budget(**{unit: budget[unit] + 1})


@pytest.mark.parametrize(
    "spellings",
    [
        ("eval_every=1epoch", "eval_every=1epochs", "eval_every='1 epoch'", "eval_every=1.0epochs"),
        ("eval_every=100", "eval_every=100steps", "eval_every='100'"),
        ("clip_norm=1", "clip_norm=1.0", "clip_norm=1e0", "clip_norm=1.00"),
        ("optimizer.learning_rate=0.01", "optimizer.learning_rate=1e-2", "optimizer.learning_rate=.01"),
        ("schedule.warmup=0", "schedule.warmup=0steps", "schedule.warmup='0 steps'"),
        ("loss=auto", "loss=cross_entropy"),
        ("batch=128", "trainer=ddp"),
        ("budget.epochs=10", "budget.epochs=10.0"),
    ],
    ids=lambda spellings: spellings[0],
)
def test_spellings_of_one_configuration_have_one_run_id(spellings):
    assert len({run_id(compose([word])) for word in spellings}) == 1


def test_steps_and_epochs_are_different_science_even_where_they_coincide():
    assert run_id(compose(["eval_every=100"])) != run_id(compose(["eval_every=100epochs"]))


def test_the_run_id_says_what_a_reader_looks_for():
    words = ["optimizer=adam", "model=resnet18", "dataset=cifar10", "batch=512", "seed=3"]
    assert re.fullmatch(r"adam-resnet18-cifar10-b512-s3-[0-9a-f]{10}", run_id(compose(words)))
    assert re.fullmatch(r"adam-resnet18-cifar10-b512-s3-t7-[0-9a-f]{10}", run_id(compose([*words, "trial=7"])))


def test_a_name_that_is_no_file_name_makes_a_folder_name_all_the_same():
    config = compose([*DIGITS, "optimizer=zoo", "optimizer.name='a/b ..: c'"])
    assert re.fullmatch(r"a_b_.._c-mlp-digits-b128-s0-[0-9a-f]{10}", run_id(config))


def test_the_run_id_of_the_default_configuration_is_what_it_was(default):
    # A change of this value orphans everybody's results: make one only with a change of the numbers.
    assert run_id(default) == "sgd-lenet5-fashion_mnist-b128-s0-4778801548"


def test_the_run_id_survives_being_frozen_and_read_back(default):
    frozen = write_yaml(compose(["trial=2", "optimizer=adam", "eval_every=5%"]))
    read = yaml.safe_load(frozen)
    assert run_id(read) == run_id(resolve(read)) == run_id(compose(["trial=2", "optimizer=adam", "eval_every=5%"]))
    assert list(read) == list(default)


# ---- composing and resolving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=adam", "optimizer.beta1=0.8", "batch=32", "loss=cross_entropy"],
        ["model=gpt", "dataset=text", "schedule=cosine", "schedule.warmup=5%", "model.width=64"],
    ],
)
def test_composing_is_hydras_own_composition(overrides, monkeypatch):
    monkeypatch.setenv("OPTBENCH_DATA", "/somewhere/data")
    alone = hydra_alone(overrides)
    ours = compose(overrides)
    assert alone["data_dir"] == ours["data_dir"] == "/somewhere/data"
    if alone["loss"]["name"] == "auto":
        alone.pop("loss"), ours.pop("loss")
    for group in LIST_GROUPS:
        assert alone.pop(group).keys() == {"none"}  # the choice of nothing, which is not kept
        assert ours.pop(group) == {}
    assert ours == alone


@pytest.mark.parametrize("word", ["trial=3", "loss=auto", "optimizer=adam"])
def test_resolving_leaves_its_input_as_it_is(word):
    given = hydra_alone([word])
    kept = copy.deepcopy(given)
    resolve(given)
    assert given == kept


def test_resolving_twice_is_resolving_once():
    once = compose(["optimizer=adam", "trial=5"])
    assert resolve(once) == once


def test_a_trial_sets_the_options_of_its_search_space(default):
    changed = compose(["optimizer=adam", "trial=5"])
    point = trial_options(read_choice("optimizer", "adam")["info"]["search_space"], 5)
    assert {name: changed["optimizer"][name] for name in point} == point
    assert point.keys() == {"learning_rate", "beta1", "beta2", "weight_decay"}
    zero = compose(["optimizer=adam", "trial=0"])["optimizer"]
    assert {name: zero[name] for name in point} == {name: read_choice("optimizer", "adam")[name] for name in point}


def test_every_trial_has_a_run_id_of_its_own():
    assert len({run_id(compose([*DIGITS, f"trial={trial}"])) for trial in range(6)}) == 6


@pytest.mark.parametrize(
    ("model", "dataset", "loss"),
    [
        ("lenet5", "fashion_mnist", "cross_entropy"),
        ("gpt", "text", "cross_entropy"),
        ("lstm", "memorization", "cross_entropy"),
        ("lstm", "temporal_order_2", "cross_entropy"),
        ("lstm", "adding", "mse"),
        ("rnn", "multiplication", "mse"),
        ("autoencoder", "digits", "bernoulli"),
        ("autoencoder_curves", "curves", "bernoulli"),
        ("autoencoder_faces", "curves", "mse"),
    ],
)
def test_the_loss_follows_from_the_data_and_the_model(model, dataset, loss):
    config = compose([f"model={model}", f"dataset={dataset}"])
    assert config["loss"] == read_choice("loss", loss)
    assert run_id(config) == run_id(compose([f"model={model}", f"dataset={dataset}", f"loss={loss}"]))


def test_a_group_is_refused_that_is_no_choice_of_its_own(composed):
    for broken in ({"optimizer": "adam"}, {"optimizer": {"learning_rate": 0.1}}, {"optimizer": None}):
        with pytest.raises(UserError, match=r"optimizer.*accepted: .*adam"):
            resolve({**composed, **broken})


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.name=adam"],
        ["optimizer.name=nothing"],
        ["optimizer.info.family=adaptive"],
        ["model.info.accepts=[]"],
    ],
)
def test_what_is_not_in_the_run_id_cannot_be_changed_behind_its_back(overrides):
    with pytest.raises(UserError, match="fixed"):
        compose(overrides)


# ---- what follows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (["budget.steps=7"], 7),
        (["budget.steps=7", "budget.samples=100000", "budget.epochs=3"], 7),
        (["budget.samples=1000"], 8),  # 8 batches of 128 are the first to hold 1000
        (["budget.samples=1024", "budget.epochs=3"], 8),
        (["budget.epochs=3"], 31),  # 3 * 1293 = 3879 samples in batches of 128: 30.3
        (["budget.epochs=0.5"], 6),  # 646.5 samples
        (["budget.steps=7", "batch=256", "budget.regime_adaptation=true"], 7),
        (["budget.epochs=3", "batch=256", "budget.regime_adaptation=true"], 31),  # 6 epochs of half as many steps
        (["budget.epochs=3", "batch=256", "budget.regime_adaptation=false"], 16),
    ],
)
def test_the_budget_is_its_steps_or_else_its_samples_or_else_its_epochs(budget, steps):
    assert configuration.horizon(RunConfig.of(compose([*DIGITS, *budget])), 1293).steps == steps


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        # 1293 examples: epoch 1 ends at sample 1293, after ceil(1293 / 32) = 41 steps and 1312 samples; epoch 2 at 2586,
        # ceil((2586 - 1312) / 64) = 20 steps later.
        (["schedule.growth=2", "schedule.milestones=[1epochs,2epochs]"], [(0, 32), (41, 64), (61, 128)]),
        (["schedule.growth=2", "schedule.milestones=[320samples]"], [(0, 32), (10, 64)]),
        (["schedule.growth=1.5", "schedule.milestones=[320samples,800samples]"], [(0, 32), (10, 48), (20, 72)]),
        (
            ["schedule.growth=2", "schedule.maximum=64", "schedule.milestones=[1epochs,2epochs]"],
            [(0, 32), (41, 64), (61, 64)],
        ),
        # Each epoch of a batch of 32 lasts two where the base batch is 16: 2586 samples are 80.8 steps of 32.
        (
            ["schedule.growth=2", "schedule.milestones=[1epochs]", "budget.regime_adaptation=true", "base_batch=16"],
            [(0, 32), (81, 64)],
        ),
    ],
)
def test_the_batch_grows_at_the_milestones(overrides, stages):
    config = compose([*DIGITS, "batch=32", "schedule=batch_growth", *overrides])
    plan = configuration.batch_plan(RunConfig.of(config))
    assert [(stage.first_step, stage.batch) for stage in plan.stages] == stages


def test_the_batch_is_constant_with_any_other_schedule(default):
    for name in sorted(choices("schedule").keys() - {"batch_growth"}):
        config = {**default, "schedule": read_choice("schedule", name)}
        assert [stage.batch for stage in configuration.batch_plan(RunConfig.of(config)).stages] == [128]


@pytest.mark.parametrize(
    ("overrides", "examples"),
    [
        (["dataset=digits"], 1293),
        (["dataset=digits", "dataset.validation=44"], 1393),
        (["dataset=digits", "dataset.train_limit=300"], 300),
        (["dataset=digits", "dataset.train_limit=5000"], 1293),
        (["dataset=natpatch", "dataset.examples=500"], 500),
        (["dataset=adding", "model=rnn", "dataset.examples=700", "dataset.train_limit=600"], 600),
        (["dataset=text", "model=gpt"], 29137),
        (["dataset=text", "model=gpt", "dataset.sequence_length=60"], None),
        (["dataset=text", "model=gpt", "dataset.sequence_length=60", "dataset.train_limit=200"], 200),
    ],
)
def test_the_size_of_the_training_set_before_it_is_loaded(overrides, examples):
    assert configuration.training_examples(RunConfig.of(compose(["model=mlp", *overrides]))) == examples


@pytest.mark.parametrize(
    ("optimizer", "scaling", "factor"),
    [("sgd", "auto", 8), ("adam", "auto", 8**0.5), ("adam", "linear", 8), ("sgd", "none", 1), ("sgd", "sqrt", 8**0.5)],
)
def test_the_learning_rate_is_scaled_from_the_base_batch(optimizer, scaling, factor):
    config = compose([*DIGITS, f"optimizer={optimizer}", f"scaling={scaling}", "batch=1024"])
    rate, _ = configuration.learning_rate(RunConfig.of(config))
    assert rate == pytest.approx(read_choice("optimizer", optimizer)["learning_rate"] * factor)


# ---- the front page -----------------------------------------------------------------------------------------------------------


def test_the_front_page_holds_every_key_and_says_what_it_is():
    page = configuration.front_page()
    plain = [key for key in page if key not in ("defaults", "hydra")]
    assert sorted(plain) == sorted([*SCIENCE_KEYS, *MACHINE_KEYS])
    chosen = [next(iter(entry)) for entry in page["defaults"] if isinstance(entry, dict)]
    assert [group for group in chosen if group not in LIST_GROUPS][: len(GROUPS)] == list(GROUPS)
    text = (configuration.conf_dir() / "config.yaml").read_text()
    for key in plain:
        assert re.search(rf"^{key}: .*# \w+", text, re.MULTILINE), f"{key} has no explanation"


def test_the_front_page_passes_its_own_types(composed):
    for key, text in (SCIENCE_KEYS | MACHINE_KEYS).items():
        assert OptionType.parse(text).accepts(composed[key]), key


def test_an_option_that_the_trial_draws_cannot_be_set_as_well():
    with pytest.raises(UserError, match=r"optimizer.learning_rate=0.5: trial=3 draws it"):
        compose(["optimizer=adam", "trial=3", "optimizer.learning_rate=0.5"])
    # Resolving what is resolved changes nothing.
    resolved = compose(["optimizer=adam", "trial=3"])
    assert resolve(resolved) == resolved
