"""Run ids that results already stand under: the same science keeps its id, whatever is changed around it."""

import pytest

from optbench.config import compose, run_id, thaw
from optbench.errors import UserError
from optbench.store import RunDirectory, load

KNOWN = {
    "sgd-lenet5-fashion_mnist-b128-s0-4778801548": [],
    "adam-mlp-digits-b128-s0-63328db861": ["optimizer=adam", "model=mlp", "dataset=digits"],
    "adabelief-lenet5-fashion_mnist-b128-s0-a9e797dbb2": ["optimizer=zoo"],
    "soap-lenet5-fashion_mnist-b64-s0-0e792a7ef3": ["optimizer=zoo", "optimizer.name=soap", "batch=64"],
    "kfac-lenet5-fashion_mnist-b128-s2-t3-f770c142ea": ["optimizer=kfac", "trial=3", "seed=2"],
    "momentum-lenet5-fashion_mnist-b512-s0-8081233eb5": ["optimizer=momentum", "scaling=linear", "batch=512"],
    "sgd-autoencoder-curves-b128-s0-8a650b618f": ["model=autoencoder", "dataset=curves"],
    "lamb-lenet5-fashion_mnist-b128-s0-2006f98e91": [
        "optimizer=lamb",
        "budget.steps=100",
        "schedule=cosine",
        "schedule.warmup=10",
    ],
    "entropy_sgd-lenet5-fashion_mnist-b128-s0-db3c71d7b0": ["precision=fp64", "optimizer=entropy_sgd", "averaging=ema"],
    "sgd-irnn-adding-b128-s0-a8a4637496": ["model=irnn", "dataset=adding", "ghost_batch_size=null", "clip_norm=1e-1"],
}


@pytest.mark.parametrize(("known", "words"), KNOWN.items(), ids=KNOWN)
def test_an_id_that_results_stand_under_stays(known, words, monkeypatch):
    monkeypatch.delenv("OPTBENCH_CONF", raising=False)
    assert run_id(compose(words)) == known


@pytest.mark.parametrize(
    ("known", "words", "compression"),
    [
        ("sgd-lenet5-fashion_mnist-b128-s0-165f98ffb7", ["trainer=ddp", "trainer.devices=2"], "fp16"),
        ("sgd-lenet5-fashion_mnist-b128-s0-4778801548", [], "none"),
    ],
)
def test_ids_from_before_there_was_communication_stay(known, words, compression, tmp_path, monkeypatch):
    """A configuration as it was frozen when compression was an option of the trainer, which depended on the ranks."""
    monkeypatch.delenv("OPTBENCH_CONF", raising=False)
    frozen = compose(words)
    del frozen["communication"]
    info = frozen["trainer"]["info"]
    typed = {**info["schema"], "compression": "one of none, fp16, bf16"}
    frozen["trainer"] |= {"compression": compression, "info": {**info, "schema": typed}}
    directory = RunDirectory(tmp_path / "results" / "runs" / known)
    directory.create(frozen)
    assert run_id(directory.config()) == known
    assert load(tmp_path / "results")["run_id"].tolist() == [known]
    if compression == "none":
        thawed = thaw(directory)
        assert thawed["communication"]["name"] == "dense"
        assert "compression" not in thawed["trainer"]
    else:
        with pytest.raises(
            UserError, match=rf"run {known}: .*trainer\.compression=fp16: is no option any more: .*communication=fp16"
        ):
            thaw(directory)
