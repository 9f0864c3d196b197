"""`init=run`: a run that starts where a finished one has ended."""

import pytest
import torch

from optbench import config
from optbench.errors import UserError
from optbench.training import checkpointing, run
from optbench.training.build import build_model, load_data

WORDS = [
    "dataset=digits", "dataset.train_limit=64", "model=wrn", "model.depth=10", "model.width=1", "batch=16", "ghost_batch_size=8",
    "tracker=none", "progress=false", "evaluate_train=32", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def first(results):
    outcome = run.execute(config.compose([*WORDS, "budget.steps=4", f"results_dir={results}"]))
    assert outcome.state == "done", outcome.why
    return outcome


def started(results, source, *words):
    return config.compose([*WORDS, "init=run", f"init.source={source}", f"results_dir={results}", *words])


def test_a_run_starts_from_the_weights_and_statistics_of_another(results, first):
    chosen = config.RunConfig.of(started(results, first.directory.run_id, "precision=fp64"))
    model = build_model(chosen, load_data(chosen))
    expected = checkpointing.load(first.directory.checkpoint, first.directory.run_id)["task"]["model"]
    assert any(name.endswith("running_mean") for name in expected)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_it_trains_from_there_and_its_source_is_in_its_id(results, first):
    words = ["budget.steps=1", "seed=1", "optimizer.learning_rate=0"]
    chosen = started(results, first.directory.run_id, *words)
    assert config.run_id(chosen) != config.run_id(started(results, "another-run", *words))
    outcome = run.execute(chosen)
    assert outcome.state == "done", outcome.why
    states = [
        checkpointing.load(one.directory.checkpoint, one.directory.run_id)["task"]["model"] for one in (outcome, first)
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) != ("running" in name or "num_batches" in name), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["init.source=no-such-run"],
            r"init\.source=no-such-run: this run is not there in .*; accepted: the whole id of",
        ),
        (
            ["model.width=2"],
            r"init\.source=.*is \[.*\] there and \[.*\] in this model; accepted: a run with the same model",
        ),
        (
            ["model=mlp"],
            r"init\.source=.* is \[16\] there and absent in this model; accepted: a run with the same model",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_one_message(results, first, words, message):
    chosen = [word for word in WORDS if not (word.startswith("model") and "model=mlp" in words)]
    given = ["init=run", f"init.source={first.directory.run_id}", f"results_dir={results}", "budget.steps=1"]
    with pytest.raises(UserError, match=message):
        run.execute(config.compose([*chosen, *given, *words]))


def test_a_source_must_be_given():
    with pytest.raises(UserError, match=r"init\.source=null: must be given with init=run: the id of a finished run"):
        config.compose([*WORDS, "init=run"])


def test_a_run_that_is_not_done_or_has_lost_its_checkpoint_is_refused(tmp_path, first):
    outcome = run.execute(config.compose([*WORDS, "budget.steps=1", f"results_dir={tmp_path}"]))
    outcome.directory.checkpoint.unlink()
    with pytest.raises(UserError, match=r"last\.ckpt is missing, which holds its weights"):
        run.execute(started(tmp_path, outcome.directory.run_id))
    outcome.directory.set_status("failed")
    with pytest.raises(UserError, match=r"this run is failed in "):
        run.execute(started(tmp_path, outcome.directory.run_id))
