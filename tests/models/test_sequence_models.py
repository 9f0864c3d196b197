from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench.config import schema
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.language import RecurrentLanguageModel
from optbench.models.layers import Dropout, place_dropout
from optbench.models.recurrent import RecurrentNetwork, RecurrentStack
from optbench.models.transformer import GPT

CONF = Path(__file__).parents[2] / "conf" / "model"
CLASSES = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in (RecurrentNetwork, RecurrentLanguageModel, GPT)}
RECURRENT = ["rnn", "irnn", "gru", "lstm"]
LANGUAGE = ["char_lstm", "char_lstm_onehot", "zaremba_small", "zaremba_medium", "zaremba_large"]
TRANSFORMER = ["gpt", "gpt_small"]

MNIST = DataSpec("image", (1, 28, 28), 10)
COLOUR = DataSpec("image", (3, 6, 4), 10)
ADDING = DataSpec("sequence", (20, 2), 1, "real")
MEMORY = DataSpec("sequence", (12, 7), 5, "class_per_step")


def tokens(vocabulary, steps=9):
    return DataSpec("tokens", (steps,), vocabulary, "class_per_step", vocabulary)


def build(name, data, **overrides):
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    options = {key: value for key, value in conf.items() if key not in ("_target_", "name", "info")}
    return CLASSES[conf["_target_"]](data, **(options | overrides))


def count(name, data, **overrides):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, data, **overrides).parameters())


def random_tokens(examples, steps, vocabulary):
    return torch.randint(vocabulary, (examples, steps), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RECURRENT + LANGUAGE + TRANSFORMER)
def test_every_option_of_the_yaml_has_a_type_that_accepts_it(name):
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    info = conf.pop("info")
    assert conf.pop("name") == name
    assert conf.pop("_target_") in CLASSES
    schema.check(conf, info["schema"])
    assert set(info["accepts"]) == ({"image", "sequence"} if name in RECURRENT else {"tokens"})
    assert info["batch_norm"] is False


@pytest.mark.parametrize(
    ("name", "data", "overrides", "expected"),
    [
        ("rnn", MNIST, {"hidden": 100, "read": "pixels"}, 11_310),
        ("irnn", MNIST, {"hidden": 100, "read": "pixels"}, 11_310),
        ("gru", MNIST, {"hidden": 100, "read": "pixels"}, 31_910),
        ("lstm", MNIST, {"hidden": 100, "read": "pixels"}, 42_210),
        ("rnn", MNIST, {}, 21_514),
        ("gru", MNIST, {}, 61_962),
        ("lstm", MNIST, {}, 82_186),
        ("irnn", ADDING, {}, 10_501),
        ("lstm", ADDING, {"hidden": 100}, 41_701),
        ("char_lstm", tokens(83), {}, 285_523),
        ("char_lstm_onehot", tokens(65), {}, 240_321),
        ("char_lstm_onehot", tokens(65), {"embedding": 128}, 280_897),
        ("zaremba_small", tokens(10_000), {}, 4_653_200),
        ("zaremba_medium", tokens(10_000), {}, 19_780_400),
        ("zaremba_large", tokens(10_000), {}, 66_034_000),
        ("zaremba_small", tokens(10_000), {"tied": True}, 2_653_200),
        ("zaremba_medium", tokens(10_000), {"tied": True}, 13_280_400),
        ("zaremba_large", tokens(10_000), {"tied": True}, 51_034_000),
        ("zaremba_small", tokens(10_000), {"output_bias": False}, 4_643_200),
    ],
)
def test_parameter_counts(name, data, overrides, expected):
    assert count(name, data, **overrides) == expected


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("name", "layers", "width"), [("gpt", 4, 128), ("gpt_small", 6, 384)])
def test_gpt_parameter_count(name, layers, width, tied):
    vocabulary, steps = 65, 50
    attention = (width * 3 * width + 3 * width) + (width * width + width)
    mlp = (width * 4 * width + 4 * width) + (4 * width * width + width)
    norm = 2 * width
    embeddings = (vocabulary if tied else 2 * vocabulary) * width + steps * width
    expected = embeddings + layers * (attention + mlp + 2 * norm) + norm
    assert count(name, tokens(vocabulary, steps), tied=tied) == expected


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("data", "read", "output"),
    [
        (COLOUR, "auto", (10,)),
        (COLOUR, "rows", (10,)),
        (COLOUR, "pixels", (10,)),
        (ADDING, "auto", (1,)),
        (MEMORY, "auto", (12, 5)),
    ],
)
def test_recurrent_shapes(name, layers, data, read, output):
    model = build(name, data, read=read, layers=layers, hidden=8)
    assert model(torch.zeros(3, *data.shape)).shape == (3, *output)


@pytest.mark.parametrize("name", [*LANGUAGE[:3], "gpt"])
def test_language_model_shapes(name):
    assert build(name, tokens(11))(random_tokens(3, 9, 11)).shape == (3, 9, 11)


class Recorder(nn.Module):
    def forward(self, inputs):
        self.seen = inputs
        return inputs


@pytest.mark.parametrize("read", ["pixels", "rows"])
def test_an_image_is_read_from_the_top_left(read):
    # The value of an entry is 100 * channel + 10 * row + column.
    channel, row, column = torch.meshgrid(torch.arange(3), torch.arange(6), torch.arange(4), indexing="ij")
    image = (100 * channel + 10 * row + column).float().unsqueeze(0)
    model = RecurrentNetwork(COLOUR, hidden=12 if read == "rows" else 3, read=read)
    model.stack = Recorder()
    model(image)
    if read == "pixels":
        expected = [[100 * c + 10 * r + w for c in range(3)] for r in range(6) for w in range(4)]
    else:
        expected = [[100 * c + 10 * r + w for c in range(3) for w in range(4)] for r in range(6)]
    assert model.stack.seen[0].tolist() == expected


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def lstm_by_hand(layer, inputs):
    """Hochreiter & Schmidhuber's cell with forget gate; torch stacks the gates as input, forget, cell, output."""
    weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    hidden = cell = torch.zeros(len(inputs), layer.hidden_size, dtype=inputs.dtype)
    states = []
    for step in range(inputs.shape[1]):
        total = inputs[:, step] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        total = total + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        size = layer.hidden_size
        enter, forget, new, leave = (total[:, gate * size : (gate + 1) * size] for gate in range(4))
        cell = sigmoid(forget) * cell + sigmoid(enter) * torch.tanh(new)
        hidden = sigmoid(leave) * torch.tanh(cell)
        states.append(hidden)
    return torch.stack(states, 1)


def rnn_by_hand(layer, inputs, nonlinearity):
    weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    hidden = torch.zeros(len(inputs), layer.hidden_size, dtype=inputs.dtype)
    states = []
    for step in range(inputs.shape[1]):
        total = inputs[:, step] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        hidden = nonlinearity(total + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"])
        states.append(hidden)
    return torch.stack(states, 1)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("lstm", lstm_by_hand),
        ("rnn", lambda layer, inputs: rnn_by_hand(layer, inputs, torch.tanh)),
        ("irnn", lambda layer, inputs: rnn_by_hand(layer, inputs, lambda total: total.clamp(min=0))),
    ],
)
def test_recurrent_network_is_the_recurrence_written_out(name, by_hand):
    torch.manual_seed(0)
    data = DataSpec("sequence", (7, 3), 2)
    model = build(name, data, hidden=5, layers=2).double()
    inputs = torch.randn(4, 7, 3, dtype=torch.float64)
    states = by_hand(model.stack.layers[1], by_hand(model.stack.layers[0], inputs))
    expected = states[:, -1] @ model.readout.weight.T + model.readout.bias
    torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-13)


def test_one_hot_input_selects_a_column_of_the_input_weights():
    torch.manual_seed(0)
    model = build("char_lstm_onehot", tokens(6), hidden=4, layers=1).double()
    sequence = random_tokens(3, 9, 6)
    states = lstm_by_hand(model.stack.layers[0], torch.eye(6, dtype=torch.float64)[sequence])
    torch.testing.assert_close(model(sequence), states @ model.readout.weight.T + model.readout.bias)


def gpt_by_hand(model, sequence):
    """Attention as an explicit masked softmax over one head at a time."""

    def norm(values, layer):
        centred = values - values.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * layer.weight + layer.bias

    steps = sequence.shape[1]
    hidden = model.embedding.weight[sequence] + model.positions.weight[:steps]
    future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    for block in model.blocks:
        mixing, inputs = block.attention, norm(hidden, block.attention_norm)
        width = inputs.shape[-1]
        size = width // mixing.heads
        projected = inputs @ mixing.query_key_value.weight.T + mixing.query_key_value.bias
        heads = []
        for head in range(mixing.heads):
            start = head * size
            query, key, value = (projected[..., part * width + start :][..., :size] for part in range(3))
            scores = (query @ key.transpose(1, 2) / size**0.5).masked_fill(future, -torch.inf)
            heads.append(scores.softmax(-1) @ value)
        hidden = hidden + torch.cat(heads, -1) @ mixing.projection.weight.T + mixing.projection.bias
        inner = norm(hidden, block.mlp_norm) @ block.expand.weight.T + block.expand.bias
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        hidden = hidden + inner @ block.contract.weight.T + block.contract.bias
    return norm(hidden, model.norm) @ model.readout.weight.T


def test_gpt_is_the_equations_written_out():
    torch.manual_seed(0)
    model = GPT(tokens(11), layers=2, heads=2, width=6).double()
    for parameter in model.parameters():  # the initial weights are too small to tell attention from a mean
        nn.init.normal_(parameter, std=0.7)
    sequence = random_tokens(3, 9, 11)
    torch.testing.assert_close(model(sequence), gpt_by_hand(model, sequence), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["char_lstm", "char_lstm_onehot", "gpt"])
def test_a_later_token_does_not_change_earlier_logits(name):
    torch.manual_seed(0)
    model = build(name, tokens(11)).eval()
    sequence = random_tokens(2, 9, 11)
    changed = sequence.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(sequence), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert ((after[:, 5:] - before[:, 5:]).abs().amax(-1) > 1e-5).all()


@pytest.mark.parametrize("name", ["zaremba_small", "gpt"])
def test_tied_weights_are_one_tensor_before_and_after_training_and_copying(name):
    model = build(name, tokens(11), tied=True)
    assert model.embedding.weight is model.readout.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(random_tokens(2, 9, 11)).logsumexp(-1).mean().backward()
    optimizer.step()
    assert model.embedding.weight is model.readout.weight
    untied = build(name, tokens(11), tied=False)
    assert untied.embedding.weight.data_ptr() != untied.readout.weight.data_ptr()


@pytest.mark.parametrize(("name", "bound"), [("zaremba_small", 0.1), ("zaremba_medium", 0.05), ("zaremba_large", 0.04)])
def test_zaremba_parameters_are_uniform_at_construction(name, bound):
    torch.manual_seed(0)
    for parameter in build(name, tokens(50), hidden=200, embedding=200).parameters():
        # The tolerances are at least 4 standard errors, for the 50 output biases and for the 800 biases of a layer.
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.9 * bound
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.25 if parameter.numel() < 100 else 0.1)


def test_gpt_weights_at_construction():
    torch.manual_seed(0)
    model = GPT(tokens(200, 64), layers=4, heads=4, width=128)
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all()
        elif "bias" in name:
            assert (parameter == 0).all()
        else:
            residual = name.endswith(("projection.weight", "contract.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / 8**0.5 if residual else 0.02, rel=0.05)


@pytest.mark.parametrize(
    ("build_model", "expected"),
    [
        # embedded tokens, between, before the readout; one-hot vectors are not dropped
        (lambda: build("zaremba_medium", tokens(11), hidden=8, embedding=8), [0.5, 0.5, 0.5]),
        (lambda: build("zaremba_large", tokens(11), hidden=8, embedding=8), [0.65, 0.65, 0.65]),
        (lambda: build("char_lstm", tokens(11)), [0.2, 1 - 0.8 * 0.8, 0.2]),
        (lambda: build("char_lstm_onehot", tokens(11), dropout=0.5), [0.0, 0.5, 0.5]),
        (lambda: build("gru", MNIST, layers=3, dropout=0.3), [0.3, 0.3, 0.3]),
        (lambda: build("gpt_small", tokens(11)), [0.2] * (1 + 2 * 6)),
    ],
)
def test_dropout_acts_where_the_paper_says_and_never_inside_torch_modules(build_model, expected):
    model = build_model()
    found = [module.probability for module in model.modules() if isinstance(module, Dropout)]
    assert found == pytest.approx(expected)
    assert all(module.dropout == 0 for module in model.modules() if isinstance(module, nn.RNNBase))


@pytest.mark.parametrize(
    ("name", "data", "overrides"),
    [
        ("lstm", MEMORY, {"layers": 2, "hidden": 8, "dropout": 0.5}),
        ("gru", COLOUR, {"layers": 2, "hidden": 8, "dropout": 0.5, "read": "pixels"}),
        ("char_lstm", tokens(11), {}),
        ("gpt", tokens(11), {"dropout": 0.5}),
    ],
)
def test_dropout_masks_do_not_depend_on_the_cut_of_the_batch(name, data, overrides):
    torch.manual_seed(0)
    model = build(name, data, **overrides).double()
    inputs = random_tokens(6, 9, 11) if data.kind == "tokens" else torch.randn(6, *data.shape, dtype=torch.float64)
    draw = place_dropout(model, torch.device("cpu"))
    draw[0] = 12345
    whole = model(inputs)
    parts = []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        draw[1] = start
        parts.append(model(inputs[start:stop]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert (model.eval()(inputs) - whole).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "data", "overrides"),
    [
        ("rnn", ADDING, {"hidden": 4, "layers": 2}),
        ("gru", ADDING, {"hidden": 4}),
        ("lstm", ADDING, {"hidden": 4, "layers": 2}),
        ("char_lstm", tokens(5), {"hidden": 4, "embedding": 4, "tied": True, "dropout": 0.0, "dropout_between": 0.0}),
        ("gpt", tokens(5), {"layers": 1, "heads": 2, "width": 4}),
    ],
)
def test_hessian_vector_product_matches_differences_of_gradients(name, data, overrides):
    torch.manual_seed(0)
    model = build(name, data, **overrides).double()
    inputs = random_tokens(3, 9, 5) if data.kind == "tokens" else torch.randn(3, *data.shape, dtype=torch.float64)
    parameters = list(model.parameters())
    for parameter in parameters:  # layer norm after tiny embeddings would make the differences inaccurate
        nn.init.normal_(parameter, std=0.5)
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def gradient(create_graph=False):
        with sdpa_kernel(SDPBackend.MATH):
            loss = model(inputs).square().mean()
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    product = torch.autograd.grad(gradient(create_graph=True), parameters, direction)
    step = 1e-5
    shifted = []
    for sign in (1, -2):  # to +step, and from there to -step
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter += sign * step * change
        shifted.append(gradient())
    for exact, ahead, behind in zip(product, *shifted, strict=True):
        torch.testing.assert_close(exact, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GPT(tokens(11), heads=3, width=128), ["model.heads=3", "model.width=128"]),
        (lambda: GPT(MNIST), ["tokens", "image"]),
        (lambda: RecurrentLanguageModel(ADDING), ["tokens", "sequence"]),
        (lambda: RecurrentLanguageModel(tokens(11), tied=True, hidden=64), ["model.tied", "128", "64"]),
        (lambda: RecurrentLanguageModel(tokens(11), tied=True, embedding=0), ["model.tied", "model.embedding=0"]),
        (lambda: RecurrentNetwork(tokens(11)), ["tokens", "char_lstm"]),
        (lambda: RecurrentNetwork(ADDING, read="pixels"), ["model.read=pixels", "auto"]),
        (lambda: RecurrentNetwork(MNIST, read="columns"), ["model.read=columns", "rows"]),
        (lambda: RecurrentNetwork(DataSpec("image", (1, 8, 8), 64, "none")), ["targets"]),
        (lambda: RecurrentStack("qrnn", 1, 1, 1, 0.0), ["model.cell=qrnn", "lstm"]),
        (lambda: RecurrentStack("lstm", 1, 1, 1, 0.0, "relu"), ["model.nonlinearity=relu", "rnn"]),
        (lambda: RecurrentStack("rnn", 1, 1, 1, 0.0, "sine"), ["model.nonlinearity=sine", "tanh"]),
    ],
)
def test_a_users_mistake_names_the_key_and_what_is_accepted(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)
