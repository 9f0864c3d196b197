"""Sizes that cannot fit and lengths that no float holds: one message before anything is made."""

import pytest
import torch
from torch import nn

from optbench import config
from optbench.config import Choice, RunConfig
from optbench.config.scaling import learning_rate
from optbench.config.schema import LONGEST, OptionType
from optbench.errors import UserError
from optbench.models import model_size
from optbench.system import memory
from optbench.training import build

DIGITS = ["dataset=digits", "model=mlp", "budget.steps=1"]
CPU = torch.device("cpu")


def built(*words):
    chosen = config.compose([*DIGITS, *words])
    read = RunConfig.of(chosen)
    return build.build_task(read, build.load_data(read))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # 64 inputs: the first matrix alone, 64e9 weights of 4 bytes, and as much again for gradients.
        (["model.hidden=[1000000000]"], r"hidden=\[1000000000\]: needs at least 512 GB \(512,000,000,000 bytes\) of"),
        (["model.hidden=[9000000000000000000]"], "sizes that no memory holds"),
        (["model=wrn", "model.width=1000000"], r"model\.width=1000000: needs at least .* PB"),
        (["dataset=adding", "model=lstm", "dataset.length=1000000000"], "steps with 2 features: needs at least 256 TB"),
        (["dataset=curves", "model=autoencoder", "dataset.examples=1000000000000"], "needs at least 784 TB"),
        (["dataset.crop=1000"], r"dataset\.crop=1000: the images have 8 pixels on a side; accepted: 0 to 8"),
        (["dataset.crop=8", "dataset.crop_padding=reflect"], "accepted: 0 to 7"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_before_it_is_made(words, message):
    with pytest.raises(UserError, match=message):
        built(*words)


def test_what_fits_is_built_as_ever():
    shape = built("model.hidden=[2000]").model.state_dict()
    assert sum(tensor.numel() for tensor in shape.values()) == 65 * 2000 + 2001 * 10


class Deep(nn.Module):
    """A model of somebody's own."""

    def __init__(self, depth, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))


def test_a_model_of_ones_own_is_counted_until_it_is_too_large(monkeypatch):
    monkeypatch.setattr(
        memory, "of_this_machine", lambda: 8 * 10 * 10**4
    )  # ten layers of 100 x 100, and their gradients
    before = torch.get_rng_state()
    model_size.check(lambda: Deep(10, 100), "model=mine", CPU)
    with pytest.raises(UserError, match=r"model=mine: needs at least 880 kB .* for weights and gradients, .* 800 kB"):
        model_size.check(lambda: Deep(10**9, 100), "model=mine", CPU)
    with pytest.raises(UserError, match=r"needs at least 960 kB .* and the optimizer's state"):
        model_size.check(lambda: Deep(10, 100), "model=mine", CPU, copies=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_too_many_layers(monkeypatch):
    monkeypatch.setattr(model_size, "MOST_PARTS", 50)
    with pytest.raises(UserError, match="has more than 50 layers and parameters"):
        model_size.check(lambda: Deep(100, 1), "model=mine", CPU)


def test_the_hooks_that_count_are_gone_afterwards():
    model_size.check(lambda: Deep(1, 1), "model=mine", CPU)
    from torch.nn.modules import module

    assert not module._global_parameter_registration_hooks
    assert not module._global_module_registration_hooks


@pytest.mark.parametrize(
    ("make", "copies"),
    [
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1), 0),
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 1),
        (lambda model: torch.optim.Adam(model.parameters()), 2),
        (lambda model: torch.optim.Adam(model.parameters(), amsgrad=True), 3),
    ],
)
def test_copies_that_an_optimizer_keeps(make, copies):
    assert model_size.state_copies(make) == copies


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.epochs=1e308"], r"budget\.epochs=1e\+308: longer than any training"),
        (["budget.steps=1000000000000000000"], r"budget\.steps=1000000000000000000: longer than any training"),
        (["schedule.warmup=1e308epochs"], r"schedule\.warmup=1e308epochs: must be duration .* at most 1e15"),
        (["schedule=batch_growth", "schedule.growth=1e308"], r"schedule\.growth=1e\+308: takes batch=128 beyond"),
        (["scaling=power", "scaling.exponent=1e3", "base_batch=1"], "scaling=power: takes .* beyond what a float"),
        (["schedule=cosine_restarts", "schedule.period=0"], r"schedule\.period=0: must be duration > 0 or null"),
        (["schedule=triangular", "schedule.period=0"], r"schedule\.period=0"),
        (["model=resnet20", "ghost_batch_size=1"], r"ghost_batch_size=1: model=resnet20 has batch norm, and one example"),
        (["model=resnet20", "batch=1"], r"batch=1: model=resnet20 has batch norm"),
    ],
)  # fmt: skip
def test_lengths_and_growths_that_no_number_holds(words, message):
    with pytest.raises(UserError, match=message):
        config.compose([*DIGITS[:2], *words])


def test_numbers_that_no_tensor_holds():
    assert OptionType.parse("int").accepts(2**63 - 1)
    assert not OptionType.parse("int").accepts(2**63)
    assert not OptionType.parse("float").accepts(10**400)
    assert OptionType.parse("duration").accepts(f"{LONGEST}epochs")
    assert not OptionType.parse("duration").accepts(f"{LONGEST + 1}steps")
    assert not OptionType.parse("duration").accepts(LONGEST + 1)


def test_a_model_without_batch_norm_takes_any_group():
    assert config.compose([*DIGITS, "ghost_batch_size=1"])["ghost_batch_size"] == 1
    words = ["dataset=digits", "model=convnet", "batch=1"]
    assert config.compose([*words, "model.batch_norm=false"])["batch"] == 1
    with pytest.raises(UserError, match="batch=1: model=convnet has batch norm"):
        config.compose(words)


def test_learning_rates_within_the_range_of_floats():
    def rule(**options):
        return Choice.of("scaling", {"info": {"schema": {}}, **options})

    sgd = Choice.of("optimizer", config.read_choice("optimizer", "sgd"))
    assert learning_rate(rule(name="linear"), 0.1, 512, 128, sgd) == (0.4, "linear")
    with pytest.raises(UserError, match="beyond what a float can hold"):
        learning_rate(rule(name="power", exponent=-1e3), 0.1, 512, 1, sgd)


@pytest.mark.parametrize(("count", "words"), [(12, "12 bytes"), (4096, "4.1 kB (4,096 bytes)"), (10**30, "1e+12 EB")])
def test_bytes_in_words(count, words):
    assert memory.in_words(count) == words
