"""Divide the parameters of a model into groups with equal treatment."""

from typing import Any

from torch import nn

from optbench.errors import UserError


def require_model(model: object) -> None:
    """Raise UserError unless ``model`` is a model: a method that needs its layers cannot use its parameters."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the optimizer was given a {type(model).__name__} in place of a model; accepted: a torch.nn.Module, whose layers "
            "it has to know: KFAC(model), not KFAC(model.parameters())"
        )


def parameters_given(params: Any) -> Any:
    """``params`` for torch's optimizers; raises UserError for a model."""
    if isinstance(params, nn.Module):
        raise UserError(
            f"the optimizer was given a model ({type(params).__name__}) in place of parameters; accepted: model.parameters(), "
            "parameter groups, or the class method from_model(model) where there is one"
        )
    return params


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``model`` that require a gradient, shared ones once; raises UserError if it is not a model."""
    require_model(model)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def decay_groups(
    parameters: list[nn.Parameter], weight_decay: float, decay_norm_and_bias: bool, key: str = "weight_decay"
) -> list[dict[str, Any]]:
    """Parameter groups with ``weight_decay`` under ``key``: matrices and kernels, then biases and norm scales.

    The second group (tensors of fewer than two dimensions) gets 0 unless ``decay_norm_and_bias``. No group is empty, and
    there is only one if both have equal decay, because an optimizer's kernels run once for each group.
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
    require_model(model)
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
