"""Image models and autoencoders: counts, shapes, structure against forward passes written by hand, and mistakes."""

import functools
import importlib
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models import layers
from optbench.models.autoencoder import Autoencoder
from optbench.models.preresnet import PreActivationBlock, basic, project
from optbench.models.resnet import PaddedShortcut, ResidualBlock, projection
from optbench.models.resnet import basic as plain_basic
from optbench.models.shapes import Enlarge

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = {
    path.stem: options
    for path in sorted(CONF.glob("[!_]*.yaml"))
    if "image" in (options := yaml.safe_load(path.read_text()))["info"]["accepts"]
    and not options["_target_"].startswith("optbench.models.recurrent.")
}
# Deeper members of a family that has a quick one: their forward passes run with the slow tests.
DEEP = [
    "vgg13",
    "vgg16",
    "vgg19",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "preresnet164",
    "preresnet1001",
]
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in MODELS]
MNIST, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)
SHAPES = [
    *itertools.product(
        (name for name in MODELS if name not in DEEP), [(1, 8, 8), MNIST, CIFAR, (3, 64, 64), (3, 40, 24)]
    ),
    *(pytest.param(name, CIFAR, marks=pytest.mark.slow) for name in DEEP),
]


def images(shape=CIFAR, outputs=10):
    return DataSpec("image", shape, outputs)


def target(name):
    module, _, cls = MODELS[name]["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), cls)


def options(name):
    return {key: value for key, value in MODELS[name].items() if key not in ("_target_", "name", "info")}


def build(name, shape=CIFAR, outputs=10, **overrides):
    return target(name)(images(shape, outputs), **(options(name) | overrides))


@functools.cache
def on_meta(name):
    """The default model without its numbers, for reading only."""
    with torch.device("meta"):
        return build(name)


def build_quick(name):
    """A model for 8 x 8 images; the default wide network has 36 million weights, this one is shallower and narrower."""
    return build(name, (1, 8, 8), **({"depth": 10, "width": 2} if name == "wrn" else {}))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


VGG_BN = {
    11: (9_231_114, 9_277_284),
    13: (9_416_010, 9_462_180),
    16: (14_728_266, 14_774_436),
    19: (20_040_522, 20_086_692),
}
VGG_PLAIN = {11: 9_225_610, 13: 9_410_122, 16: 14_719_818, 19: 20_029_514}
VGG_UNBIASED = {11: 9_228_362, 13: 9_413_066, 16: 14_724_042, 19: 20_035_018}
CIFAR_RESNET = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
CIFAR_RESNET_B = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714}
WRN = {
    (16, 4): (2_748_890, 2_772_020),
    (16, 8): (10_961_370, 11_007_540),
    (28, 10): (36_479_194, 36_536_884),
    (40, 2): (2_243_546, 2_255_156),
    (40, 4): (8_949_210, 8_972_340),
}
COUNTS = [
    *[(f"vgg{d}", {}, CIFAR, k, n) for d, pair in VGG_BN.items() for k, n in zip((10, 100), pair, strict=True)],
    *[(f"vgg{d}", {"batch_norm": False}, CIFAR, 10, n) for d, n in VGG_PLAIN.items()],
    *[(f"vgg{d}", {"conv_bias": False}, CIFAR, 10, n) for d, n in VGG_UNBIASED.items()],
    ("vgg16", {"head": [512, 512]}, CIFAR, 10, 15_253_578),
    ("vgg16", {"head": [512, 512]}, CIFAR, 100, 15_299_748),
    ("vgg16", {"head": [4096, 4096]}, CIFAR, 10, 33_646_666),
    ("vgg16", {"head": [4096, 4096]}, CIFAR, 100, 34_015_396),
    ("resnet18", {}, CIFAR, 10, 11_173_962),
    ("resnet18", {}, CIFAR, 100, 11_220_132),
    ("resnet34", {}, CIFAR, 10, 21_282_122),
    ("resnet50", {}, CIFAR, 10, 23_520_842),
    ("resnet18", {"stem": "imagenet"}, CIFAR, 10, 11_181_642),
    ("resnet18", {"stem": "imagenet"}, CIFAR, 100, 11_227_812),
    ("resnet18", {"stem": "imagenet"}, IMAGENET, 1000, 11_689_512),
    ("resnet50", {"stem": "imagenet"}, IMAGENET, 1000, 25_557_032),
    *[(f"resnet{d}", {}, CIFAR, k, n + more) for d, n in CIFAR_RESNET.items() for k, more in ((10, 0), (100, 5850))],
    *[
        (f"resnet{d}", {"shortcut": "B"}, CIFAR, k, n + more)
        for d, n in CIFAR_RESNET_B.items()
        for k, more in ((10, 0), (100, 5850))
    ],
    # 36 + 8 for the stem, 2 * (144 + 8), 288 + 576 + 32 and 1152 + 2304 + 64 for the stages, 170 for the head.
    ("resnet_narrow", {}, MNIST, 10, 4_934),
    ("resnet_narrow", {"depth": 20, "width": 16}, CIFAR, 10, 269_722),
    ("preresnet110", {}, CIFAR, 10, 1_727_962),
    ("preresnet110", {}, CIFAR, 100, 1_733_812),
    ("preresnet110", {"shortcut": "B"}, CIFAR, 10, 1_730_522),
    ("preresnet110", {"shortcut": "B"}, CIFAR, 100, 1_736_372),
    ("preresnet164", {}, CIFAR, 10, 1_703_258),
    ("preresnet164", {}, CIFAR, 100, 1_726_388),
    ("preresnet1001", {}, CIFAR, 10, 10_327_706),
    *[
        ("wrn", {"depth": d, "width": w}, CIFAR, k, n)
        for (d, w), pair in WRN.items()
        for k, n in zip((10, 100), pair, strict=True)
    ],
    ("allcnnc", {}, CIFAR, 10, 1_369_738),
    ("allcnnc", {}, CIFAR, 100, 1_387_108),
    ("lenet5", {}, (1, 32, 32), 10, 61_706),
    ("lenet5", {}, MNIST, 10, 61_706),
    ("lenet5", {}, CIFAR, 10, 62_006),
    ("lenet5", {"padded": False}, MNIST, 10, 44_426),
    ("caffe_lenet", {}, MNIST, 10, 431_080),
    ("2c2d", {}, MNIST, 10, 3_274_634),
    ("3c3d", {}, CIFAR, 10, 895_210),
    ("3c3d", {}, CIFAR, 100, 918_340),
    ("logreg", {}, MNIST, 10, 7_850),
    ("mlp", {}, MNIST, 10, 784 * 128 + 128 + 128 * 10 + 10),
    ("mlp", {"hidden": []}, MNIST, 10, 7_850),
    ("mlp", {"hidden": [1000, 500, 100]}, MNIST, 10, 1_336_610),
    ("keskar_f1", {}, MNIST, 10, 1_462_794),
    ("keskar_f1", {"layers": 7}, (1, 1, 360), 1973, 2_780_085),  # F2
    ("keskar_c1", {}, CIFAR, 10, 1_757_834),
    ("keskar_c1", {}, CIFAR, 100, 1_775_204),
    ("keskar_c2", {}, CIFAR, 10, 14_991_946),
    ("keskar_c2", {}, CIFAR, 100, 15_038_116),
    # 3 * 9 * 16 + 16 * 9 * 32 + 32 * 9 * 64 weights, 2 * 112 of batch norm or 112 biases, 65 for each class.
    ("convnet", {}, CIFAR, 10, 24_346),
    ("convnet", {}, CIFAR, 100, 30_196),
    ("convnet", {"batch_norm": False}, CIFAR, 10, 24_234),
    ("convnet", {"channels": [8]}, CIFAR, 10, 322),
    ("hoffer_shallow", {}, CIFAR, 10, 1_388_490),
    ("hoffer_shallow", {}, CIFAR, 100, 1_405_860),
    ("autoencoder_curves", {}, MNIST, 10, 842_340),
    ("autoencoder_mnist", {}, MNIST, 10, 2_837_314),
    ("autoencoder_faces", {}, (1, 25, 25), 10, 7_537_655),
]


@pytest.mark.parametrize(
    ("name", "overrides", "shape", "outputs", "expected"),
    COUNTS,
    ids=[f"{name}-{overrides}-{shape}-{outputs}" for name, overrides, shape, outputs, _ in COUNTS],
)
def test_parameter_count(name, overrides, shape, outputs, expected):
    with torch.device("meta"):
        assert count(build(name, shape, outputs, **overrides)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_yaml_lists_exactly_the_options_of_the_class(name):
    signature = list(inspect.signature(target(name)).parameters)
    info = MODELS[name]["info"]
    assert signature[0] == "data"
    assert set(signature[1:]) == set(options(name)) == set(info["schema"])
    assert MODELS[name]["name"] == name
    assert bool(layers.batch_norms(on_meta(name))) == info["batch_norm"]
    assert isinstance(on_meta(name), Autoencoder) == info.get("reconstructs", False)


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=str)
def test_output_shape(name, shape):
    with torch.device("meta"):
        model, outputs = build(name, shape, 7), model_outputs(name, shape, 7)
        assert model(torch.empty(5, *shape)).shape == (5, outputs)


def model_outputs(name, shape, classes):
    return int(np.prod(shape)) if MODELS[name]["info"].get("reconstructs") else classes


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("resnet18", {"stem": "imagenet"}),
        ("resnet50", {"stem": "imagenet"}),
        ("allcnnc", {}),
        ("wrn", {"width": 1}),
        ("preresnet164", {}),
        ("vgg16", {"head": [4096, 4096]}),
    ],
)
def test_imagenet_shape(name, overrides):
    with torch.device("meta"):
        assert build(name, IMAGENET, 1000, **overrides)(torch.empty(2, *IMAGENET)).shape == (2, 1000)


@pytest.mark.parametrize("name", EACH)
def test_gradients_reach_every_parameter_and_equal_seeds_give_equal_models(name):
    torch.manual_seed(0)
    model = build_quick(name)
    torch.manual_seed(0)
    twin = build_quick(name).state_dict()
    assert all(torch.equal(value, twin[key]) for key, value in model.state_dict().items())
    torch.manual_seed(1)
    outputs = model(torch.rand(8, 1, 8, 8))
    (outputs * torch.randn_like(outputs)).sum().backward()
    normalized = bool(layers.batch_norms(model))
    for key, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            assert parameter.grad is not None, f"{key}.{kind}"
            assert torch.isfinite(parameter.grad).all(), f"{key}.{kind}"
            # Batch norm takes away what a bias before it adds: that gradient is zero to rounding.
            if not (normalized and kind == "bias" and isinstance(module, nn.Conv2d | nn.Linear)):
                assert parameter.grad.any(), f"{key}.{kind}"


@pytest.mark.parametrize("name", EACH)
def test_an_example_does_not_depend_on_the_others_in_eval_mode(name):
    torch.manual_seed(0)
    model = build_quick(name).double().eval()
    batch = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_only_layers_that_do_not_depend_on_how_a_batch_is_cut(name):
    forbidden = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for module in on_meta(name).modules():
        assert not isinstance(module, forbidden)
        assert not getattr(module, "inplace", False)


@pytest.mark.parametrize(
    "name",
    [
        "3c3d",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ["lenet5", "vgg11", "resnet18", "resnet20", "wrn"]),
    ],
)
def test_traces_without_graph_breaks(name):
    model = build_quick(name).eval()
    batch = torch.rand(2, 1, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch), model(batch))


# ---- small inputs ----


def test_enlarge_repeats_pixels_then_pads_with_zeros():
    pixels = np.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    layer = Enlarge(3, 4, 9)
    expected = np.pad(np.kron(pixels, np.ones((2, 2))), [(0, 0), (0, 0), (1, 2), (0, 1)])
    np.testing.assert_array_equal(layer(torch.tensor(pixels)).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "overrides", "minimum"),
    [
        ("lenet5", {"padded": False}, 16),
        ("caffe_lenet", {}, 16),
        ("3c3d", {}, 16),
        ("hoffer_shallow", {}, 7),
        ("allcnnc", {}, 9),
        ("vgg11", {}, 32),
        ("keskar_c2", {}, 32),
    ],
)
def test_images_are_enlarged_only_below_the_smallest_size_that_works(name, overrides, minimum):
    with torch.device("meta"):
        model = build(name, (1, minimum, minimum), **overrides).eval()
        assert isinstance(model.enlarge, nn.Identity)
        with pytest.raises(RuntimeError, match="size"):
            model.features(torch.empty(1, 1, minimum - 1, minimum - 1))
        smaller = build(name, (1, minimum - 1, minimum - 1), **overrides)
        assert smaller.enlarge(torch.empty(1, 1, minimum - 1, minimum - 1)).shape == (1, 1, minimum, minimum)


@pytest.mark.parametrize("name", ["lenet5", "vgg11"])
def test_28_by_28_gets_a_border_of_two_zeros(name):
    small, large = build(name, MNIST).eval(), build(name, (1, 32, 32)).eval()
    large.load_state_dict(small.state_dict())
    batch = torch.rand(2, *MNIST)
    torch.testing.assert_close(small(batch), large(F.pad(batch, (2, 2, 2, 2))))


# ---- structure, against forward passes written out by hand ----


def weights(module, kind):
    return [child for child in module.modules() if isinstance(child, kind)]


def perturb_norms(module):
    """Give every batch norm statistics and an affine map that are not the identity, and switch to eval mode.

    The weights have both signs: a batch norm with positive ones could change places with a max pool unnoticed.
    """
    for norm in layers.batch_norms(module):
        for tensor in (norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(-1.5, 1.5)
    return module.double().eval()


def normalize(x, norm):
    affine = [t.view(1, -1, *[1] * (x.ndim - 2)) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    mean, variance, weight, bias = affine
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 6, 1), (4, 6, 2), (4, 4, 1)])
def test_pre_activation_shortcut_reads_the_activated_input_exactly_where_the_width_changes(inputs, outputs, stride):
    change = None if inputs == outputs else project(inputs, outputs, stride)
    block = perturb_norms(PreActivationBlock(inputs, basic(inputs, outputs, stride), change))
    first, second = layers.batch_norms(block)
    convolutions = [c.weight for c in weights(block.residual, nn.Conv2d)]
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)
    activated = normalize(x, first).clamp(min=0)
    hidden = normalize(F.conv2d(activated, convolutions[0], stride=stride, padding=1), second).clamp(min=0)
    kept = x if change is None else F.conv2d(activated, change.weight, stride=stride)
    torch.testing.assert_close(block(x), kept + F.conv2d(hidden, convolutions[1], padding=1))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 6, 2), (4, 4, 1)])
def test_residual_block_with_projection(inputs, outputs, stride):
    residual, shortcut = plain_basic(inputs, outputs, stride), projection(inputs, outputs, stride)
    block = perturb_norms(ResidualBlock(residual, shortcut))
    norms, convolutions = layers.batch_norms(block), [c.weight for c in weights(block, nn.Conv2d)]
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)
    hidden = normalize(F.conv2d(x, convolutions[0], stride=stride, padding=1), norms[0]).clamp(min=0)
    kept = x if inputs == outputs else normalize(F.conv2d(x, convolutions[2], stride=stride), norms[2])
    expected = (normalize(F.conv2d(hidden, convolutions[1], padding=1), norms[1]) + kept).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


def test_shortcut_a_subsamples_and_appends_zeros():
    shortcut = PaddedShortcut(2, 4, 2)
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 6))
    expected = np.concatenate([x[:, :, ::2, ::2], np.zeros((3, 2, 3, 3))], axis=1)
    assert not list(shortcut.parameters())
    np.testing.assert_array_equal(shortcut(torch.tensor(x)).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "overrides", "depth", "shortcut_kernels"),
    [
        ("resnet18", {}, 18, 3),
        ("resnet34", {}, 34, 3),
        ("resnet50", {}, 50, 4),
        ("resnet50", {"depth": 101}, 101, 4),
        ("resnet50", {"depth": 152}, 152, 4),
        ("resnet44", {"shortcut": "B"}, 44, 2),
        ("resnet110", {}, 110, 0),
        ("preresnet110", {}, 110, 0),
        ("preresnet164", {}, 164, 3),
        ("vgg16", {"head": [4096, 4096]}, 16, 0),
        ("vgg19", {"head": [4096, 4096]}, 19, 0),
        ("wrn", {"depth": 40, "width": 2}, 38, 3),  # 40 counts the three shortcuts, and not the last layer
    ],
)
def test_depth_is_the_number_of_weight_layers_outside_of_shortcuts(name, overrides, depth, shortcut_kernels):
    with torch.device("meta"):
        model = build(name, **overrides)
    assert len(weights(model, nn.Conv2d | nn.Linear)) == depth + shortcut_kernels


def trace_sizes(name, kinds, shape=CIFAR, **overrides):
    """The heights of what each layer of the given kinds puts out."""
    sizes = []
    with torch.device("meta"):
        model = build(name, shape, **overrides)
        for module in weights(model, kinds):
            module.register_forward_hook(lambda module, inputs, outputs: sizes.append(outputs.shape[-1]))
        model(torch.empty(2, *shape))
    return sizes


@pytest.mark.parametrize(
    ("name", "kinds", "shape", "sizes"),
    [
        ("allcnnc", nn.Conv2d, CIFAR, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
        ("3c3d", nn.Conv2d | nn.MaxPool2d, CIFAR, [28, 14, 12, 6, 6, 3]),
        ("2c2d", nn.MaxPool2d, MNIST, [14, 7]),
        ("2c2d", nn.MaxPool2d, (1, 30, 30), [15, 8]),
        ("keskar_c1", nn.MaxPool2d, CIFAR, [16, 8]),
        ("hoffer_shallow", nn.MaxPool2d, CIFAR, [15, 7]),
        ("convnet", nn.MaxPool2d, MNIST, [14, 7, 4]),
        ("vgg16", nn.MaxPool2d, CIFAR, [16, 8, 4, 2, 1]),
        ("wrn", PreActivationBlock, CIFAR, [32] * 4 + [16] * 4 + [8] * 4),
        ("preresnet164", PreActivationBlock, CIFAR, [32] * 18 + [16] * 18 + [8] * 18),
        ("resnet20", ResidualBlock, CIFAR, [32] * 3 + [16] * 3 + [8] * 3),
        ("resnet18", ResidualBlock, CIFAR, [32] * 2 + [16] * 2 + [8] * 2 + [4] * 2),
    ],
)
def test_sizes_on_the_way(name, kinds, shape, sizes):
    assert trace_sizes(name, kinds, shape) == sizes


def test_imagenet_stem_brings_224_to_56_and_the_last_stage_to_7():
    assert trace_sizes("resnet50", ResidualBlock, IMAGENET, stem="imagenet") == [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3


def test_hoffer_pools_before_batch_norm():
    model = perturb_norms(build("hoffer_shallow", (1, 9, 9)))
    norms = layers.batch_norms(model)
    convolutions, linear = [c.weight for c in weights(model, nn.Conv2d)], weights(model, nn.Linear)
    batch = x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    for kernel, norm in zip(convolutions, norms[:2], strict=True):
        x = normalize(F.max_pool2d(F.conv2d(x, kernel, padding=2), 3, 2), norm).clamp(min=0)
    x = x.flatten(1)
    for layer, norm in zip(linear[:2], norms[2:], strict=True):
        x = normalize(x @ layer.weight.T, norm).clamp(min=0)
    torch.testing.assert_close(model(batch), x @ linear[2].weight.T + linear[2].bias)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_convnet_by_hand(batch_norm):
    model = perturb_norms(build("convnet", (1, 9, 9), channels=[2, 3], batch_norm=batch_norm))
    norms = layers.batch_norms(model) if batch_norm else [None, None]
    batch = x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    for layer, norm in zip(weights(model, nn.Conv2d), norms, strict=True):
        x = F.max_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2, ceil_mode=True)
        x = (normalize(x, norm) if batch_norm else x).clamp(min=0)
    (head,) = weights(model, nn.Linear)
    torch.testing.assert_close(model(batch), x.mean((2, 3)) @ head.weight.T + head.bias)


def test_lenet5_by_hand():
    model = build("lenet5", (1, 32, 32)).double()
    first, second = weights(model, nn.Conv2d)
    batch = x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    for layer in (first, second):
        x = F.conv2d(x, layer.weight, layer.bias).tanh()
        x = x.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)
    x = x.flatten(1)
    for layer in weights(model, nn.Linear)[:2]:
        x = (x @ layer.weight.T + layer.bias).tanh()
    last = weights(model, nn.Linear)[2]
    torch.testing.assert_close(model(batch), x @ last.weight.T + last.bias)


def test_autoencoder_is_symmetric_with_a_linear_code_and_linear_outputs():
    model = Autoencoder(images((1, 3, 4)), hidden=[6, 5], code=2, activation="sigmoid").double()
    linear = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in weights(model, nn.Linear)]
    assert [weight.shape[0] for weight, _ in linear] == [6, 5, 2, 5, 6, 12]
    batch = np.random.default_rng(0).uniform(size=(4, 1, 3, 4))
    x = batch.reshape(4, 12)
    for number, (weight, bias) in enumerate(linear):
        x = x @ weight.T + bias
        if number not in (2, 5):
            x = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(model(torch.tensor(batch)).detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("final_relu", [False, True])
def test_all_cnn_c_averages_the_last_convolution_over_positions(final_relu):
    model = build("allcnnc", (1, 12, 12), final_relu=final_relu).eval()
    last = weights(model, nn.Conv2d)[-1]
    maps = []
    last.register_forward_hook(lambda module, inputs, outputs: maps.append(outputs))
    logits = model(torch.randn(3, 1, 12, 12))
    assert (maps[0] < 0).any()
    expected = maps[0].clamp(min=0) if final_relu else maps[0]
    torch.testing.assert_close(logits, expected.sum((2, 3)) / expected[0, 0].numel())


@pytest.mark.parametrize(
    ("name", "overrides", "probabilities"),
    [
        ("allcnnc", {}, [0.2, 0.5, 0.5]),
        ("hoffer_shallow", {}, [0.5, 0.5]),
        ("keskar_c1", {}, [0.5, 0.5]),
        ("keskar_c2", {}, [0.3] + [0.4] * 7 + [0.5] * 2),
        ("vgg16", {"head": [512, 512], "dropout": 0.5}, [0.5, 0.5]),
        ("wrn", {"depth": 16, "width": 1, "dropout": 0.3}, [0.3] * 6),
        ("wrn", {"depth": 16, "width": 1}, []),
    ],
)
def test_dropouts(name, overrides, probabilities):
    with torch.device("meta"):
        assert [layer.probability for layer in weights(build(name, **overrides), layers.Dropout)] == probabilities


def test_wide_resnet_drops_out_between_the_convolutions():
    with torch.device("meta"):
        block = weights(build("wrn", depth=10, width=1, dropout=0.3), PreActivationBlock)[0]
    kinds = [type(layer) for layer in [*block.activate, *block.residual]]
    once = [layers.BatchNorm, nn.ReLU]
    assert kinds == [*once, nn.Conv2d, *once, layers.Dropout, nn.Conv2d]


# ---- initial weights ----


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("resnet18", {}), ("resnet110", {"shortcut": "B"}), ("preresnet164", {}), ("wrn", {"depth": 10, "width": 4})],
)
def test_residual_networks_start_at_he_normal_fan_out(name, overrides):
    torch.manual_seed(0)
    model = build(name, **overrides)
    # Scaled by its standard deviation sqrt(2 / (k k C_out)), every weight is a draw from N(0, 1).
    scaled = torch.cat([(c.weight * (c.weight[:, 0].numel() / 2) ** 0.5).flatten() for c in weights(model, nn.Conv2d)])
    assert abs(scaled.mean()) < 6 / len(scaled) ** 0.5
    assert abs(scaled.var() - 1) < 6 * (2 / len(scaled)) ** 0.5
    assert abs((scaled**4).mean() - 3) < 6 * (96 / len(scaled)) ** 0.5
    assert not model.head.bias.any()
    assert all((norm.weight == 1).all() for norm in layers.batch_norms(model))


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet20", 9)])
def test_zero_final_gamma_makes_every_residual_vanish(name, blocks):
    found = weights(build(name, zero_final_gamma=True), ResidualBlock)
    assert len(found) == blocks
    for block in found:
        channels = weights(block.residual, nn.Conv2d)[0].in_channels
        assert not block.residual(torch.randn(2, channels, 4, 4)).any()


def test_2c2d_starts_as_in_deepobs():
    torch.manual_seed(0)
    for layer in weights(build("2c2d", MNIST), nn.Conv2d | nn.Linear):
        assert (layer.bias == 0.05).all()
        assert layer.weight.abs().max() <= 0.1
        # A standard normal variable cut off at +-2 has the variance 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737.
        assert layer.weight.std().item() == pytest.approx(0.05 * 0.7737**0.5, rel=0.1)


def test_3c3d_starts_as_in_deepobs():
    torch.manual_seed(0)
    model = build("3c3d")
    for layer in weights(model, nn.Conv2d | nn.Linear):
        fans = (layer.weight.shape[0] + layer.weight.shape[1]) * layer.weight[0, 0].numel()
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.1)
        # A uniform distribution ends at sqrt(3) standard deviations; a normal one of thousands of draws does not.
        bounded = layer.weight.abs().max() <= (6 / fans) ** 0.5
        assert bounded == isinstance(layer, nn.Linear)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("wrn", {"depth": 29}, r"model\.depth=29: must be 6n \+ 4: 10, 16, 22, 28"),
        ("wrn", {"depth": 4}, r"model\.depth=4"),
        ("wrn", {"width": 0}, r"model\.width=0"),
        ("wrn", {"dropout": 1.0}, r"model\.dropout=1\.0"),
        ("resnet20", {"depth": 21}, r"model\.depth=21: must be 6n \+ 2"),
        ("resnet20", {"shortcut": "C"}, r"model\.shortcut=C: must be one of A, B"),
        ("preresnet110", {"depth": 112}, r"model\.depth=112: with basic blocks must be 6n \+ 2"),
        ("preresnet164", {"depth": 163}, r"model\.depth=163: with bottlenecks must be 9n \+ 2"),
        ("preresnet164", {"block": "wide"}, r"model\.block=wide: must be one of basic, bottleneck"),
        ("preresnet164", {"shortcut": "C"}, r"model\.shortcut=C"),
        ("resnet18", {"depth": 20}, r"model\.depth=20: must be one of 18, 34, 50"),
        ("resnet18", {"stem": "tiny"}, r"model\.stem=tiny: must be one of cifar, imagenet"),
        ("vgg16", {"depth": 12}, r"model\.depth=12: must be 11, 13, 16 or 19"),
        ("vgg16", {"head": [512, 0]}, r"model\.head=\[512, 0\]"),
        ("vgg16", {"dropout": -0.1}, r"model\.dropout=-0\.1"),
        ("mlp", {"hidden": [0]}, r"model\.hidden=\[0\]: every width must be >= 1"),
        ("mlp", {"activation": "gelu"}, r"model\.activation=gelu: must be one of relu, tanh, sigmoid"),
        ("lenet5", {"pooling": "min"}, r"model\.pooling=min: must be one of average, max"),
        ("keskar_f1", {"layers": 0}, r"model\.layers=0"),
        ("keskar_f1", {"hidden": 0}, r"model\.hidden=0"),
        ("keskar_c1", {"dropout": 1.5}, r"model\.dropout=1\.5"),
        ("keskar_c2", {"dropout": [0.3]}, r"model\.dropout=\[0\.3\]: must be three"),
        ("keskar_c2", {"dropout": [0.3, 2, 0.5]}, r"model\.dropout=2"),
        ("hoffer_shallow", {"dropout": 1}, r"model\.dropout=1"),
        ("convnet", {"channels": []}, r"model\.channels=\[\]: must be one positive number"),
        ("convnet", {"channels": [8, 0]}, r"model\.channels=\[8, 0\]"),
        ("allcnnc", {"input_dropout": 1}, r"model\.input_dropout=1"),
        ("allcnnc", {"dropout": 1}, r"model\.dropout=1"),
        ("autoencoder", {"code": 0}, r"model\.code=0"),
        ("autoencoder", {"hidden": [-1]}, r"model\.hidden=\[-1\]"),
        ("autoencoder", {"activation": "elu"}, r"model\.activation=elu"),
    ],
)
def test_options_that_make_no_network(name, overrides, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build(name, **overrides)


@pytest.mark.parametrize("name", MODELS)
def test_data_that_is_not_images(name):
    with torch.device("meta"), pytest.raises(UserError, match="takes images"):
        target(name)(DataSpec("tokens", (50,), 83, vocabulary=83), **options(name))
