"""Which parameters of a model are treated alike."""

from typing import Any

from torch import nn


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``model`` that require a gradient, shared ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def decay_groups(
    parameters: list[nn.Parameter], weight_decay: float, decay_norm_and_bias: bool, key: str = "weight_decay"
) -> list[dict[str, Any]]:
    """Parameter groups with ``weight_decay`` under ``key``: matrices and kernels, then biases and norm scales.

    The second group (tensors of fewer than two dimensions) gets 0 unless ``decay_norm_and_bias``. No group is empty, and
    where both decay alike there is one: an optimizer's kernels run once for each group.
    """
    if decay_norm_and_bias or weight_decay == 0:
        return [{"params": parameters, key: weight_decay}]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, key: weight_decay},
        {"params": vectors, key: 0.0},
    ]
    return [group for group in groups if group["params"]]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trainable weights of two or more dimensions that are neither an embedding nor the model's head.

    The head is the last module, in the order of registration, that owns such a weight.
    """
    head: list[nn.Parameter] = []
    for module in model.modules():
        owned = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
        head = owned or head
    embedded = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    excluded = embedded | set(head)
    return [weight for weight in trainable(model) if weight.ndim > 1 and weight not in excluded]
