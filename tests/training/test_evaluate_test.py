"""evaluate_test=false: the test set is evaluated once, to the same result, also with averaged weights."""

from optbench import config
from optbench.training import run

WORDS = [
    "optimizer=sgd", "model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.train_limit=64", "dataset.validation=16",
    "batch=32", "budget.steps=6", "eval_every=2steps", "evaluate_train=32", "averaging=ema", "tracker=none", "progress=false",
]  # fmt: skip


def executed(folder, *words):
    """The evaluations and the summary of a run, without its times."""
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={folder}"]))
    assert outcome.state == "done", outcome.why
    rows = [row for row in outcome.directory.rows() if row["event"] == "evaluation"]
    return rows, outcome.directory.summary()


def of_test(row):
    return {name for name, value in row.items() if ("test_" in name or "gap_" in name) and value is not None}


def test_the_test_set_is_evaluated_at_the_end_only_and_the_run_is_the_same(tmp_path):
    always, expected = executed(tmp_path / "always")
    rows, found = executed(tmp_path / "end", "evaluate_test=false")
    assert [row["step"] for row in rows] == [row["step"] for row in always] == [2, 4, 6]
    assert [bool(of_test(row)) for row in rows] == [False, False, True]
    assert all(len(of_test(row)) == 8 for row in always)
    for row, other in zip(rows, always, strict=True):
        there = {name: value for name, value in row.items() if value is not None}
        assert {**other, "seconds": 0} == {**other, **there, "seconds": 0}
    for name in expected:
        if name.endswith(("loss", "accuracy")) or name == "run_id":
            assert found[name] == expected[name], name


def test_a_run_that_may_end_at_a_target_has_its_test_results_there(tmp_path):
    target = [
        "budget.target=100",
        "budget.target_metric=train_loss",
        "budget.stop_at_target=true",
        "evaluate_test=false",
    ]
    rows, found = executed(tmp_path, *target)
    assert [row["step"] for row in rows] == [2]
    assert found["test_accuracy"] == rows[0]["test_accuracy"]
