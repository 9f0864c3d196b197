"""Compressed gradients: closed forms, the counterexamples of the papers with their cures, and the bytes of a step."""

import math

import pytest
import torch

from optbench import randomness
from optbench.communication import dense_bytes
from optbench.communication.compressors import BF16, FP16, QSGD, Sign, TopK
from optbench.communication.power_sgd import PowerSGD

VECTOR = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
SHAPES = {"matrix": (6, 5), "kernel": (4, 3, 2, 2), "bias": (7,)}
ALL = [TopK, Sign, QSGD, FP16, BF16, PowerSGD]


def draws(seed, shapes):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}


def compressed(compressor, vector=VECTOR, step=0):
    return compressor.exchange([{"x": vector}], step)["x"]


# ---- error feedback -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_what_workers_receive_and_still_hold_adds_up_to_their_gradients(kind):
    compressor = kind(SHAPES, workers=3, error_feedback=True, **({"rank": 1} if kind is PowerSGD else {}))
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    received = {name: tensor.clone() for name, tensor in total.items()}
    for step in range(8):
        gradients = [draws(10 * step + worker, SHAPES) for worker in range(3)]
        for name, tensor in compressor.exchange(gradients, step).items():
            received[name] += tensor
            total[name] += sum(each[name] for each in gradients) / 3
    for name, tensor in total.items():
        held = sum(compressor.errors[worker].get(name, torch.zeros(())) for worker in range(3)) / 3
        torch.testing.assert_close(received[name] + held, tensor, rtol=0, atol=1e-13)


def test_without_it_nothing_is_remembered():
    for kind in ALL:
        compressor = kind(SHAPES, error_feedback=False)
        compressor.exchange([draws(0, SHAPES)], 0)
        assert compressor.memories() == {}


def test_a_parameter_without_a_gradient_is_left_out():
    for kind in ALL:
        gradients = [{name: tensor for name, tensor in draws(0, SHAPES).items() if name != "kernel"}]
        assert kind(SHAPES).exchange(gradients, 0).keys() == {"matrix", "bias"}


# ---- closed forms ---------------------------------------------------------------------------------------------------------


def test_signs_are_scaled_by_the_mean_absolute_value():
    sent = compressed(compressor := Sign({"x": (4,)}))
    assert sent.tolist() == [1.625, -1.625, 1.625, 1.625]
    assert compressor.errors[0]["x"].tolist() == [1.375, 0.625, -1.125, 0.375]
    # ‖p‖₁² / (d ‖p‖₂²)
    kept = 1 - float((VECTOR - sent).square().sum() / VECTOR.square().sum())
    assert kept == pytest.approx(0.741228, abs=1e-6)


def test_the_largest_entries_are_counted_in_every_tensor_and_rounded_up():
    assert compressed(TopK({"x": (4,)}, ratio=0.5)).tolist() == [3.0, 0.0, 0.0, 2.0]
    assert compressed(TopK({"x": (4,)}, ratio=0.01)).tolist() == [3.0, 0.0, 0.0, 0.0]
    assert compressed(TopK({"x": (4,)}, ratio=0.51)).tolist() == [3.0, -1.0, 0.0, 2.0]
    assert compressed(TopK({"x": (4,)}, ratio=1.0)).tolist() == VECTOR.tolist()
    assert [TopK({}, ratio=ratio).kept(100) for ratio in (0.07, 0.29, 0.57, 0.571)] == [7, 29, 57, 58]


@pytest.mark.parametrize(("levels", "variance"), [(1, 0.7218921), (4, 0.0348183)])
def test_levels_are_rounded_without_bias_and_with_the_variance_of_the_paper(levels, variance, monkeypatch):
    """Enumerated: every entry is rounded up for the share of uniform draws that its fractional part is."""
    compressor = QSGD({"x": (4,)}, levels=levels)
    count = 1500
    sent = []
    for number in range(count):
        monkeypatch.setattr(randomness, "uniform", lambda key, places: torch.full(places.shape, (number + 0.5) / count))  # noqa: B023
        sent.append(compressed(compressor))
    stacked = torch.stack(sent)
    torch.testing.assert_close(stacked.mean(0), VECTOR, rtol=0, atol=4 / count)
    relative = float((stacked - VECTOR).square().sum(1).mean() / VECTOR.square().sum())
    assert relative == pytest.approx(variance, abs=1e-3 / levels)
    fractions = [levels * abs(v) / float(VECTOR.norm()) % 1 for v in VECTOR.tolist()]
    assert variance == pytest.approx(sum(f * (1 - f) for f in fractions) / levels**2, abs=1e-7)


def test_levels_are_drawn_for_every_worker_entry_and_step():
    shapes = {"a": (50,), "b": (50,)}
    same = {name: torch.full((50,), 0.3, dtype=torch.float64) for name in shapes}

    def rounded(seed=0, worker=0, step=0, name="a"):
        compressor = QSGD(shapes, workers=2, levels=2, seed=seed)
        return compressor.sent(name, same[name], worker, step)

    assert torch.equal(rounded(), rounded())
    for other in (rounded(seed=1), rounded(worker=1), rounded(step=1), rounded(name="b")):
        assert not torch.equal(rounded(), other)
    # Real draws have no bias either: the mean of 2000 is off by less than five of its standard deviations, 0.7 / √2000.
    compressor = QSGD(shapes, levels=2)
    mean = torch.stack([compressor.sent("a", same["a"], 0, step) for step in range(2000)]).mean()
    assert float(mean) == pytest.approx(0.3, abs=5 * 0.3 * math.sqrt(3) / math.sqrt(2000 * 50))


@pytest.mark.parametrize("kind", ALL)
def test_zeros_are_sent_as_zeros(kind):
    zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    compressor = kind(SHAPES)
    for step in range(2):
        assert all(not tensor.any() for tensor in compressor.exchange([zeros], step).values())


def test_casts_round_every_workers_gradient_and_not_their_sum():
    one, other = 1.0, 2.0**-9  # which bfloat16 holds, but not their sum
    for kind, kept in ((BF16, 2.0**-9), (FP16, 2.0**-9)):
        gradients = [{"x": torch.tensor([value], dtype=torch.float64)} for value in (one, other)]
        assert kind({"x": (1,)}, workers=2).exchange(gradients, 0)["x"].item() == (one + kept) / 2
    assert compressed(BF16({"x": (1,)}), torch.tensor([1 + 2.0**-9])).item() == 1.0
    assert compressed(FP16({"x": (1,)}), torch.tensor([1 + 2.0**-9])).item() == 1 + 2.0**-9
    assert compressed(FP16({"x": (1,)}), torch.tensor([1e5])).item() == float("inf")


# ---- PowerSGD -------------------------------------------------------------------------------------------------------------


def test_a_matrix_of_low_rank_is_received_exactly_in_one_step():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 2, dtype=torch.float64, generator=generator) for size in (20, 30))
    matrix = left @ right.T
    received = PowerSGD({"x": (20, 30)}, rank=2).exchange([{"x": matrix}], 0)["x"]
    torch.testing.assert_close(received, matrix, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(PowerSGD({"x": (20, 30)}, rank=1).exchange([{"x": matrix}], 0)["x"], matrix, atol=1e-2)


def test_many_steps_from_the_last_factor_give_the_best_approximation():
    matrix = draws(1, {"x": (20, 30)})["x"]
    compressor = PowerSGD({"x": (20, 30)}, rank=3, error_feedback=False)
    for step in range(200):
        received = compressor.exchange([{"x": matrix}], step)["x"]
    tail = torch.linalg.svdvals(matrix)[3:].square().sum().sqrt()
    assert float((matrix - received).norm()) == pytest.approx(float(tail), rel=1e-6)


def test_a_kernel_is_a_matrix_of_its_first_dimension_and_vectors_are_sent_whole():
    shapes = {"kernel": (8, 3, 2, 2), "bias": (8,), "small": (2, 2)}
    gradients = [draws(worker, shapes) for worker in range(2)]
    compressor = PowerSGD(shapes, workers=2, rank=1)
    received = compressor.exchange(gradients, 0)
    assert torch.linalg.matrix_rank(received["kernel"].flatten(1)) == 1
    for name in ("bias", "small"):
        torch.testing.assert_close(received[name], (gradients[0][name] + gradients[1][name]) / 2)
    assert compressor.errors[0].keys() == {"kernel"}


def test_only_what_is_linear_does_not_depend_on_the_number_of_workers():
    shapes = {"x": (9, 8)}

    def received(kind, workers):
        compressor = kind(shapes, workers=workers)
        for step in range(4):
            four = [draws(4 * step + number, shapes)["x"] for number in range(4)]
            parts = [sum(four[first::workers]) * workers / 4 for first in range(workers)]
            last = compressor.exchange([{"x": part} for part in parts], step)["x"]
        return last

    torch.testing.assert_close(received(PowerSGD, 1), received(PowerSGD, 4), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(received(TopK, 1), received(TopK, 4))
    assert not torch.allclose(received(Sign, 1), received(Sign, 4))


# ---- what fails without error feedback, and is cured by it ------------------------------------------------------------------


def test_signs_alone_never_leave_a_line():
    """f = ½ |x₁ + x₂| + |x₁ - x₂| from (1, ½): Karimireddy et al. 2019, counterexample 2. All signs are ±(1, -1)."""

    def gradient(x):
        plus, minus = (1.0 if value >= 0 else -1.0 for value in (x[0] + x[1], x[0] - x[1]))
        return torch.stack([torch.tensor(plus / 2 + minus), torch.tensor(plus / 2 - minus)]).double()

    def end(error_feedback):
        compressor = Sign({"x": (2,)}, error_feedback=error_feedback)
        x = torch.tensor([1.0, 0.5], dtype=torch.float64)
        for step in range(1500):
            x = x - 0.02 / math.sqrt(step + 1) * compressed(compressor, gradient(x), step)
        return x, float((x[0] + x[1]).abs() / 2 + (x[0] - x[1]).abs())

    stuck, value = end(error_feedback=False)
    assert float(stuck.sum()) == pytest.approx(1.5)
    assert value >= 0.75 - 1e-9
    assert end(error_feedback=True)[1] < 5e-3


def test_signs_alone_go_the_wrong_way_where_rare_gradients_are_large():
    """g = 4 or -1 with the probabilities ¼ and ¾, beside a large entry that fixes the scale: E g > 0 > E sign(g)."""

    def moved(error_feedback):
        compressor = Sign({"x": (2,)}, error_feedback=error_feedback)
        steps = [(4.0, -1.0, -1.0, -1.0)[step % 4] for step in range(400)]
        return sum(
            float(compressed(compressor, torch.tensor([first, 10.0], dtype=torch.float64), step)[0])
            for step, first in enumerate(steps)
        ) / len(steps)

    assert moved(error_feedback=False) == pytest.approx((7 - 3 * 5.5) / 4)
    assert moved(error_feedback=True) == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(("ratio", "cured", "failed"), [(0.02, 0.00028, 0.404), (0.1, 0.00029, 0.0555)])
def test_the_largest_entries_alone_leave_flat_directions_behind(ratio, cured, failed):
    """½ Σ h x² in 50 dimensions with condition 100, 4000 steps of 0.05."""
    curvatures = torch.logspace(-2, 0, 50, dtype=torch.float64)
    for error_feedback, expected in ((True, cured), (False, failed)):
        compressor = TopK({"x": (50,)}, ratio=ratio, error_feedback=error_feedback)
        x = torch.ones(50, dtype=torch.float64)
        for step in range(4000):
            x -= 0.05 * compressed(compressor, curvatures * x, step)
        assert float((curvatures * x * x).sum() / 2) == pytest.approx(expected, rel=0.02)


# ---- bytes ----------------------------------------------------------------------------------------------------------------


LENET5 = {
    "conv1": (6, 1, 5, 5), "b1": (6,), "conv2": (16, 6, 5, 5), "b2": (16,), "fc1": (120, 400), "b3": (120,),
    "fc2": (84, 120), "b4": (84,), "fc3": (10, 84), "b5": (10,),
}  # fmt: skip
MLP = {"hidden": (64, 196), "b1": (64,), "head": (10, 64), "b2": (10,)}  # of the study of the specification


def test_the_bytes_of_a_step():
    assert dense_bytes(LENET5) == 246_824
    assert FP16(LENET5).bytes_per_step(1) == BF16(LENET5).bytes_per_step(1) == 123_412
    assert [PowerSGD(LENET5, rank=rank).bytes_per_step(1) for rank in (1, 2, 4)] == [5_004, 9_064, 17_184]
    # As one vector of 61,706 entries; ten tensors have ten scales, and k is rounded up in each.
    assert int(Sign({"all": (61_706,)}).bytes_per_step(1)) == 7_717
    assert Sign(LENET5).bytes_per_step(1) == 61_706 / 8 + 40
    assert TopK(LENET5, ratio=0.01).bytes_per_step(1) == 8 * (2 + 1 + 24 + 1 + 480 + 2 + 101 + 1 + 9 + 1)
    assert dense_bytes(MLP) == 53_032
    assert round(Sign(MLP).bytes_per_step(1)) == 1_673
    assert round(QSGD(MLP, levels=4).bytes_per_step(1)) == 5_269
    assert [PowerSGD(MLP, rank=rank).bytes_per_step(1) for rank in (1, 4)] == [1_632, 5_640]
