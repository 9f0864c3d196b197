"""Shards in a run: which examples the workers of a configuration see, what they change, and which data have none."""

import pytest
import torch

from optbench.__main__ import main
from optbench.config import RunConfig, choices, compose, read_choice, run_id
from optbench.errors import UserError
from optbench.testing.trained import numbers, trained
from optbench.training import build

SMALL = [
    "dataset=digits", "dataset.train_limit=64", "dataset.validation=16", "batch=32", "budget.steps=4", "evaluate_train=64",
    "tracker=none", "progress=false", "precision=fp64", "optimizer=sgd", "model=mlp", "model.hidden=[12]",
]  # fmt: skip


def test_every_choice_but_dense_has_shards():
    for name in choices("communication"):
        assert ("shards" in read_choice("communication", name)) == (name != "dense")


def test_workers_of_a_run_see_their_shard():
    read = RunConfig.of(compose([*SMALL, "communication=local", "communication.shards=sorted"]))
    raw = build.load_data(read)
    source, labels = build.build_task(read, raw).source, raw.train.targets.sort().values
    for worker in range(4):
        batches = [source.batch(step, 32 * step, 32, worker, 4) for step in range(2)]  # 16 examples: an epoch
        seen = torch.cat([targets for _, targets in batches])
        assert torch.equal(seen.sort().values, labels[16 * worker : 16 * worker + 16])


@pytest.mark.parametrize("name", ["sign", "local"])
def test_shards_are_science(name):
    alike, sorted_ = (
        compose([*SMALL, f"communication={name}", f"communication.shards={shards}"]) for shards in ("alike", "sorted")
    )
    assert run_id(alike) == run_id(compose([*SMALL, f"communication={name}"])) != run_id(sorted_)
    ends = [numbers(trained(each)) for each in (alike, sorted_)]
    assert any(not torch.allclose(ends[0][key], ends[1][key], atol=1e-6) for key in ends[0])


@pytest.mark.parametrize(
    "words",
    [
        ["communication=sign", "communication.shards=sorted"],
        ["communication=local", "communication.period=3", "communication.shards=sorted"],
    ],
    ids=lambda words: words[0],
)
def test_micro_batches_change_nothing_but_rounding(words):
    whole = numbers(trained(compose([*SMALL, *words, "micro_batch=null"])))
    parts = numbers(trained(compose([*SMALL, *words, "micro_batch=3"])))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["dataset=adding", "model=rnn"], "real"),
        (["dataset=text", "model=char_lstm"], "class_per_step"),
        (["dataset=curves", "model=autoencoder_curves"], "none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_data_without_class_labels_are_refused(words, kind):
    with pytest.raises(UserError) as raised:
        compose([*words, "communication=local", "communication.shards=sorted", "optimizer=sgd", "tracker=none"])
    message = str(raised.value)
    assert message.startswith(f"communication.shards=sorted: {words[0]} has no class labels to sort examples by")
    assert f"of kind {kind}" in message
    assert "accepted: alike" in message


def test_a_dry_run_says_what_it_is(tmp_path, capsys):
    words = [*SMALL, "communication=sign", "communication.shards=sorted", "dry_run=true", f"results_dir={tmp_path}"]
    assert main(words) == 0
    assert "communication.shards=sorted: the training set is ordered by label and cut in 4;" in capsys.readouterr().out
