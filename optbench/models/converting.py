"""Convert foreign models: replace torch's batch norm and dropout, and refuse other layers that depend on the micro-batch.

The result of training must depend neither on the micro-batch nor on the ranks. torch's batch norm normalizes the examples that
are passed together, and its dropout draws from one stream; the two layers in `optbench.models.layers` keep the promise.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from optbench.errors import UserError
from optbench.models import layers
from optbench.system.saying import say_once

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DRAWS = "draws from torch's generator, one stream for all examples"
_BY_BATCH = "changes its own state with every micro-batch"
_REFUSED: dict[type, str] = {
    **dict.fromkeys(
        (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU), _DRAWS
    ),
    **dict.fromkeys((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), _DRAWS),
    nn.utils.parametrizations._SpectralNorm: f"{_BY_BATCH} (power iteration)",
    nn.modules.lazy.LazyModuleMixin: "has no parameters before it has seen data; state its sizes",
    nn.modules.batchnorm._BatchNorm: "is a batch norm of its own kind; use optbench.models.layers.BatchNorm",
}


class ConvertedBatchNorm(layers.BatchNorm):
    """The replacement of torch's batch norm: the same parameters and buffers, with the groups of ``layers.BatchNorm``."""

    num_batches_tracked: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, 0.0 if norm.momentum is None else norm.momentum, norm.eps)
        self.cumulative = norm.momentum is None
        self.weight, self.bias = norm.weight, norm.bias  # None without affine parameters
        self.running_mean, self.running_var = norm.running_mean, norm.running_var  # type: ignore[assignment]
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.train(norm.training)

    @torch.no_grad()
    def move(self, mean: Tensor, variance: Tensor) -> None:
        """As in ``layers.BatchNorm``; with torch's ``momentum=None`` the statistics are the mean over all steps."""
        self.num_batches_tracked += 1
        if self.cumulative:
            self.momentum = 1 / float(self.num_batches_tracked)
        super().move(mean, variance)


def converted(model: nn.Module) -> nn.Module:
    """Replace torch's batch norms and dropouts in ``model``, in place; use the result, as the model itself may be replaced.

    Parameters and buffers stay the same tensors, and the state_dict keeps its names. Prints once, in a line on stderr, the
    replaced layers. Functions such as F.dropout cannot be found here: a run tests the model once, and refuses one that draws
    (``optbench.training.task``).

    Raises UserError for a module that cannot be replaced and whose result would depend on the division of the batch.
    """
    counts: dict[str, int] = {}
    replaced: dict[int, nn.Module] = {}  # one module may occur in several places

    def replacement(module: nn.Module, path: str) -> nn.Module:
        if id(module) not in replaced:
            replaced[id(module)] = own = _converted(module, path)
            if own is not module:
                counts[type(module).__name__] = counts.get(type(module).__name__, 0) + 1
        return replaced[id(module)]

    for path, module in list(model.named_modules()):
        for name, child in list(module._modules.items()):  # named_children leaves out repeated modules
            if child is None:
                continue
            new = replacement(child, f"{path}.{name}" if path else name)
            if new is not child:
                setattr(module, name, new)
    model = replacement(model, "")
    if counts:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        say_once(
            f"{type(model).__name__}: {kinds} replaced by those of optbench.models.layers, which do not depend on the "
            "micro-batch; batch norm normalizes groups of norm_batch examples"
        )
    return model


@torch.no_grad()
def check_passes(model: nn.Module, inputs: Tensor) -> None:
    """Pass ``inputs`` through ``model`` twice; raise UserError if it draws, or changes a buffer or parameter.

    This finds cases that no list of layers can name: F.dropout in a forward method, or statistics that a layer keeps for
    itself. The dropout layers of ``model`` must be placed, and its batch norms must hold their running statistics. Changes
    only in the first pass, such as a cached mask, are allowed. If the model raises, the training will record the failure.
    """

    def state() -> dict[str, tuple[int, int]]:
        named = (*model.named_parameters(), *model.named_buffers())
        return {name: (id(tensor), tensor._version) for name, tensor in named}

    generator, before = torch.get_rng_state(), state()
    try:
        model(inputs)
        before = state()
        model(inputs)
    except Exception:
        return
    finally:
        drawn = not torch.equal(torch.get_rng_state(), generator)
        torch.set_rng_state(generator)
    if drawn:
        raise UserError(
            f"model: {type(model).__name__} {_DRAWS}, in training, so results would depend on the micro-batch and the ranks; "
            "accepted: dropout as a module (torch.nn.Dropout or optbench.models.layers.Dropout), not as a function"
        )
    changed = [name for name, seen in state().items() if before.get(name) != seen]
    if changed:
        raise UserError(
            f"model: {type(model).__name__} changes its own {changed[0]} in every pass, so results would depend on the "
            "micro-batch and the ranks; accepted: running statistics of batch norm (torch's or optbench.models.layers')"
        )


def _converted(module: nn.Module, path: str) -> nn.Module:
    if type(module) in _NORMS:
        norm: Any = module
        if not norm.track_running_stats or norm.running_mean is None:
            raise _refusal(path, module, "has no running statistics, so its outputs in eval mode depend on the batch")
        return ConvertedBatchNorm(norm)
    if type(module) is nn.Dropout:
        if not 0 <= module.p < 1:
            raise _refusal(path, module, f"has p={module.p}; must be in [0, 1)")
        dropout = layers.Dropout(module.p)
        return dropout.train(module.training)
    _refuse(module, path)
    return module


def _refuse(module: nn.Module, path: str) -> None:
    """Raise UserError for a module whose result depends on the division of a batch."""
    if isinstance(module, layers.BatchNorm | layers.Dropout):
        return
    for kind, why in _REFUSED.items():
        if isinstance(module, kind):
            raise _refusal(path, module, why)
    if isinstance(module, nn.Dropout):
        raise _refusal(path, module, _DRAWS)
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout:
        raise _refusal(path, module, f"{_DRAWS}, by its dropout={module.dropout}; set it to 0")
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
        raise _refusal(path, module, f"{_BY_BATCH}; set track_running_stats=False")
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        raise _refusal(path, module, "rescales on each rank the rows that this rank looks up; set max_norm=None")
    hooks = module._forward_pre_hooks.values()
    if any(isinstance(hook, SpectralNorm) for hook in hooks):
        raise _refusal(path, module, f"{_BY_BATCH} (power iteration of spectral_norm)")


def _refusal(path: str, module: nn.Module, why: str) -> UserError:
    return UserError(
        f"model: its part {path or 'itself'} ({type(module).__name__}) {why}, so results would depend on the micro-batch or the "
        "ranks; accepted: torch's BatchNorm and Dropout (which are replaced), optbench.models.layers, and layers that treat "
        "each example by itself"
    )
