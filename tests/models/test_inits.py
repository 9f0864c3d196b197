import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from optbench.config import schema
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models import inits
from optbench.models.language import RecurrentLanguageModel
from optbench.models.recurrent import RecurrentNetwork
from optbench.models.transformer import GPT

CONF = Path(__file__).parents[2] / "conf" / "init"
NAMES = ["default", "he", "xavier", "orthogonal", "sparse", "esn", "identity"]
WORDS = DataSpec("tokens", (6,), 30, "class_per_step", 30)
SERIES = DataSpec("sequence", (6, 3), 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def options_of(name):
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    return {key: value for key, value in conf.items() if key not in ("_target_", "name", "info")}


def mixed_model():
    return nn.Sequential(
        nn.Conv2d(3, 40, 3),
        nn.BatchNorm2d(40),
        nn.Conv2d(40, 60, 3, groups=2, bias=False),
        nn.ConvTranspose2d(60, 20, 3, groups=2),
        nn.GroupNorm(2, 20),
        nn.Flatten(),
        nn.Linear(200, 100),
        nn.LayerNorm(100),
        nn.Linear(100, 10),
    )


def recurrent_model(cell="lstm", hidden=40, layers=2):
    return RecurrentNetwork(SERIES, cell=cell, hidden=hidden, layers=layers)


def fitting_model(name):
    return recurrent_model("rnn") if name in ("identity", "esn") else mixed_model()


@pytest.mark.parametrize("name", NAMES)
def test_yaml_and_function_have_the_same_options_and_defaults(name):
    conf = OmegaConf.load(CONF / f"{name}.yaml")
    assert (conf._target_, conf.name) == (f"optbench.models.inits.{name}", name)
    assert conf.info.about
    assert conf.info.source
    schema.check(options_of(name), OmegaConf.to_container(conf.info.schema))
    parameters = list(inspect.signature(getattr(inits, name)).parameters.values())[2:]
    assert options_of(name) == {parameter.name: parameter.default for parameter in parameters}


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_a_function_of_the_generator(name):
    first, second, other = (fitting_model(name) for _ in range(3))
    second.load_state_dict(first.state_dict())
    before = torch.random.get_rng_state()
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        getattr(inits, name)(model, generator(seed), **options_of(name))
    assert torch.equal(before, torch.random.get_rng_state())
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    assert any(not torch.equal(left, right) for left, right in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES[1:5])
def test_double_and_single_precision_models_get_the_same_weights(name):
    single, double = recurrent_model(), recurrent_model().double()
    for model in (single, double):
        getattr(inits, name)(model, generator(), **options_of(name))
    for left, right in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(left, right.float())


def test_default_leaves_the_model_as_it_was_constructed():
    model = mixed_model()
    before = [parameter.clone() for parameter in model.parameters()]
    inits.default(model, generator())
    assert all(torch.equal(left, right) for left, right in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES[1:5])
def test_norms_are_untouched_and_biases_are_zero(name):
    model = mixed_model()
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                module.bias.fill_(7)
    getattr(inits, name)(model, generator())
    for module in model:
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all()


# (fan_in, fan_out) of the layers of mixed_model, by hand: 3*3 windows; a grouped convolution meets its own group only.
FANS = {0: (3 * 9, 40 * 9), 2: (20 * 9, 30 * 9), 3: (30 * 9, 10 * 9), 6: (200, 100), 8: (100, 10)}


def check_moments(weight, variance, distribution):
    """The standard error of a sample variance of n normal draws is sqrt(2 / n) of it: 4.5 of them are allowed."""
    weight = weight.detach()
    tolerance = 4.5 * (2 / weight.numel()) ** 0.5
    assert weight.square().mean().item() == pytest.approx(variance, rel=tolerance)
    assert abs(weight.mean().item()) < 4.5 * (variance / weight.numel()) ** 0.5
    bound = (3 * variance) ** 0.5
    if distribution == "uniform":
        assert 0.97 * bound < weight.abs().max() <= bound
    elif weight.numel() > 1000:
        assert weight.abs().max() > 1.3 * bound


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("kind", ["fan_in", "fan_out", "xavier"])
def test_variances_of_he_and_xavier(kind, distribution):
    model = mixed_model()
    if kind == "xavier":
        inits.xavier(model, generator(), distribution=distribution)
    else:
        inits.he(model, generator(), mode=kind, distribution=distribution)
    for number, (fan_in, fan_out) in FANS.items():
        variance = {"fan_in": 2 / fan_in, "fan_out": 2 / fan_out, "xavier": 2 / (fan_in + fan_out)}[kind]
        check_moments(model[number].weight, variance, distribution)


def test_fan_out_of_a_recurrent_layer_is_that_of_one_gate():
    layer = nn.LSTM(30, 50)
    inits.he(layer, generator(), mode="fan_out")
    for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
        for gate in range(4):
            check_moments(weight[50 * gate : 50 * (gate + 1)], 2 / 50, "normal")


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_orthogonal_matrices(gain):
    model = nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 7), nn.Conv2d(3, 5, 2), nn.ConvTranspose2d(5, 3, 2)).double()
    inits.orthogonal(model, generator(), gain=gain)
    wide, tall = model[0].weight, model[1].weight
    filters, transposed = model[2].weight.flatten(1), model[3].weight.transpose(0, 1).flatten(1)
    for rows in (wide, tall.T, filters, transposed):
        torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows), dtype=torch.float64))


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_each_gate_has_its_own_orthogonal_recurrent_matrix(cell, gates):
    model = recurrent_model(cell, hidden=12).double()
    inits.orthogonal(model, generator())
    blocks = [block for layer in model.stack.layers for block in layer.weight_hh_l0.split(12)]
    assert len(blocks) == 2 * gates
    for number, block in enumerate(blocks):
        torch.testing.assert_close(block @ block.T, torch.eye(12, dtype=torch.float64))
        assert all((block - other).abs().max() > 0.1 for other in blocks[:number])


def test_forget_bias_is_that_of_the_forget_gates_alone():
    model = recurrent_model("lstm", hidden=3)
    inits.orthogonal(model, generator(), forget_bias=1.5)
    for layer in model.stack.layers:
        assert (layer.bias_ih_l0 + layer.bias_hh_l0).tolist() == [0] * 3 + [1.5] * 3 + [0] * 6


def nonzeros(units):
    """The number of entries of each unit's incoming weights (units, ...) that are not zero."""
    return units.detach().flatten(1).count_nonzero(1).tolist()


def test_sparse_gives_every_unit_exactly_fifteen_weights():
    model = mixed_model()
    inits.sparse(model, generator())
    assert nonzeros(model[0].weight) == [15] * 40
    assert nonzeros(model[2].weight) == [15] * 60
    # A transposed convolution stores (inputs, outputs of a group, ...): one group of 30 inputs after the other.
    for group in model[3].weight.split(30):
        assert nonzeros(group.transpose(0, 1)) == [15] * 10
    assert nonzeros(model[6].weight) == [15] * 100
    assert nonzeros(model[8].weight) == [15] * 10


def test_sparse_sources_are_uniform_and_weights_standard_normal():
    model = nn.Linear(50, 20_000)
    inits.sparse(model, generator(), scale=0.25, bias=0.5)
    weight = model.weight.detach()
    # Each source is chosen by a unit with probability 15 / 50: five binomial standard deviations.
    chosen = weight.count_nonzero(0) / 20_000
    assert (chosen - 0.3).abs().max() < 5 * (0.3 * 0.7 / 20_000) ** 0.5
    values = weight[weight != 0] / 0.25
    assert values.var().item() == pytest.approx(1, rel=0.02)  # 300,000 values: the standard error is 0.0026
    assert values.abs().max() > 3.5
    assert (model.bias == 0.5).all()


def test_sparse_takes_all_sources_where_there_are_fewer_than_fifteen():
    model = nn.Linear(6, 9)
    inits.sparse(model, generator())
    assert nonzeros(model.weight) == [6] * 9


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_sparse_on_recurrent_layers(cell):
    model = recurrent_model(cell)
    inits.sparse(model, generator(), bias=0.5)
    first, second = model.stack.layers
    assert set(nonzeros(first.weight_ih_l0)) == {3}
    assert {*nonzeros(first.weight_hh_l0), *nonzeros(second.weight_ih_l0), *nonzeros(second.weight_hh_l0)} == {15}
    assert (first.bias_ih_l0 + first.bias_hh_l0 == 0.5).all()


@pytest.mark.parametrize(("cell", "hidden"), [("rnn", 100), ("gru", 40), ("lstm", 40), ("rnn", 10)])
def test_esn(cell, hidden):
    model = recurrent_model(cell, hidden, layers=1).double()
    inits.esn(model, generator())
    (layer,) = model.stack.layers
    assert set(nonzeros(layer.weight_hh_l0)) == {min(15, hidden)}
    for gate in layer.weight_hh_l0.detach().split(hidden):
        # An independent way to the spectral radius: the growth of a high power, by Gelfand's formula, squared 24 times.
        power, exponent = gate.clone(), 0.0
        for _ in range(24):
            size = power.norm()
            power, exponent = (power / size) @ (power / size), 2 * (exponent + size.log().item())
        gelfand = torch.tensor((exponent + power.norm().log().item()) / 2**24).exp().item()
        assert gelfand == pytest.approx(1.1, abs=1e-6)
        assert torch.linalg.eigvals(gate).abs().max().item() == pytest.approx(1.1, abs=1e-6)
    check_moments(layer.weight_ih_l0, 0.001**2, "normal")
    assert nonzeros(layer.weight_ih_l0) == [3] * len(layer.weight_ih_l0)
    assert (layer.bias_ih_l0 == 0).all()
    assert (layer.bias_hh_l0 == 0).all()
    check_moments(model.readout.weight, 0.1**2, "normal")


def test_identity():
    model = recurrent_model("rnn", hidden=40)
    inits.identity(model, generator(), scale=0.5)
    for layer in model.stack.layers:
        assert torch.equal(layer.weight_hh_l0, 0.5 * torch.eye(40))
        check_moments(layer.weight_ih_l0, 0.001**2, "normal")
        assert (layer.bias_ih_l0 == 0).all()
        assert (layer.bias_hh_l0 == 0).all()
    check_moments(model.readout.weight, 0.001**2, "normal")
    assert (model.readout.bias == 0).all()


def test_a_tied_readout_is_drawn_once_and_stays_tied():
    model = GPT(WORDS, layers=1, heads=2, width=16)
    inits.sparse(model, generator())
    assert model.embedding.weight is model.readout.weight
    assert nonzeros(model.readout.weight) == [15] * 30


def test_embeddings_keep_their_weights():
    model = RecurrentLanguageModel(WORDS, hidden=16, embedding=16)
    before = model.embedding.weight.clone()
    inits.he(model, generator())
    assert torch.equal(model.embedding.weight, before)


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("identity", mixed_model, ["init=identity", "Sequential", "irnn"]),
        ("identity", recurrent_model, ["init=identity", "RecurrentNetwork", "irnn"]),
        ("esn", mixed_model, ["init=esn", "Sequential", "lstm"]),
    ],
)
def test_recurrent_inits_say_which_models_they_fit(name, model, words):
    with pytest.raises(UserError) as caught:
        getattr(inits, name)(model(), generator())
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("name", "options"),
    [("he", {"mode": "fan_both"}), ("he", {"distribution": "cauchy"}), ("xavier", {"distribution": ""})],
)
def test_unknown_choices(name, options):
    with pytest.raises(UserError, match="must be one of"):
        getattr(inits, name)(mixed_model(), generator(), **options)
