"""The promises of the bench, for every optimizer, communication, selection and transform in conf/: a new file gets them.

1. The result does not depend on the micro-batch size (to rounding).
2. Several ranks give what one rank gives on the same global batch (to rounding).
3. A run that is killed anywhere and resumed ends bit for bit where an undisturbed one ends.
4. What `python -m optbench certify` checks beside these.

The network has batch norm (in groups smaller than the batch) and dropout, the two layers that break the first two
promises where nobody sees to it, and every step is clipped and averaged. The first two are held in float64: in float32
the smallest difference grows to a visible one within a few steps, between any two orders of summation.
"""

import copy

import pytest

from optbench import config, testing
from optbench.config import RunConfig
from optbench.testing import invariance, problem, resuming
from optbench.testing.certifying import CHECKS
from optbench.training import build, run

OPTIMIZERS = sorted(config.choices("optimizer"))
# What two workers send of the gradients of one optimizer; its numbers of steps end in the middle of a local period.
COMMUNICATIONS = [f"communication={name}" for name in sorted(config.choices("communication")) if name != "dense"]
WORKERS = (
    "communication.workers=2", "batch=8", "ghost_batch_size=2", "dataset.train_limit=64", "dataset.validation=8",
)  # fmt: skip
# A subset that is chosen again in the middle of the run; generic weights in float64 have no ties that rounding could break.
SELECTIONS = [f"selection={name}" for name in sorted(config.choices("selection")) if name != "none"]
SUBSETS = ("selection.fraction=0.75", "selection.every=3", "dataset.train_limit=96", "dataset.validation=8")
OPTIONS = {
    "communication=local": ("communication.period=3", "communication.shards=sorted"),
    "communication=post_local": ("communication.period=2", "communication.start=1"),
    "communication=power_sgd": ("communication.rank=2",),
    "communication=sign": ("communication.shards=sorted",),
    "selection=adacore": ("selection.draws=1",),
}
# Each transform around AdamW, and some around a method with curvature.
TRANSFORMS = [f"transform=[{name}]" for name in sorted(config.choices("transform")) if name != "none"]
TRANSFORMED = {**dict.fromkeys(TRANSFORMS, "adamw"), "transform=[cautious,lookahead]": "kfac"}
TRAINED = [*OPTIMIZERS, *COMMUNICATIONS, *SELECTIONS, *TRANSFORMED]
# What ranks divide of the run of an optimizer, for all that say in their files that ranks may.
SHARDED = [
    f"{name} {sharding}"
    for name in OPTIMIZERS
    for sharding in config.read_choice("optimizer", name)["info"].get("sharding", [])
]
# What is tested of every optimizer below, and what is only measured or needs a device.
APART = {"micro-batch", "ranks", "kill", "memory", "time", "device"}
# The promises that a choice breaks, as far as it is known; each with the reason.
BROKEN = {
    ("asgd", "learning rate"): "torch's ASGD computes the rate of the next step at the end of a step",
    ("asgd", "zero rate"): "torch's ASGD computes the rate of the next step at the end of a step",
    ("lbfgs", "frozen"): "torch's L-BFGS moves all weights along one direction, which has memory",
    ("lbfgs", "zero rate"): "torch's line search divides by the first step that it tries",
}


def composed(optimizer: str, *overrides: str) -> config.Config:
    """A run of an optimizer, of workers that send what ``optimizer`` says, on its subsets, or with its transforms."""
    if optimizer in SELECTIONS:
        words = (*problem.COMMON, "optimizer=momentum", optimizer, *SUBSETS, *OPTIONS.get(optimizer, ()))
        return config.compose([*words, *overrides])
    if optimizer in TRANSFORMED:
        method = TRANSFORMED[optimizer]
        return config.compose([f"optimizer={method}", *problem.words_for(method), optimizer, *overrides])
    if optimizer in COMMUNICATIONS:
        words = (*problem.COMMON, "optimizer=momentum", optimizer, *WORKERS, *OPTIONS.get(optimizer, ()))
        return config.compose([*words, *overrides])
    return config.compose([f"optimizer={optimizer}", *problem.words_for(optimizer), *overrides])


@pytest.fixture(scope="module")
def undisturbed():
    """The weights that one rank with whole batches reaches in float64, by name."""
    return {name: invariance.Undisturbed(composed(name, "precision=fp64")) for name in TRAINED}


# One worker has what one rank reaches, and starts the two ranks, for all tests.
@pytest.mark.xdist_group("promises")
@pytest.mark.parametrize("optimizer", TRAINED)
def test_the_result_does_not_depend_on_the_micro_batch(optimizer, undisturbed):
    assert not invariance.micro_batch(undisturbed[optimizer]).note


@pytest.fixture(scope="module")
def two_ranks(undisturbed):
    """Two ranks that train all of them: each with several groups of batch norm, in as many micro-batches."""
    configs = {
        name: {**each.config, "micro_batch": each.config["ghost_batch_size"]} for name, each in undisturbed.items()
    }
    ranks = invariance.TwoRanks(configs)
    yield ranks
    ranks.stop()


@pytest.mark.slow
@pytest.mark.xdist_group("promises")
@pytest.mark.parametrize("optimizer", TRAINED)
def test_two_ranks_give_what_one_gives(optimizer, undisturbed, two_ranks):
    assert not invariance.ranks(undisturbed[optimizer], two_ranks, optimizer).note


@pytest.fixture(scope="module")
def two_ranks_that_divide(request, undisturbed):
    """Two ranks that train all of them that are tested in this session, as `two_ranks` does."""
    tested = [item for item in request.session.items if "two_ranks_that_divide" in item.fixturenames]
    configs = {}
    for name in [item.callspec.params["name"] for item in tested]:
        optimizer, sharding = name.split()
        chosen = undisturbed[optimizer].config
        trainer = {**chosen["trainer"], "sharding": sharding}
        configs[name] = {**chosen, "micro_batch": chosen["ghost_batch_size"], "trainer": trainer}
    ranks = invariance.TwoRanks(configs)
    yield ranks
    ranks.stop()


@pytest.mark.slow
@pytest.mark.xdist_group("promises")
@pytest.mark.parametrize(
    "name",
    # Most of the others differ from these only in what they do with the entries of a tensor.
    [
        name if name.split()[0] in ("adamw", "lamb", "muon") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in SHARDED
    ],
)
def test_two_ranks_that_divide_give_what_one_gives(name, undisturbed, two_ranks_that_divide):
    """In micro-batches, too, so that these make no difference either; tests/training/test_sharding.py kills such runs."""
    assert not invariance.ranks(undisturbed[name.split()[0]], two_ranks_that_divide, name).note


@pytest.mark.parametrize("optimizer", TRAINED)
def test_a_killed_run_ends_where_an_undisturbed_one_does(optimizer):
    resuming.kill(composed(optimizer, *resuming.KILLED))


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *TRANSFORMED])
def test_what_is_certified_of_it_beside_these(optimizer):
    """Also that what is known to be broken still is: who mends it takes it out of the list above."""
    words = (
        [f"optimizer={TRANSFORMED[optimizer]}", optimizer] if optimizer in TRANSFORMED else [f"optimizer={optimizer}"]
    )
    card = testing.certify(*words, checks=[name for name, _, _ in CHECKS if name not in APART])
    broken = {name for broken, name in BROKEN if broken == optimizer}
    assert {check.name: check.reason for check in card.failures}.keys() == broken, card.failures


def test_a_recorder_remembers_what_it_has_seen():
    """Whatever a run changes in its recorder is in the recorder's state, so that a resumed run ends with the same summary."""
    chosen = composed("adam", "eval_every=2", "budget.target=0.01")
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    recorder = build.build_recorder(read, task, None)
    before = copy.deepcopy({name: value for name, value in vars(recorder).items() if not callable(value)})
    build.build_trainer(read, [recorder]).fit(task, train_dataloaders=run.StepTokens(task))
    changed = {name for name, value in vars(recorder).items() if not callable(value) and value != before.get(name)}
    # When it last wrote is a matter of the clock, whether it writes one of the rank, and the loss is for those who watch.
    changed -= {"_last_checkpoint", "_writes", "loss"}
    # A copy of the probes, and of the memory and seconds that were measured, is never equal to them; what they remember is
    # tested with them.
    assert {"probes", "measured"} <= set(recorder.state())
    changed -= {"probes", "measured"}
    assert changed == {"last_row", "evaluation", "first_loss", "results", "outcome"}
    assert changed <= set(recorder.state())
