"""Whole runs with model.checkpointing end where runs without it end: with factors, on two ranks, and after a stop."""

from unittest import mock

import pytest
from torch import nn

from optbench.config import compose, run_id
from optbench.errors import UserError
from optbench.models import checkpointing
from optbench.testing.invariance import TwoRanks
from optbench.testing.outcomes import require_equal
from optbench.testing.trained import Killed, numbers, run_in, trained
from optbench.training import run
from optbench.training.task import Task

SMALL = ["dataset=digits", "tracker=none", "progress=false", "log_every=1", "evaluate_train=64", "budget.steps=3"]
WRN = ["model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "batch=32", "ghost_batch_size=16"]


def composed(*words):
    return compose([*SMALL, *WRN, *words])


@pytest.mark.parametrize("words", [["optimizer=kfac"], ["optimizer=adam", "precision=bf16", "micro_batch=16"]])
def test_every_loss_and_weight_is_that_of_the_run_without_it(words):
    ends = []
    for segments in (0, 3):
        losses = []
        task = trained(composed(*words, f"model.checkpointing={segments}"), losses=losses)
        assert [len(chain.lengths) for chain in checkpointing.chains(task.model)] == [3] * (segments > 0)
        ends.append((losses, numbers(task)))
    assert ends[0][0] == ends[1][0]
    require_equal(ends[1][1], ends[0][1], "three segments")


def test_two_ranks_that_share_a_group_of_batch_norm_end_where_they_end_without_it():
    words = ["optimizer=momentum", "ghost_batch_size=32"]
    configs = {str(segments): composed(*words, f"model.checkpointing={segments}") for segments in (0, 3)}
    ranks = TwoRanks(configs)
    try:
        require_equal(ranks.reached("3"), ranks.reached("0"), "three segments on two ranks")
    finally:
        ranks.stop()


def test_a_stopped_run_goes_on_with_another_number_of_segments(tmp_path):
    words = ["optimizer=adam", "checkpoint_every=1"]
    whole = run_in(tmp_path / "whole", composed(*words))
    first = composed(*words, "model.checkpointing=2", f"results_dir={tmp_path / 'stopped'}")
    then = composed(*words, "model.checkpointing=4")
    assert run_id(first) == run_id(then) == run_id(composed(*words))
    take_step = Task.take_step

    def step_or_die(task):
        if task.step == 2:
            raise Killed
        take_step(task)

    with mock.patch.object(Task, "take_step", step_or_die), pytest.raises(Killed):
        run.execute(first)
    resumed = run_in(tmp_path / "stopped", then)
    assert resumed.resumed_at == [2]
    assert (resumed.summary, resumed.rows) == (whole.summary, whole.rows)
    require_equal(resumed.state["model"], whole.state["model"], "with 2 segments, and then with 4")


# ---- models of one's own -----------------------------------------------------------------------------------------------------


class Mine(nn.Module):
    """Knows nothing of segments."""

    def __init__(self, data, looped=False):
        super().__init__()
        parts = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(12, 10)
        self.body = nn.ModuleList(parts) if looped else nn.Sequential(*parts)

    def forward(self, inputs):
        hidden = inputs.flatten(1)
        for part in self.body:
            hidden = part(hidden)
        return hidden


class Called(Mine):
    def forward(self, inputs):
        return self.body(inputs.flatten(1))


def mine(folder, monkeypatch, kind, options=""):
    place = folder / "own" / "model"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(
        f"_target_: tests.training.test_segments.{kind}\nname: mine\n{options}info: {{about: a, source: b, accepts: [image], "
        f"batch_norm: true, schema: {{{'looped: bool' if options else ''}}}}}\n"
    )
    monkeypatch.setenv("OPTBENCH_CONF", str(folder / "own"))
    return [*SMALL, "model=mine", "batch=32", "ghost_batch_size=16"]


def test_a_model_that_knows_nothing_of_it_gets_the_same_weights(tmp_path, monkeypatch):
    words = mine(tmp_path, monkeypatch, "Called")
    whole, parts = (numbers(trained(compose([*words, f"model.checkpointing={count}"]))) for count in (0, 3))
    assert int(parts["body.1.num_batches_tracked"]) == 3
    require_equal(parts, whole, "three segments")


def test_one_without_a_chain_and_more_segments_than_blocks_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    words = mine(tmp_path, monkeypatch, "Mine", "looped: true\n")
    into = f"results_dir={tmp_path}/results"
    with pytest.raises(UserError, match=r"model\.checkpointing=2: Mine has no chain of layers; accepted: 0, or "):
        run.execute(compose([*words, into, "model.checkpointing=2"]))
    with pytest.raises(
        UserError, match=r"model\.checkpointing=6: the chain of WideResNet has 5 blocks; accepted: 0 to 5"
    ):
        run.execute(composed(into, "model.checkpointing=6"))
    assert not (tmp_path / "results").exists()
