"""FLOPs of a step against closed forms, and against torch's own counter on tensors with values."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from optbench import config
from optbench.config import RunConfig
from optbench.objective import Execution, Network, Objective
from optbench.optimizers.periods import kinds_of_steps
from optbench.training import build, flops
from optbench.training.gpu_peaks import peak

SIZES = [(64, 128), (128, 10)]  # the layers of model=mlp on digits, each with a bias


def task_of(*words):
    read = RunConfig.of(config.compose(["dataset=digits", "tracker=none", "budget.steps=3", *words]))
    return read, build.build_task(read, build.load_data(read))


def counted(*words, batch=128):
    return flops.count(*task_of(*words), batch)


def evaluation(batch):
    """Forward, and the gradient of each weight: 2 B in out. The gradient of the inputs: not of the first layer."""
    return sum(2 * batch * a * b * (2 + (number > 0)) for number, (a, b) in enumerate(SIZES))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb"])
def test_linear_layers(optimizer):
    for batch in (1, 128):
        found = counted("model=mlp", f"optimizer={optimizer}", batch=batch)
        assert found.model == found.step == evaluation(batch)


def test_a_convolution_with_groups_and_its_gradients():
    # 3 x 3 kernels, 8 to 12 channels in 4 groups, stride 2: 5 x 5 outputs of 9 x 9 pixels.
    convolution = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
    forward = 2 * 6 * 5 * 5 * 8 * 12 * 3 * 3 // 4
    for inputs_have_gradients in (False, True):
        inputs = torch.randn(6, 8, 9, 9, requires_grad=inputs_have_gradients)
        assert flops.flops_of(lambda inputs=inputs: convolution(inputs).sum().backward()) == forward * (
            2 + inputs_have_gradients
        )


def kfac(batch, factor_period, inverse_period):
    """The mean of K-FAC's own work over a period of inverse_period, a multiple of factor_period, with targets=empirical."""
    update = inverse = precondition = 0
    for a, g in SIZES:
        # The bias is not in the product: the column of ones is summed. Bands of the upper triangle, three from 64 columns on.
        update += sum(2 * batch * last * (last - first) for size in (a, g) for first, last in bands(size))
        for size in (a + 1, g):
            inverse += size**3 // 3 + 2 * size**3 // 3
        precondition += 2 * g * g * (a + 1) + 2 * g * (a + 1) * (a + 1)
    return precondition + Fraction(update, factor_period) + Fraction(inverse, inverse_period)


def bands(size):
    if size < 64:
        return [(0, size)]
    width = -(-size // 3)
    return [(first, min(first + width, size)) for first in range(0, size, width)]


@pytest.mark.parametrize(("factor_period", "inverse_period"), [(1, 1), (5, 20)])
def test_kfac_adds_factors_inverses_and_products_in_the_mean_over_a_period(factor_period, inverse_period):
    found = counted("model=mlp", "optimizer=kfac", "optimizer.targets=empirical",
                    *[f"optimizer.factor_period={factor_period}", f"optimizer.inverse_period={inverse_period}"],
                    batch=96)  # fmt: skip
    assert found.step - evaluation(96) == kfac(96, factor_period, inverse_period)


def test_muon_adds_its_products_whatever_the_batch():
    few, many = (counted("model=mlp", "optimizer=muon", batch=batch) for batch in (8, 999))
    # X X^T, its square, and a product with X, of the hidden weight (128, 64) laid on its side: 64 rows of 128.
    own = 5 * (2 * 64 * 64 * 128 + 2 * 64**3 + 2 * 64 * 64 * 128)
    assert few.step - few.model == many.step - many.model == own


@pytest.mark.parametrize(
    "words",
    [
        ("model=resnet20",),
        ("model=lstm", "dataset=digits", "model.hidden=8"),
        ("model=gpt", "dataset=text", "model.width=32"),
    ],
    ids=lambda words: words[0],
)
def test_of_any_model_it_is_what_torchs_counter_says_of_values(words):
    read, task = task_of(*words, "optimizer=sgd")
    inputs, targets = next(iter(task.source.evaluation("train", 6, 6)))
    # Its formulas know neither oneDNN's layers of LSTMs nor the fused attention of CPUs.
    mkldnn = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as mode:
            Objective(Network(task.model), task.recipe.loss, inputs, targets, Execution())()
    finally:
        torch.backends.mkldnn.enabled = mkldnn
    assert flops.count(read, task, 6).model == mode.get_total_flops() > 0


@pytest.mark.parametrize("optimizer", ["lbfgs", "hessian_free"])
def test_work_that_depends_on_values_is_not_guessed(optimizer):
    found = counted("model=mlp", f"optimizer={optimizer}")
    assert found.step is None
    assert found.model == evaluation(128)


def test_counting_leaves_the_run_alone():
    read, task = task_of("model=wrn", "model.depth=10", "model.width=1", "optimizer=kfac")
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    generator = torch.get_rng_state()
    flops._kept.clear()
    assert flops.count(read, task, 128).step > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_trials_of_a_search_share_one_count_and_other_sizes_do_not(monkeypatch):
    calls = []
    original = flops._counted
    monkeypatch.setattr(flops, "_counted", lambda *given: calls.append(1) or original(*given))
    flops._kept.clear()
    for words in (["trial=1"], ["trial=2", "seed=3"]):
        counted("model=mlp", "optimizer=adam", *words)
    assert len(calls) == 1
    counted("model=mlp", "model.hidden=[64]", "optimizer=adam")
    assert len(calls) == 2


def test_a_model_without_a_count_has_none(monkeypatch):
    flops._kept.clear()
    monkeypatch.setattr(flops, "_counted", lambda *given: 1 / 0)
    assert counted("model=logreg") is None
    flops._kept.clear()


@pytest.mark.parametrize("periods", [(), (1,), (10, 100), (7, 10), (4, 6, 10), (20, 20)])
def test_the_shares_of_kinds_of_steps_are_those_of_a_whole_period(periods):
    def kind(step):
        return tuple(step % period == 0 for period in periods)

    kinds = {kind(step): share for step, share in kinds_of_steps(*periods)}
    length = 10 * 100 * 7 * 6
    steps = [kind(step) for step in range(length)]
    assert {each: Fraction(steps.count(each), length) for each in set(steps)} == kinds


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA H100 80GB HBM3", "fp32", 67),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "tf32", 494.5),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA GeForce RTX 4090", "fp32", 82.6),
        ("NVIDIA GeForce RTX 4090 D", "fp32", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "fp32", None),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("AMD EPYC", "fp32", None),
    ],
)
def test_peaks_of_devices(device, precision, tera):
    assert peak(device, precision) == (None if tera is None else pytest.approx(tera * 1e12))
