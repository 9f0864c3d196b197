"""Ranks that divide the optimizer's state, or the weights: the same numbers, fewer bytes, and checkpoints for any ranks."""

import copy
import json
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.probes import posthoc
from optbench.store import StoreError
from optbench.store.checkpoints import digest, digest_of_file, read
from optbench.store.measured import without_measured
from optbench.testing import problem
from optbench.testing.trained import numbers, trained
from optbench.training import checkpointing, micro_batch, run
from optbench.training.build import build_task, load_data
from optbench.training.sharding import build, files, local, state_bytes
from optbench.training.sharding.fsdp2 import blocks
from tests.training.test_ranks import end, failing, free_port, only_run, place, start

SHARDINGS = ("zero1", "fsdp2")
# Batch norm in groups, dropout, clipping and an average, in two micro-batches on each of two ranks; the validation set is one
# batch, which only one of the ranks has.
COMMON = [*problem.COMMON, "precision=fp64", "micro_batch=16", "trainer.accelerator=cpu"]
METHODS = {
    "momentum": ["optimizer=momentum", "optimizer.weight_decay=0.1"],
    "adam": ["optimizer=adam", "optimizer.weight_decay=0.1", "optimizer.weight_decay_mode=decoupled"],
    "lars": ["optimizer=lars", "optimizer.weight_decay=0.1"],
    "lamb": ["optimizer=lamb", "optimizer.always_adapt=true"],
}


def ranks(folder, work, count=2):
    """Call ``work(rank)`` in as many processes, which must end well."""
    port = free_port()
    outputs = [folder / f"rank{rank}.txt" for rank in range(count)]
    pids = [start(lambda rank=rank: work(rank), place(rank, port, count), outputs[rank]) for rank in range(count)]
    codes = end(pids)
    assert codes == [0] * count, [path.read_text() for path in outputs]


@pytest.fixture(scope="module")
def alone():
    """The numbers that one rank reaches, and the bytes of its optimizer's state, by the name of the method."""
    tasks = {name: trained(config.compose([*COMMON, *words])) for name, words in METHODS.items()}
    return {name: (numbers(task), state_bytes(task.optimizer)) for name, task in tasks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_end_where_one_ends_with_a_part_of_the_bytes(tmp_path, alone, sharding):
    devices = ["trainer=ddp", f"trainer.sharding={sharding}"]
    chosen = {name: config.compose([*COMMON, *words, *devices]) for name, words in METHODS.items()}

    def work(rank):
        held = {}
        for name, each in chosen.items():
            task = trained(each)
            reached = numbers(task)
            if rank == 0:
                torch.save(reached, tmp_path / f"{name}.pt")
            weights = sum(local(parameter).nbytes for parameter in task.model.parameters())
            own = state_bytes(task.sharding.held(task.optimizer))
            held[name] = weights, own, task.sharding.whole_state_bytes(task.optimizer)
        (tmp_path / f"bytes{rank}.json").write_text(json.dumps(held))

    ranks(tmp_path, work)
    held = [json.loads((tmp_path / f"bytes{rank}.json").read_text()) for rank in range(2)]
    for name, (whole, size) in alone.items():
        found = torch.load(tmp_path / f"{name}.pt")
        assert found.keys() == whole.keys()
        for key, tensor in whole.items():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-9, atol=1e-11, msg=lambda said, key=key: f"{key}: {said}"
            )
        weights, states, counted = zip(*(each[name] for each in held), strict=True)
        assert set(counted) == {size}
        assert max(states) < 0.6 * size
        assert sum(states) == pytest.approx(size, rel=1e-3)  # fsdp2: both ranks have the numbers of steps
        learned = [key for key in whole if key.endswith(("weight", "bias")) and not key.startswith("average")]
        whole_weights = sum(whole[key].nbytes for key in learned)
        assert max(weights) < 0.6 * whole_weights if sharding == "fsdp2" else set(weights) == {whole_weights}


def test_an_optimizer_over_zero1_is_torchs_own_bit_for_bit(tmp_path):
    def work(rank):
        dist.init_process_group("gloo")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        sgd, adagrad = torch.optim.SGD, torch.optim.Adagrad  # which has its state from the beginning
        for method, options in ((torch.optim.AdamW, {}), (sgd, {"momentum": 0.9}), (adagrad, {})):
            mine, theirs = copy.deepcopy(model), copy.deepcopy(model)
            zero1 = build("zero1")
            optimizer = zero1.over(method([{"params": list(mine[i].parameters())} for i in (0, 2)], lr=0.1, **options))
            reference = method(theirs.parameters(), lr=0.1, **options)
            for step in range(4):
                inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
                for group in [*optimizer.param_groups, *reference.param_groups]:
                    group["lr"] = 0.1 / (step + 1)  # as a schedule does
                for each, stepping in ((mine, optimizer), (theirs, reference)):
                    each.zero_grad()
                    each(inputs).square().sum().backward()
                    stepping.step()
            for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(one, other)
            kept = {parameter for group in zero1.held(optimizer).param_groups for parameter in group["params"]}
            assert 0 < len(kept) < 4
            assert zero1.held(optimizer).state.keys() <= kept
        zero1.leave()
        dist.destroy_process_group()

    ranks(tmp_path, work)


def test_blocks_are_the_members_of_containers_and_share_nothing():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 3)
            self.body = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.LSTM(3, 3)])
            self.tail = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4, bias=False))
            self.tail[1].weight = self.embedding.weight

    model = Model()
    assert blocks(model) == [model.body[0][0], model.body[1], model.tail[0]]


# ---- checkpoints -----------------------------------------------------------------------------------------------------------

# Checkpoints of the steps 2, 4, ... and an average among what is divided.
WORDS = [
    "dataset=digits", "dataset.train_limit=200", "dataset.validation=16", "model=wrn", "model.depth=10", "model.width=1",
    "batch=16", "ghost_batch_size=8", "averaging=ema", "budget.steps=8", "evaluate_train=32", "tracker=none", "progress=false",
    "log_every=1", "eval_every=4", "checkpoint_every=2", "optimizer=adam", "trainer=ddp", "trainer.accelerator=cpu",
]  # fmt: skip


def on_two(folder, sharding, *words, stop=None, before=None):
    """Train on two ranks; with ``stop`` rank 1 is killed before that step, and ``before(rank)`` prepares another failure."""
    chosen = config.compose([*WORDS, *words, f"trainer.sharding={sharding}", f"results_dir={folder / 'results'}"])

    def work(rank):
        if stop is not None:
            failing(1, lambda: os.kill(os.getpid(), signal.SIGKILL), step=stop)(rank)
        if before is not None:
            before(rank)
        outcome = run.execute(chosen)
        print(outcome.state, outcome.why)
        assert outcome.state == "done"

    port = free_port()
    outputs = [folder / f"rank{rank}.txt" for rank in range(2)]
    pids = [start(lambda rank=rank: work(rank), place(rank, port), outputs[rank]) for rank in range(2)]
    codes, said = end(pids), [path.read_text() for path in outputs]
    assert (codes == [0, 0]) == (stop is None and before is None), said
    directory = only_run(folder)
    if stop is not None:
        assert state_of(directory)["step"] == stop - 1, said
    return directory


def state_of(directory, name="last"):
    return checkpointing.load(directory.checkpoints.folder / f"{name}.ckpt", directory.run_id)["task"]


def tensors(state, place=""):
    for key, value in state.items():
        if isinstance(value, dict):
            yield from tensors(value, f"{place}/{key}")
        elif isinstance(value, torch.Tensor) and key != "generator":
            yield f"{place}/{key}", value


def close(state, other):
    found, expected = dict(tensors(state)), dict(tensors(other))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-6, atol=1e-8, msg=lambda said, name=name: f"{name}: {said}"
        )


def results(directory):
    return without_measured(directory.summary()), [without_measured(row) for row in directory.rows()]


def killed_in(module, name, rank_that_dies, step):
    """Rank ``rank_that_dies`` is killed as it calls ``module.name`` for the checkpoint of ``step``."""

    def before(rank):
        write_shards, function = checkpointing.write_shards, getattr(module, name)
        present = []

        def remember(state, directory, at, is_part):
            present.append(at)
            return write_shards(state, directory, at, is_part)

        def die(*arguments, **options):
            if present[-1] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        if rank == rank_that_dies:
            checkpointing.write_shards = remember
            setattr(module, name, die)

    return before


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_run_that_is_killed_in_a_checkpoint_ends_bit_for_bit_where_an_undisturbed_one_does(tmp_path, sharding):
    """Once when all shards are written and the checkpoint is not, and once when only one of the ranks has written its own."""

    def kept(directory):
        return {path.name for path in directory.checkpoints.folder.iterdir()}

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = on_two(tmp_path / "whole", sharding)
    killed = on_two(tmp_path / "killed", sharding, before=killed_in(checkpointing, "save", 0, step=4))
    assert kept(killed) == {"last.ckpt", "step-2.dcp", "step-4.dcp"}
    on_two(tmp_path / "killed", sharding, before=killed_in(files, "write", 1, step=6))
    assert kept(killed) >= {"last.ckpt", "previous.ckpt", "step-2.dcp", "step-4.dcp"}
    assert state_of(killed)["step"] == 4
    on_two(tmp_path / "killed", sharding)
    found, expected = dict(tensors(state_of(killed))), dict(tensors(state_of(whole)))
    assert {name.split("/")[1] for name in expected} >= {"model", "optimizer", "average"}
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert results(killed) == results(whole)
    assert kept(killed) == {"last.ckpt", "step-8.dcp"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = on_one_fp64(tmp_path_factory.mktemp("whole"))
    return state_of(directory)


def on_one_fp64(folder, *words):
    words = [*WORDS, "precision=fp64", *words, "trainer.devices=1", f"results_dir={folder / 'results'}"]
    outcome = run.execute(config.compose(words))
    assert outcome.state == "done", outcome.why
    return outcome.directory


@pytest.mark.slow
def test_a_run_goes_on_with_another_sharding_and_number_of_ranks(tmp_path):
    """With a method whose kernels differ: torch's fused SGD does not take rows of tensors."""
    (tmp_path / "whole").mkdir()
    for sharding, stop in (("none", 3), ("zero1", 5), ("fsdp2", 7)):
        on_two(tmp_path, sharding, "precision=fp64", "optimizer=momentum", stop=stop)
    whole = on_one_fp64(tmp_path / "whole", "optimizer=momentum")
    close(state_of(on_one_fp64(tmp_path, "optimizer=momentum")), state_of(whole))


@pytest.mark.slow
def test_a_run_goes_on_from_fsdp2_with_zero1(tmp_path, undisturbed):
    on_two(tmp_path, "fsdp2", "precision=fp64", stop=5)
    close(state_of(on_two(tmp_path, "zero1", "precision=fp64")), undisturbed)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run of two ranks that was killed after step 4, whose folder tests copy."""
    folder = tmp_path_factory.mktemp("killed")
    on_two(folder, "fsdp2", "precision=fp64", stop=5)
    return folder


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit": (lambda folder: damaged(folder / "__1_0.distcp"), "stands on shards that are damaged, step-4.dcp"),
    "a bit of the description": (lambda folder: damaged(folder / ".metadata"), "stands on shards that are damaged"),
    "a file": (lambda folder: (folder / "__0_0.distcp").unlink(), "stands on shards that are damaged"),
    "all": (
        lambda folder: folder.rename(folder.with_name("elsewhere")),
        "stands on shards that are not there, step-4.dcp",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shards_are_refused_and_the_checkpoint_before_taken(tmp_path, killed, undisturbed, damage, capsys):
    import shutil

    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    directory = only_run(tmp_path)
    change, why = DAMAGES[damage]
    change(directory.checkpoints.folder / "step-4.dcp")
    with pytest.raises(StoreError, match=r"last\.ckpt stands on shards.*previous\.ckpt"):
        state_of(directory)
    assert state_of(directory, "previous")["step"] == 2
    close(state_of(on_one_fp64(tmp_path)), undisturbed)
    said = " ".join(capsys.readouterr().out.split())
    assert f"last.ckpt {why}" in said
    assert "goes on from previous.ckpt, step 2" in said


def test_a_probe_measures_a_run_whose_weights_were_divided(tmp_path, killed):
    import shutil

    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    directory = only_run(tmp_path)
    (row,) = posthoc.measure(directory, "probe=displacement")
    assert row["displacement_norm"] > 0
    assert (directory.checkpoints.folder / "step-4.dcp").is_dir()


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_the_description_of_shards_is_not_run(tmp_path, killed, monkeypatch):
    import pickle
    import shutil
    from dataclasses import replace

    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    directory = only_run(tmp_path)
    path, folder = directory.checkpoint, directory.checkpoints.folder / "step-4.dcp"
    (folder / ".metadata").write_bytes(pickle.dumps(_Evil()))
    _, seal = read(path, directory.run_id)
    seal = replace(seal, shards_digest=digest({each.name: digest_of_file(each) for each in folder.iterdir()}))
    state, _ = checkpointing.read_archive(path, directory.run_id)
    with pytest.raises(StoreError, match=r"cannot be read, step-4\.dcp: it names posix\.mkdir"):
        checkpointing.read_shards(path, state, seal, lambda *place: None)
    assert not (tmp_path / "executed").exists()


# ---- what is refused ---------------------------------------------------------------------------------------------------------

REFUSED = [
    (["zero1", "optimizer=lbfgs"], r"zero1: optimizer=lbfgs needs .* whole model .*; accepted: trainer.sharding=none, or one of"),
    (["fsdp2", "optimizer=kfac"], r"fsdp2: optimizer=kfac needs .*; accepted: trainer.sharding=none, or one of"),
    (["fsdp2", "optimizer=rprop"], r"optimizer=rprop needs whole tensors.*; accepted: trainer.sharding=none or zero1"),
    (["zero1", "optimizer=zoo"], r"optimizer=adabelief does not say in its file .*sharding: \[zero1\]"),
    (["zero1", "communication=sign", "communication.workers=2"], r"communication=sign .*accepted: .*communication=dense"),
    (["zero1", "probe=[stability]"], r"probe=stability needs the optimizer's whole state.*optbench probe RUN probe=stability"),
    (["fsdp2", "probe=[displacement]"], r"probe=displacement needs all weights .*none or zero1, or probe=none and afterwards"),
    (["fsdp2", "schedule=lanczos"], r"schedule=lanczos needs products"),
    (["fsdp2", "compile=true"], r"does not go together with compile=true"),
    (["fsdp2", "precision=fp16"], r"loss scaling needs whole gradients"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "why"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_ranks_cannot_divide_is_refused_by_name(words, why):
    sharding, *rest = words
    with pytest.raises(UserError, match=why):
        config.compose(
            ["dataset=digits", "model=mlp", "optimizer=sgd", *rest, "trainer=ddp", f"trainer.sharding={sharding}"]
        )
    # One rank divides nothing.
    config.compose(["dataset=digits", "model=mlp", "optimizer=sgd", *rest, f"trainer.sharding={sharding}"])


OWN = {
    "same": ("defaults: [adam]\nbeta1: 0.5\n", True),
    "other_class": ("defaults: [adam]\n_target_: torch.optim.Adamax\n", False),
    "stated": ("defaults: [adam]\n_target_: torch.optim.Adamax\ninfo: {sharding: [zero1]}\n", True),
    "heir": ("defaults: [other_class]\nbeta1: 0.5\n", False),
}


@pytest.mark.parametrize("name", OWN)
def test_a_class_of_ones_own_states_anew_that_ranks_may_divide_its_state(tmp_path, monkeypatch, name):
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path))
    (tmp_path / "optimizer").mkdir()
    for each, (content, _) in OWN.items():
        (tmp_path / "optimizer" / f"{each}.yaml").write_text(content)
    words = ["dataset=digits", "model=mlp", f"optimizer={name}", "trainer=ddp", "trainer.sharding=zero1"]
    if OWN[name][1]:
        assert config.compose(words)["trainer"]["sharding"] == "zero1"
    else:
        with pytest.raises(UserError, match=rf"optimizer={name} does not say in its file"):
            config.compose(words)


def test_the_bytes_for_micro_batches_are_those_of_what_a_rank_holds():
    """Of Adam's 4 + 4 + 8 bytes a weight and the average's 4; fsdp2 gathers the largest block, 64 x 128 and its bias."""
    words = ["dataset=digits", "model=mlp", "optimizer=adam", "averaging=ema", "trainer=ddp", "trainer.devices=4"]
    fixed = {}
    for sharding in ("none", *SHARDINGS):
        read_once = RunConfig.of(config.compose([*words, f"trainer.sharding={sharding}"]))
        task = build_task(read_once, load_data(read_once))
        fixed[sharding] = micro_batch._fixed_bytes(read_once, task)
    weights = 64 * 128 + 128 + 128 * 10 + 10
    assert fixed["none"] - fixed["zero1"] == weights * 8 * 3 // 4
    gathered = 2 * 4 * (64 * 128 + 128)
    assert fixed["none"] - fixed["fsdp2"] == weights * 20 * 3 // 4 - gathered
