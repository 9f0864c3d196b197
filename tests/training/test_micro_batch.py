"""micro_batch=auto: the size that memory allows, smaller ones where it runs out after all, and the same numbers as ever."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers import KFAC
from optbench.system import memory
from optbench.training import build, micro_batch, run

ROOT = Path(__file__).parents[2]
TINY = ["dataset=digits", "tracker=none", "progress=false", "evaluate_train=64", "budget.steps=3", "log_every=1"]
SHORT = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"
)


def task_of(*words, base=TINY):
    read = RunConfig.of(config.compose([*base, *words]))
    return read, build.build_task(read, build.load_data(read))


def environment(outcome):
    return json.loads((outcome.directory.path / "environment.json").read_text())


def chosen(there, *words, workers=1, base=TINY):
    """The choice on a machine of which runs may take ``there`` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "of_this_machine", lambda: int(there / micro_batch.SHARE) + 1)
        return micro_batch.choose(*task_of(*words, base=base), workers)


# ---- the choice -----------------------------------------------------------------------------------------------------


def test_the_bytes_of_an_example_are_what_a_linear_layer_and_its_loss_keep():
    # Logistic regression keeps its inputs (64 float32), their log-softmax (10), the target (int64) and, for each batch, a
    # weight of all examples.
    choice = chosen(10**12, "model=logreg", "batch=64")
    kept = choice.each / micro_batch.PEAK
    assert 64 * 4 + 10 * 4 <= kept <= 64 * 4 + 3 * 10 * 4 + 16
    assert choice.examples is None


def test_twice_as_wide_takes_twice_as_much():
    # Of a wide network the activations count, and all else does not: 4 bytes for each unit that ReLU and the next layer keep.
    narrow, wide = (chosen(10**12, "model=mlp", f"model.hidden=[{width}]").each for width in (10_000, 20_000))
    assert wide - narrow == pytest.approx(micro_batch.PEAK * 10_000 * 4, rel=0.01)


def test_the_size_is_the_largest_power_of_two_of_groups_that_fits():
    words = ["model=wrn", "model.depth=10", "model.width=1", "batch=512", "ghost_batch_size=24"]
    whole = chosen(10**12, *words)
    assert whole.examples is None
    for groups, expected in ((1.5, 24), (2.5, 48), (7.9, 96), (8.1, 192)):
        assert chosen(whole.fixed + groups * 24 * whole.each, *words).examples == expected


def test_workers_divide_the_memory():
    words = ["model=mlp", "batch=512"]
    alone = chosen(10**12, *words)
    room = 4 * (alone.fixed + 128 * alone.each) + 4
    assert chosen(room, *words, workers=4).examples == 128
    assert chosen(room, *words).examples is None


def test_methods_that_keep_more_take_smaller_ones():
    words = ["model=mlp", "batch=512"]
    plain, factored, products = (
        chosen(10**12, *words, f"optimizer={name}") for name in ("sgd", "kfac", "hessian_free")
    )
    assert (factored.each, products.each) == (2 * plain.each, 3 * plain.each)
    # The default network is 64-128-10 with biases: factors of 65, 128, 129 and 10, four of each in float32.
    read, task = task_of(*words, "optimizer=kfac")
    hidden = read.model.options["hidden"]
    sizes = [64, *hidden, 10]
    expected = sum(4 * 4 * ((a + 1) ** 2 + b**2) for a, b in itertools.pairwise(sizes))
    assert task.recipe.make_optimizer(task.model).working_bytes() == expected


def test_what_cannot_fit_is_one_message():
    words = ["model=wrn", "model.depth=10", "model.width=1", "batch=512", "ghost_batch_size=64"]
    whole = chosen(10**12, *words)
    with pytest.raises(
        UserError, match=r"micro_batch=auto: 64 of 512 examples.*a smaller ghost_batch_size.*fewer launcher\.workers"
    ):
        chosen(3 * (whole.fixed + 10 * whole.each), *words, workers=3)


def test_runs_of_one_kind_are_measured_once(monkeypatch):
    monkeypatch.setattr(micro_batch, "_KNOWN", {})
    measured = []
    original = micro_batch.saved_bytes
    monkeypatch.setattr(micro_batch, "saved_bytes", lambda *given: measured.append(1) or original(*given))
    words = ["model=mlp", "batch=256"]
    first = chosen(10**12, *words)
    for others in (["seed=3"], ["optimizer.learning_rate=0.5"], ["budget.steps=7"]):
        assert chosen(10**12, *words, *others) == first
    assert len(measured) == 1
    for others in (
        ["model.hidden=[32]"],
        ["optimizer=adam"],
        ["precision=bf16"],
        ["probe=trace"],
        ["dataset.train_limit=300"],
    ):
        chosen(10**12, *words, *others)
    assert len(measured) == 6


def test_measuring_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(micro_batch, "_KNOWN", {})
    read, task = task_of(
        "model=wrn", "model.depth=10", "model.width=1", "batch=32", "ghost_batch_size=16", "model.dropout=0.5"
    )
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    generator = torch.get_rng_state()
    micro_batch.choose(read, task)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_a_small_run_is_bit_for_bit_that_of_whole_batches(tmp_path):
    ends = []
    for number, word in enumerate(("micro_batch=auto", "micro_batch=null")):
        outcome = run.execute(config.compose([*TINY, "model=mlp", word, f"results_dir={tmp_path}/{number}"]))
        ends.append([row["loss"] for row in outcome.directory.rows() if row["event"] == "train"])
        assert ("micro_batch" in environment(outcome)) == (number == 0)
    assert ends[0] == ends[1]


def test_a_choice_is_said_and_recorded(tmp_path, monkeypatch, capsys):
    whole = chosen(10**12, "model=mlp", "batch=512")
    monkeypatch.setattr(memory, "of_this_machine", lambda: int((whole.fixed + 100 * whole.each) / micro_batch.SHARE))
    outcome = run.execute(config.compose([*TINY, "model=mlp", "batch=512", f"results_dir={tmp_path}"]))
    assert "micro_batch=64: of 512 examples a device, each " in capsys.readouterr().out
    recorded = environment(outcome)["micro_batch"]
    assert (recorded["share"], recorded["examples"], recorded["each"]) == (512, 64, whole.each)


# ---- where memory runs out ------------------------------------------------------------------------------------------


class Tight(torch.nn.Sequential):
    """A network that runs out of memory, deep in a pass, at more than so many examples at once."""

    limit = 1000

    def forward(self, inputs):
        for number, layer in enumerate(self):
            if number == 2 and len(inputs) > self.limit:
                raise RuntimeError(SHORT)
            inputs = layer(inputs)
        return inputs


def objective(model, micro=None, adjustable=True):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(48, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (48,), generator=generator)
    network = Network(model)
    for norm in network.norms:
        norm.group = 4
    return Objective(network, CrossEntropy(), inputs, targets, Execution(micro_batch=micro, adjustable=adjustable))


def tight(limit):
    torch.manual_seed(0)
    model = Tight(torch.nn.Linear(6, 5), BatchNorm(5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    model.limit = limit
    return model


def gradient(found):
    found()
    found.finish()
    return [parameter.grad.clone() for parameter in found.network.parameters]


def test_the_micro_batch_is_halved_until_it_fits_and_the_step_is_the_same():
    plenty, little = tight(1000), tight(13)
    expected, halved = objective(plenty), objective(little)
    for found, right in zip(gradient(halved), gradient(expected), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)
    assert halved.execution.micro_batch == 12
    # Batch norm has seen every group once, not those of the attempts that failed.
    for name, right in plenty.state_dict().items():
        torch.testing.assert_close(little.state_dict()[name], right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("product", ["hvp", "ggnvp", "loss"])
def test_products_and_losses_are_the_same(product):
    def value(model):
        found = objective(model)
        direction = [torch.ones_like(parameter) for parameter in found.network.parameters]
        return [found.loss()] if product == "loss" else getattr(found, product)(direction)

    for found, right in zip(value(tight(13)), value(tight(1000)), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-13)


def test_factors_of_kfac_are_the_same():
    ends = []
    for limit in (1000, 13):
        model = tight(limit)
        optimizer = KFAC.from_model(model, lr=0.1, factor_period=1, inverse_period=1)
        for _ in range(3):
            found = objective(model)
            optimizer.step(found)
            found.finish()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    for found, right in zip(*ends, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-11)


def test_workers_with_their_own_weights_repeat_a_pass_too(tmp_path, monkeypatch):
    # The second worker must not drop the statistics that the first one has recorded for batch norm.
    words = ["model=wrn", "model.depth=10", "model.width=1", "batch=32", "ghost_batch_size=4", "precision=fp64"]
    words += [
        "communication=local",
        "communication.workers=2",
        "communication.period=2",
        "evaluate_train=8",
        "dataset.validation=8",
    ]
    ends, whole = [], []
    original = torch.nn.Linear.forward

    def limited(layer, inputs):
        if torch.is_grad_enabled() and len(inputs) > 9:
            whole.append(layer)
            if len(whole) > 1:
                raise RuntimeError(SHORT)
        return original(layer, inputs)

    for name, size in (("plenty", "null"), ("narrow", "auto")):
        outcome = run.execute(config.compose([*TINY, *words, f"micro_batch={size}", f"results_dir={tmp_path / name}"]))
        assert outcome.state == "done", outcome.why
        ends.append(torch.load(outcome.directory.checkpoint, weights_only=True)["task"]["model"])
        monkeypatch.setattr(torch.nn.Linear, "forward", limited)
    for name, expected in ends[0].items():
        torch.testing.assert_close(ends[1][name], expected, rtol=1e-9, atol=1e-11)


def test_the_smallest_micro_batch_that_does_not_fit_is_one_message():
    with pytest.raises(UserError, match=r"memory ran out at 4 examples at once.*a smaller ghost_batch_size"):
        objective(tight(3))()


def test_a_size_that_was_given_is_kept():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        objective(tight(13), adjustable=False)()


def test_other_errors_are_no_lack_of_memory():
    model = tight(1000)
    model[3] = torch.nn.Linear(4, 3).double()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        objective(model)()


def test_a_failure_on_several_ranks_names_what_helps():
    read, task = task_of("model=wrn", "model.depth=10", "model.width=1", "batch=512", "ghost_batch_size=64")
    why = micro_batch.shortage(read, task, RuntimeError(SHORT), micro_batch.choose(read, task), workers=2)
    assert why.startswith(
        f"memory ran out at 512 examples at once ({SHORT}; expected was micro_batch=512: of 512 examples"
    )
    assert why.endswith(
        "accepted: micro_batch=256, a smaller ghost_batch_size, model.checkpointing=4, precision=bf16, fewer launcher.workers, "
        "a smaller model"
    )
    task.execution.micro_batch = 64
    assert "accepted: a smaller ghost_batch_size" in micro_batch.shortage(read, task, MemoryError(SHORT), None)


# ---- under a real limit ---------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from optbench.__main__ import main
import optbench.training.run, optbench.probes
mapped, resident = map(int, open("/proc/self/statm").read().split()[:2])
limit = (mapped - resident) * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "batch", "fits", "expected"),
    [
        ("momentum", 2048, 150, 128),
        pytest.param("kfac", 2048, 150, 128, marks=pytest.mark.exhaustive),
        pytest.param("hessian_free", 1024, 50, 32, marks=pytest.mark.exhaustive),
    ],
)
def test_a_batch_that_does_not_fit_trains_under_a_limit_of_memory(tmp_path, optimizer, batch, fits, expected):
    words = [
        "tracker=none", "progress=false", "evaluate_train=64", "budget.steps=1", "model=wrn", "model.depth=10", "model.width=1",
        f"optimizer={optimizer}", f"batch={batch}", f"dataset.train_limit={batch}", "ghost_batch_size=32",
        "trainer.accelerator=cpu", "dataset.validation=64", "evaluate_test=false",
    ]  # fmt: skip
    if optimizer == "hessian_free":
        words += ["optimizer.cg_iterations=1"]
    needs = chosen(10**12, *words, base=[])
    room = int((needs.fixed + fits * needs.each) / micro_batch.SHARE)

    def trained(micro):
        words_of_run = [*words, f"micro_batch={micro}", f"results_dir={tmp_path}"]
        command = [sys.executable, "-c", LIMITED, str(room), *words_of_run]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )

    whole = trained("null")
    # The check of the first evaluates a batch before anything is written.
    assert whole.returncode == (2 if optimizer == "hessian_free" else 1)
    assert re.search(
        rf"memory ran out at {batch} examples at once .*allocate memory.*accepted: micro_batch={batch // 2}, ",
        whole.stderr,
    )
    assert "Traceback" not in whole.stderr
    fitted = trained("auto")
    assert fitted.returncode == 0, fitted.stderr
    assert f"micro_batch={expected}: of {batch} examples a device" in fitted.stdout


# ---- in segments --------------------------------------------------------------------------------------------------------------


def test_segments_let_larger_ones_pass():
    # Each of 16 layers keeps the outputs of its Tanh, 256 float32; in 4 segments the backward pass has the 4 inputs of segments
    # and what one of them keeps.
    words = ["model=mlp", f"model.hidden={[256] * 16}".replace(" ", ""), "model.activation=tanh", "batch=512"]
    whole, parts = chosen(10**12, *words), chosen(10**12, *words, "model.checkpointing=4")
    assert parts.each <= whole.each / 2
    assert parts.each >= micro_batch.PEAK * (3 + 4) * 256 * 4
    assert parts.fixed == whole.fixed
    room = whole.fixed + 100 * whole.each
    assert (chosen(room, *words).examples, chosen(room, *words, "model.checkpointing=4").examples) == (64, 128)


@pytest.mark.parametrize("word", ["optimizer=kfac", "optimizer=lm", "probe=trace", "schedule=lanczos"])
def test_products_keep_all_activations_and_so_count_as_without_segments(word):
    words = [word, "model=mlp", "model.hidden=[32,32,32]", "batch=64"]
    assert chosen(10**12, *words, "model.checkpointing=3").each == chosen(10**12, *words).each
