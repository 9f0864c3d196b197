"""model.checkpointing: gradients to the bit, one record of statistics and of layers' inputs, and fewer bytes."""

import copy

import pytest
import torch
from torch import nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models import layers
from optbench.models.all_cnn import AllCNNC
from optbench.models.autoencoder import Autoencoder
from optbench.models.checkpointing import chains, divide, keeping, recomputing
from optbench.models.language import RecurrentLanguageModel
from optbench.models.lenet5 import LeNet5
from optbench.models.mlp import MLP
from optbench.models.preresnet import PreResNet
from optbench.models.recurrent import RecurrentNetwork
from optbench.models.resnet import ResNet
from optbench.models.resnet_cifar import CifarResNet
from optbench.models.transformer import GPT
from optbench.models.vgg import VGG
from optbench.models.wide_resnet import WideResNet
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy
from optbench.optimizers.kronecker.collecting import can_collect_in_training, collect, evaluate_and_collect
from optbench.optimizers.kronecker.layers import find_layers
from optbench.optimizers.kronecker.statistics import FactorSums

IMAGES = DataSpec("image", (1, 8, 8), 10)
TOKENS = DataSpec("tokens", (6,), 7, vocabulary=7, target="class_per_step")
FAMILIES = {
    "mlp": (lambda: MLP(IMAGES, (16, 16)), 3),
    "lenet5": (lambda: LeNet5(IMAGES, padded=False), 4),
    "vgg": (lambda: VGG(IMAGES, 11, dropout=0.2), 5),
    "wrn": (lambda: WideResNet(IMAGES, 10, 1, dropout=0.3), 3),
    "resnet18": (lambda: ResNet(IMAGES, 18), 4),
    "resnet_cifar": (lambda: CifarResNet(IMAGES, 8), 2),
    "preresnet": (lambda: PreResNet(IMAGES, 11), 2),
    "all_cnn": (lambda: AllCNNC(IMAGES), 6),
    "rnn": (lambda: RecurrentNetwork(IMAGES, "rnn", 8, 2, dropout=0.2), 2),
    "gru": (lambda: RecurrentNetwork(IMAGES, "gru", 8, 1), 1),
    "lstm": (lambda: RecurrentLanguageModel(TOKENS, "lstm", 5, 8, 3, dropout=0.3), 2),
    "transformer": (lambda: GPT(TOKENS, 4, 2, 16, dropout=0.2), 3),
    "autoencoder": (lambda: Autoencoder(IMAGES, (20, 10), 4), 4),
}


def built(name, segments, dtype=torch.float32):
    make, _ = FAMILIES[name]
    torch.manual_seed(3)
    model = make().to(dtype)
    divide(model, segments)
    layers.set_ghost_batch_size(model, 2)
    return model


def batch(name, dtype=torch.float32, examples=4):
    generator = torch.Generator().manual_seed(4)
    if name in ("lstm", "transformer"):
        return tuple(torch.randint(7, (examples, 6), generator=generator) for _ in range(2))
    inputs = torch.rand(examples, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, inputs if name == "autoencoder" else torch.randint(10, (examples,), generator=generator)


def objective_of(name, model, execution=None, dtype=torch.float32):
    loss = Bernoulli() if name == "autoencoder" else CrossEntropy()
    return Objective(Network(model), loss, *batch(name, dtype), execution, dropout_key=5)


def recomputed(model):
    """The number of calls of modules within recomputations of ``model``, as a list that grows."""
    seen = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: seen.append(1) if recomputing() else None)
    return seen


def step(name, segments, dtype, execution):
    model = built(name, segments, dtype)
    seen, objective = recomputed(model), objective_of(name, model, execution, dtype)
    value = objective()
    objective.finish()
    gradients = {f"gradient of {key}": tensor.grad for key, tensor in model.named_parameters()}
    return {"loss": value, **gradients, **model.state_dict()}, len(seen)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    different = [key for key, tensor in expected.items() if not torch.equal(found[key], tensor)]
    assert not different


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_and_running_statistics_are_the_same_to_the_bit(name, dtype):
    whole, none = step(name, 0, dtype, None)
    parts, some = step(name, FAMILIES[name][1], dtype, None)
    assert_same(parts, whole)
    assert none == 0 < some
    assert any(tensor.abs().max() > 0 for key, tensor in parts.items() if key.startswith("gradient"))


def lstm_in_bfloat16():
    """True if this machine has one: oneDNN needs AVX-512."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(3, 4, batch_first=True)(torch.zeros(2, 5, 3))
    except RuntimeError as error:
        if "could not create a primitive" in str(error):
            return False
        raise
    return True


@pytest.mark.parametrize("name", ["wrn", "transformer", "lstm"])
@pytest.mark.parametrize(
    "settings",
    [{"micro_batch": 2}, {"dtype": torch.bfloat16}, {"micro_batch": 2, "dtype": torch.bfloat16, "clip_norm": 1e-3}],
    ids=str,
)
def test_also_in_micro_batches_and_under_autocast(name, settings):
    if name == "lstm" and "dtype" in settings and not lstm_in_bfloat16():
        pytest.skip("torch has no LSTM in bfloat16 for this processor")
    whole, _ = step(name, 0, torch.float32, Execution(**settings))
    parts, some = step(name, FAMILIES[name][1], torch.float32, Execution(**settings))
    assert_same(parts, whole)
    assert some


def test_the_masks_are_those_of_the_forward_pass_whatever_has_been_drawn_since():
    gradients = []
    for segments in (0, 3):
        model = built("wrn", segments, torch.float64)
        draw = layers.place_dropout(model, torch.device("cpu"))
        losses = []
        for position in (0, 4):
            draw[0], draw[1] = 11, position
            losses.append(model(batch("wrn", torch.float64)[0]).square().sum())
        losses[0].backward()  # when the draw is that of the second pass
        gradients.append([parameter.grad for parameter in model.parameters()])
        assert draw.tolist() == [11, 4]
        assert all(layer.draw is draw for layer in model.modules() if isinstance(layer, layers.Dropout))
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("recording", ["follow", "record", "hold"])
def test_batch_norm_records_the_forward_pass_only(recording):
    torch.manual_seed(0)
    model = nn.Sequential(layers.BatchNorm(3), nn.Tanh(), layers.BatchNorm(3), nn.Tanh())
    divide(model, 2)
    inputs, norms = torch.randn(8, 3), layers.batch_norms(model)
    expected = 0.1 * inputs.mean(0)
    for norm in norms:
        norm.recording = recording
    model(inputs).square().sum().backward()
    assert [norm.recording for norm in norms] == [recording] * 2
    assert [len(norm.recorded) for norm in norms] == [recording == "record"] * 2
    layers.commit_batch_norms(norms)
    torch.testing.assert_close(norms[0].running_mean, expected if recording != "hold" else torch.zeros(3))


def test_torchs_own_batch_norm_counts_one_batch_a_step():
    model = nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6, momentum=None), nn.Tanh())
    network_model = Network(model).model
    divide(network_model, 2)
    seen = recomputed(network_model)
    inputs, targets = batch("mlp")
    objective = Objective(Network(network_model), CrossEntropy(), inputs.flatten(1), targets % 6)
    for _ in range(2):
        objective()
    objective.finish()
    assert seen
    assert [int(network_model[place].num_batches_tracked) for place in (1, 2)] == [1, 1]


# ---- products, and the statistics of layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wrn", "mlp", "rnn", "transformer"])
def test_products_are_those_of_the_model_without_segments(name):
    found = []
    for segments in (0, FAMILIES[name][1]):
        model = built(name, segments, torch.float64)
        objective = objective_of(name, model, Execution(micro_batch=2), torch.float64)
        generator = torch.Generator().manual_seed(8)
        vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in objective.network.parameters]
        products = {
            "gradient": objective.gradient(),
            "hvp": objective.hvp(vector),
            "ggnvp": objective.ggnvp(vector),
            "fisher": objective.empirical_fisher_vp(vector),
            "jvp": [objective.jvp(vector)],
            "vjp": objective.vjp(objective.outputs()),
            "quadratic": [objective.quadratic([vector, objective.gradient()])],
            "last layer": objective.last_layer_gradients(),
            "losses": [objective.per_example_losses()],
            "samples": [objective.sample_targets(3)],
        }
        if name == "mlp":
            products["jacobian"] = [objective.jacobian()]
        objective()  # a product leaves the segments of training as they were
        assert all(chain.kept == frozenset() for chain in chains(model))
        found.append({f"{key} {n}": part for key, parts in products.items() for n, part in enumerate(parts)})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("targets", ["sampled", "exact", "empirical"])
def test_layers_inputs_and_derivatives_are_counted_once(targets):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    divide(model, 2)  # a recomputation ends before the hook of the segment's last layer, but not of those before it
    inputs, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    objective = Objective(Network(model), CrossEntropy(), inputs, labels, Execution(micro_batch=3))
    found, _ = find_layers(model)
    sums = FactorSums(found)
    assert can_collect_in_training(objective, found, targets)
    evaluate_and_collect(objective, found, [sums], targets, key=7)
    factors = sums.means(objective.execution, 6)
    assert sums.positions == [1, 1, 1]  # calls of each layer in a pass
    # a a^T with a one for the bias, and g g^T, by hand.
    hidden = torch.tanh(model[0](inputs)).detach()
    for number, values in enumerate([inputs, hidden, torch.tanh(model[2](hidden)).detach()]):
        ones = torch.cat([values, torch.ones(6, 1, dtype=torch.float64)], dim=1)
        torch.testing.assert_close(factors.inputs[number][0], ones.T @ ones / 6)
    probabilities = model(inputs).softmax(1).detach()
    if targets == "exact":
        last = torch.diag_embed(probabilities) - probabilities.unsqueeze(2) * probabilities.unsqueeze(1)
    elif targets == "empirical":
        rows = probabilities - nn.functional.one_hot(labels, 2)
        last = rows.unsqueeze(2) * rows.unsqueeze(1)
    else:
        rows = probabilities - nn.functional.one_hot(objective.sample_targets(7), 2)
        last = rows.unsqueeze(2) * rows.unsqueeze(1)
    torch.testing.assert_close(factors.outputs[2][0], last.mean(0))
    passes = FactorSums(found)
    collect(objective, found, [passes], targets, key=7)
    for one, other in zip(factors.outputs, passes.means(objective.execution, 6).outputs, strict=True):
        torch.testing.assert_close(one, other)


# ---- the chain ---------------------------------------------------------------------------------------------------------------


class TwoChains(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, inputs):
        return self.head(self.body(inputs))


class Named(TwoChains):
    def __init__(self):
        super().__init__()
        self.blocks = self.head
        del self.head

    def forward(self, inputs):
        return self.blocks(self.body(inputs))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])


class Own(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.Linear(4, 4))


class Residual(Own):
    def forward(self, inputs):
        return inputs + super().forward(inputs)


def test_it_is_the_longest_sequential_child_or_blocks_or_the_model_itself():
    for make, part, lengths in ((TwoChains, "body", (1, 2)), (Named, "blocks", (1, 1)), (Own, "", (1, 1))):
        model = make()
        before = [name for name, _ in model.named_parameters()]
        divide(model, 2)
        (chain,) = chains(model)
        assert chain is model.get_submodule(part)
        assert chain.lengths == lengths
        assert [name for name, _ in model.named_parameters()] == before == [*model.state_dict()]
    assert type(model).__name__ == "Own"
    assert isinstance(model, Own)


def test_a_copy_passes_through_its_own_layers():
    model = TwoChains()
    divide(model, 2)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.body[0].weight.zero_()
        twin.body[0].bias.zero_()
    inputs = torch.randn(3, 4)
    assert len(twin(inputs).unique(dim=0)) == 1 < len(model(inputs).unique(dim=0))
    twin(inputs).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modules_in_several_places_and_such_that_overwrite_their_inputs():
    gradients = []
    for segments in (0, 3):
        torch.manual_seed(5)
        act = nn.ELU(inplace=True)
        model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), nn.Conv1d(1, 1, 1), act, nn.Linear(4, 1))
        divide(model, segments)
        model(torch.randn(3, 1, 4)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert chains(model)[0].lengths == (2, 2, 2)  # the last one begins with the activation
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("make", [Loop, Residual, lambda: nn.Linear(4, 4)])
def test_a_model_without_a_chain_is_one_message(make):
    with pytest.raises(
        UserError, match=r"model\.checkpointing=2: \w+ has no chain of layers; accepted: 0, or .*`blocks`"
    ):
        divide(make(), 2)
    divide(make(), 0)


def test_more_segments_than_blocks_is_one_message():
    with pytest.raises(
        UserError, match=r"model\.checkpointing=4: the chain of TwoChains has 3 blocks; accepted: 0 to 3"
    ):
        divide(TwoChains(), 4)
    divide(TwoChains(), 3)


# ---- memory ------------------------------------------------------------------------------------------------------------------


def bytes_kept(model, inputs):
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(inputs)
    del outputs
    return sum(kept.values())


def test_segments_keep_their_inputs_alone():
    model = nn.Sequential(*(module for _ in range(16) for module in (nn.Linear(256, 256), nn.Tanh())))
    inputs = torch.randn(64, 256)
    one = 64 * 256 * 4
    assert bytes_kept(model, inputs) == 17 * one  # the inputs, and the outputs of each Tanh
    divide(model, 4)
    assert bytes_kept(model, inputs) == 4 * one
    with keeping(chains(model), frozenset({1})):
        assert (
            bytes_kept(model, inputs) == (4 + 3) * one
        )  # and the outputs of three of its four Tanh; the last is an input
    with keeping(chains(model)):
        assert bytes_kept(model, inputs) == 17 * one
