"""Workers in a run: what equals plain training, what depends on them, and what is refused."""

import pytest
import torch

from optbench.config import RunConfig, compose, run_id
from optbench.errors import UserError
from optbench.testing.trained import numbers, trained
from optbench.training import build

SMALL = [
    "dataset=digits", "dataset.train_limit=64", "dataset.validation=16", "batch=32",
    "budget.steps=4", "evaluate_train=64", "tracker=none", "progress=false", "precision=fp64", "optimizer=sgd",
]  # fmt: skip
MLP = ["model=mlp", "model.hidden=[12]"]
WRN = ["model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3"]


def end(*words, model=MLP):
    return numbers(trained(compose([*SMALL, *model, *words])))


def refused(*words, model=MLP):
    with pytest.raises(UserError) as raised:
        compose([*SMALL, *model, *words])
    return str(raised.value)


@pytest.fixture(scope="module")
def dense():
    return end("clip_norm=0.5", "optimizer.weight_decay=0.01")


@pytest.mark.parametrize(
    "words",
    [
        ["communication=top_k", "communication.ratio=1"],
        ["communication=qsgd", "communication.levels=1000000000000"],
        ["communication=power_sgd", "communication.rank=64"],
        ["communication=local", "communication.workers=1", "communication.period=3"],
        ["communication=post_local", "communication.workers=1", "communication.start=2"],
    ],
    ids=" ".join,
)
def test_what_loses_nothing_is_plain_training(dense, words):
    """With clipping and weight decay, which act on what is received."""
    found = end("clip_norm=0.5", "optimizer.weight_decay=0.01", *words)
    for name, tensor in dense.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10)


def test_local_steps_of_period_one_without_momentum_are_plain_training():
    plain = end()
    for period, close in ((1, True), (2, False)):
        found = end("communication=local", f"communication.period={period}")
        assert all(torch.allclose(found[name], plain[name], rtol=1e-8, atol=1e-12) for name in plain) == close


@pytest.mark.parametrize("name", ["sign", "qsgd", "local"])
def test_the_number_of_workers_is_science(name):
    two, four = (
        compose([*SMALL, *MLP, f"communication={name}", f"communication.workers={workers}"]) for workers in (2, 4)
    )
    assert run_id(two) != run_id(four)
    ends = [numbers(trained(each)) for each in (two, four)]
    assert any(not torch.allclose(ends[0][key], ends[1][key], atol=1e-8) for key in ends[0])


@pytest.mark.parametrize(
    "words",
    [
        ["communication=top_k", "communication.ratio=1", "ghost_batch_size=null"],
        ["communication=local", "communication.period=1", "ghost_batch_size=8"],
    ],
    ids=lambda words: words[0],
)
def test_batch_norm_sees_one_worker(groups_of_eight, words):
    """With what loses nothing, a worker's share of 8 is a group of 8 of plain training: also in running statistics."""
    found = end(*words, model=WRN)
    for name, tensor in groups_of_eight.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def groups_of_eight():
    return end("ghost_batch_size=8", model=WRN)


def test_measurements_on_the_way_change_nothing():
    for words in (["communication=sign"], ["communication=local", "communication.period=3"]):
        plain = end(*words, "micro_batch=4")
        measured = end(*words, "micro_batch=4", "probe=noise_scale", "probe.noise_scale.every=2")
        assert all(torch.equal(plain[name], measured[name]) for name in plain)


def test_the_summary_counts_bytes(tmp_path):
    from optbench.training import run

    for words, expected in (([], 4 * 910), (["communication=local", "communication.period=2"], 2 * 910)):
        found = run.execute(compose([*SMALL, *MLP, *words, f"results_dir={tmp_path}"])).summary
        assert found["parameters"] == 64 * 12 + 12 + 12 * 10 + 10 == 910
        assert found["communication_bytes"] == expected


def test_several_gradients_a_step_are_refused_where_the_file_does_not_say_so():
    class Twice(torch.optim.SGD):
        def step(self, closure):
            closure()
            return super().step(closure)

    read = RunConfig.of(compose([*SMALL, *MLP, "communication=sign"]))
    task = build.build_task(read, build.load_data(read))
    task.recipe.make_optimizer = lambda model: Twice([{"params": model.parameters(), "initial_lr": 0.1}], 0.1)
    task.configure_optimizers()
    with pytest.raises(UserError, match="evaluates the gradient more than once a step"):
        task.take_step()


@pytest.mark.parametrize("name", ["fp16", "local"])
def test_methods_that_evaluate_more_than_one_gradient_are_refused(name):
    for optimizer in ("kfac", "lbfgs", "entropy_sgd"):
        message = refused(f"communication={name}", f"optimizer={optimizer}")
        assert f"communication={name}: optimizer={optimizer} evaluates the objective more than once a step" in message
        assert "accepted: dense" in message
    compose([*SMALL, *MLP, "optimizer=kfac", "communication=dense", "communication.workers=4"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["communication.workers=5"], "communication.workers=5: must have equal shares of batch=32; accepted: divisors of 32"),
        (["trainer=ddp", "trainer.devices=8"], "8 x trainer.num_nodes=1 ranks must hold equal numbers of whole workers; "
         "accepted: multiples of 8, or as many ranks as divide 4: 1, 2, 4"),
        (["precision=fp16"], "precision=fp16: its loss scaling and communication=sign do not go together"),
        (WRN, "ghost_batch_size=128: each of communication.workers=4 has 8 examples, which must be whole groups of "
         "batch norm of two or more; accepted: null (a worker's whole share) or one of 2, 4, 8"),
        ([*WRN, "ghost_batch_size=3"], "ghost_batch_size=3: each of"),
        ([*WRN, "ghost_batch_size=null", "communication.workers=32"], "has 1 example, which"),
        ([*WRN, "ghost_batch_size=4", "micro_batch=6"], "micro_batch=6: with ghost_batch_size=4 and 8 examples of each "
         "worker, micro-batches must be whole groups of batch norm; accepted: multiples of 4"),
        (["communication.workers=0"], "communication.workers=0: must be int >= 1"),
        (["communication.ratio=1"], "communication.ratio: unknown key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_workers_that_do_not_fit_are_refused(words, message):
    assert message in refused("communication=sign", *words, model=())


def test_local_steps_begin_before_the_end():
    message = refused("communication=post_local", "communication.start=4")
    assert "communication.start=4: must be before the end, at 4 steps" in message


@pytest.mark.parametrize("value", ["fp16", "none"])
def test_the_option_that_this_replaces_says_what_to_write(value):
    message = refused(f"trainer.compression={value}")
    assert message.startswith(f"trainer.compression={value}: is no option any more")
    assert "communication=fp16 communication.workers=N" in message
