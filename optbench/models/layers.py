"""Layers whose result does not depend on the division of a batch into micro-batches or over ranks.

The standard batch norm depends on the examples that are passed together, and the standard dropout draws its masks from a
stream. Here the groups that are normalized together are fixed by ``norm_batch``, and every mask element is a pure function of
(seed, step, layer, position in the global batch).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from optbench import randomness

MeansOverRanks = Callable[[Sequence[Sequence[Tensor]]], Sequence[Sequence[Tensor]]]


class BatchNorm(nn.Module):
    """Ghost batch norm over inputs (examples, channels, *positions), separately for each group of ``group`` examples.

    In training, consecutive groups of ``group`` examples are normalized with their own mean and variance
    (Hoffer et al. 2017, "Train longer, generalize better"); ``group=None`` takes the whole batch, which is ordinary batch
    norm. If one group spans several ranks, its statistics are averaged over ``ranks``. The running statistics move towards
    the mean over all groups, by ``momentum``, once a step: automatically after each training forward pass or, under an
    objective, which sets ``recording``, when ``commit`` is called.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.momentum, self.eps = channels, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.group: int | None = None
        self.ranks: dist.ProcessGroup | None = None
        # "follow": update the running statistics at once; "record": keep the groups' statistics until `commit`;
        # "hold": do not change them (a second evaluation within a step).
        self.recording = "follow"
        self.recorded: list[tuple[Tensor, Tensor]] = []

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.channels}, group={self.group}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalize ``inputs`` (examples, channels, *positions); the running statistics are used in eval mode."""
        if not self.training:
            return F.batch_norm(
                inputs, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if self.group is None or self.group >= len(inputs):
            outputs = self._normalize(inputs)
        else:
            outputs = torch.cat([self._normalize(group) for group in inputs.split(self.group)])
        if self.recording == "follow":
            self.commit()
        return outputs

    def _normalize(self, group: Tensor) -> Tensor:
        if self.ranks is not None:
            return self._normalize_over_ranks(group)
        if self.recording == "hold":
            return F.batch_norm(group, None, None, self.weight, self.bias, True, 0.0, self.eps)
        # With momentum 1 the kernel leaves the group's own mean and unbiased variance in the two scratch tensors.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        outputs = F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        self.recorded.append((mean, variance))
        return outputs

    def _normalize_over_ranks(self, group: Tensor) -> Tensor:
        over = [0, *range(2, group.ndim)]
        shape = [1, -1] + [1] * (group.ndim - 2)
        working = group.float() if group.dtype in (torch.float16, torch.bfloat16) else group
        count = working.numel() // self.channels * dist.get_world_size(self.ranks)
        mean = all_reduce_sum(working.sum(over), self.ranks) / count
        centred = working - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(over), self.ranks) / count
        scale = torch.rsqrt(variance + self.eps)
        # A layer converted from torch may have none or only one of the two.
        outputs = centred * (scale if self.weight is None else self.weight * scale).view(shape)
        if self.bias is not None:
            outputs = outputs + self.bias.view(shape)
        if self.recording != "hold":
            self.recorded.append((mean.detach(), variance.detach() * (count / max(count - 1, 1))))
        return outputs.to(group.dtype)

    def mean_over_groups(self) -> tuple[Tensor, Tensor]:
        """The mean of the recorded groups' means and of their unbiased variances, each of shape (channels,)."""
        means, variances = zip(*self.recorded, strict=True)
        if len(means) == 1:
            return means[0], variances[0]
        return torch.stack(means).mean(0), torch.stack(variances).mean(0)

    @torch.no_grad()
    def commit(self) -> None:
        """Move the running statistics towards the mean over the groups recorded since the last call."""
        if self.recorded:
            mean, variance = self.mean_over_groups()
            self.move(mean, variance)

    @torch.no_grad()
    def move(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards ``mean`` and ``variance``, once a step, and clear the recorded statistics."""
        self.recorded.clear()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class _AllReduceSum(torch.autograd.Function):
    """A sum over ranks that can be differentiated any number of times."""

    @staticmethod
    def forward(ctx, value: Tensor, ranks: dist.ProcessGroup | None) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.ranks = ranks
        total = value.clone()
        dist.all_reduce(total, group=ranks)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return all_reduce_sum(gradient, ctx.ranks), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _: None) -> Tensor:  # type: ignore[no-untyped-def]
        return all_reduce_sum(tangent, ctx.ranks)


def all_reduce_sum(value: Tensor, ranks: dist.ProcessGroup | None) -> Tensor:
    """The sum of ``value`` over ``ranks``, differentiable to any order."""
    total: Tensor = _AllReduceSum.apply(value, ranks)  # type: ignore[no-untyped-call]
    return total


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) of inputs (examples, *rest) with masks fixed by (seed, step, layer, position).

    Under an objective, ``draw`` holds the step's key and the global position of the first example; used alone, the masks
    come from torch's generator.
    """

    draw: Tensor | None

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout probability {probability}: must be in [0, 1)")
        self.probability = probability
        self.layer = 0
        self.register_buffer("draw", None, persistent=False)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"p={self.probability}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Zero each element with the given probability in training and scale the others by 1 / (1 - p)."""
        if not self.training or self.probability == 0:
            return inputs
        if self.draw is None:
            return F.dropout(inputs, self.probability)
        elements = inputs[0].numel()
        position = torch.arange(inputs.numel(), device=inputs.device).view_as(inputs) + self.draw[1] * elements
        layer_key = (self.draw[0] + 0x9E3779B1 * (self.layer + 1)) & 0xFFFFFFFF
        kept = randomness.uniform(layer_key, position) >= self.probability
        return inputs * kept.to(inputs.dtype) / (1 - self.probability)


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Every batch norm of ``model``, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def set_norm_batch(model: nn.Module, group: int | None, ranks: dist.ProcessGroup | None = None) -> None:
    """Normalize groups of ``group`` examples (None: all passed examples); ``ranks``: the ranks that share one group."""
    for norm in batch_norms(model):
        norm.group, norm.ranks = group, ranks


def place_dropout(model: nn.Module, device: torch.device) -> Tensor | None:
    """Give every dropout layer its number and a shared (key, first position) tensor; returns it, or None without dropout."""
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    if not layers:
        return None
    draw = torch.zeros(2, dtype=torch.int64, device=device)
    for number, layer in enumerate(layers):
        layer.layer, layer.draw = number, draw
    return draw


@torch.no_grad()
def commit_batch_norms(norms: Iterable[BatchNorm], means_over_ranks: MeansOverRanks = lambda lists: lists) -> None:
    """Once per step: move all running statistics by the mean over the groups of the global batch.

    With several ranks, every rank holds the same number of groups, so the mean of the ranks' means is the global one;
    ``means_over_ranks`` takes it.
    """
    recorded = [norm for norm in norms if norm.recorded]
    if not recorded:
        return
    statistics = means_over_ranks([norm.mean_over_groups() for norm in recorded])
    for norm, (mean, variance) in zip(recorded, statistics, strict=True):
        norm.move(mean, variance)


@torch.no_grad()
def take_statistics(norms: Sequence[BatchNorm], passes: Callable[[], None]) -> None:
    """Replace all running statistics by the mean over the groups that ``passes`` runs through the model.

    Within ``passes`` every norm normalizes a group by its own statistics; afterwards it is in eval mode.
    """
    for norm in norms:
        norm.training, norm.recording = True, "record"
    passes()
    for norm in norms:
        mean, variance = norm.mean_over_groups()
        norm.recorded.clear()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.training, norm.recording = False, "follow"
