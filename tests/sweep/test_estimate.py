"""The time that planned runs will take, by closed numbers from runs whose summaries are written by hand."""

import pytest

from optbench import config as configuration
from optbench.store import RunDirectory
from optbench.sweep.estimate import estimate

WORDS = ["dataset=digits", "model=logreg", "optimizer=sgd", "budget.steps=10", "tracker=none"]


def composed(*words):
    return configuration.compose([*WORDS, *words])


def finish(results, config, seconds, samples, size):
    run = RunDirectory.at(results, configuration.run_id(config))
    run.create(config)
    (run.path / "ballast").write_bytes(b"0" * (size - sum(path.stat().st_size for path in run.path.iterdir())))
    run.append({"event": "evaluation", "step": 10, "seconds": seconds})
    run.finish({"state": "done", "seconds_training": seconds, "samples": samples})
    files = [path for path in run.path.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def test_nothing_is_known_without_earlier_runs(tmp_path):
    found = estimate(tmp_path, [composed("batch=64"), composed("batch=128")])
    assert (found.known, found.unknown, found.examples) == (0, 2, 10 * 64 + 10 * 128)
    assert found.in_words() == "1,920 examples of training in all; no earlier run tells what these will cost"


def test_runs_cost_what_like_ones_did_for_each_example(tmp_path):
    # 0.01, 0.03 and 0.02 seconds an example at batch 64, whose median is 0.02; at another batch 0.5.
    costs = [(1, 0.01), (2, 0.03), (3, 0.02)]
    sizes = [
        finish(tmp_path, composed("batch=64", f"seed={seed}"), each * 640, 640, 9000 + 1000 * seed)
        for seed, each in costs
    ]
    sizes.append(finish(tmp_path, composed("batch=256"), 0.5 * 2560, 2560, 50_000))
    same, other, unlike = composed("batch=64", "seed=9"), composed("batch=32"), composed("model=mlp")
    alone = estimate(tmp_path, [same])
    assert alone.seconds == pytest.approx(0.02 * 640)
    # Of a batch that no run had: by all runs of this model and optimizer; their median is (0.02 + 0.03) / 2.
    assert estimate(tmp_path, [other]).seconds == pytest.approx(0.025 * 320)
    together = estimate(tmp_path, [same, other, unlike])
    assert together.seconds == pytest.approx(0.02 * 640 + 0.025 * 320)
    assert (together.known, together.unknown) == (2, 1)
    assert together.files == 2 * 7
    assert {files for files, _ in sizes} == {7}
    # Of the four runs of this model and optimizer, the two in the middle.
    first, second = sorted(size for _, size in sizes)[1:3]
    assert alone.bytes == (first + second) / 2
    assert together.bytes == 2 * alone.bytes
    assert "nothing is known of 1 others" in together.in_words()
