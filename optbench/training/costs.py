"""The costs of a run for its summary: memory in bytes, FLOPs, and how fast and how well the device was used."""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from optbench.config.run_config import RunConfig
from optbench.training import flops
from optbench.training.gpu_peaks import peak
from optbench.training.measured import Measured
from optbench.training.sharding import local, state_bytes
from optbench.training.task import Task


def costs(config: RunConfig, task: Task, measured: Measured, saved_bytes: float | None) -> dict[str, Any]:
    """The costs of the run of ``task`` so far; None for each that is unknown. ``saved_bytes``: of an example, by autograd.

    parameter_bytes, gradient_bytes: of all weights, and of a gradient of those that train. optimizer_state_bytes: of the
    tensors that the optimizer keeps between steps, each storage once. These are whole, whatever ranks divide; rank_bytes is
    what rank 0 holds of them between steps. activation_bytes: of the tensors that autograd keeps in a forward pass of one
    micro-batch. flops_per_step: the mean over a period, or over the run where the batch grows.
    model_flops_per_step: of one evaluation of the loss and its gradient on a batch (see `optbench.training.flops`).
    model_flops_utilization: model FLOPs of all steps, over those that the devices could have made at their peak in the seconds
    of training (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B). evaluation_share: seconds of evaluation over
    those of evaluation and training. oracle_values, oracle_gradients, oracle_products: see `optbench.objective.oracle`.
    """
    taken = measured.state()  # the peak of the run, before anything is counted
    parameters = list(task.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    plan = task.recipe.horizon.plan
    seconds, samples = task.clock.read(), plan.first_sample(task.step)
    share = plan.largest // max(config.trainer.ranks, config.workers)
    examples = min(task.execution.micro_batch or share, share)
    of_model, of_step = _flops(config, task)
    evaluation = taken.pop("seconds_evaluation")
    possible = _possible(config, measured.device, seconds)
    return {
        "seconds_evaluation": evaluation,
        "evaluation_share": evaluation / (evaluation + seconds) if evaluation is not None and seconds > 0 else None,
        **{f"oracle_{name}": count for name, count in task.calls.state_dict().items()},
        "examples_per_second": samples / seconds if seconds > 0 else None,
        "flops_per_step": of_step,
        "model_flops_per_step": of_model,
        "model_flops_utilization": of_model * task.step / possible if of_model is not None and possible else None,
        **taken,
        "parameter_bytes": _bytes(parameters),
        "gradient_bytes": _bytes(trained),
        "optimizer_state_bytes": task.sharding.whole_state_bytes(task.optimizer),
        "rank_bytes": _bytes(map(local, parameters + trained)) + state_bytes(task.sharding.held(task.optimizer)),
        "activation_bytes": None if saved_bytes is None else round(saved_bytes * examples),
    }


def _flops(config: RunConfig, task: Task) -> tuple[int | None, int | None]:
    """FLOPs of an evaluation of a batch, and of a step: means over the steps so far."""
    plan, steps = task.recipe.horizon.plan, max(task.step, 1)
    grows = plan.batch(0) != plan.largest
    batches = Counter(plan.batch(step) for step in range(steps)) if grows else {plan.largest: steps}
    found = [(flops.count(config, task, batch), times) for batch, times in batches.items()]
    counted = [(each, times) for each, times in found if each is not None]
    if len(counted) < len(found):
        return None, None
    of_model = Fraction(sum(each.model * times for each, times in counted), steps)
    # Apart from its evaluations, it computes no products of matrices.
    if isinstance(task.optimizer, torch.optim.LBFGS):
        evaluations = task.calls.gradients
        return round(of_model), None if evaluations is None else round(of_model * evaluations / steps)
    of_steps = [each.step * times for each, times in counted if each.step is not None]
    return round(of_model), round(sum(of_steps, Fraction(0)) / steps) if len(of_steps) == len(counted) else None


def _possible(config: RunConfig, device: torch.device | None, seconds: float) -> float | None:
    """The FLOPs that all devices of the run could have made at their peak in the time of training."""
    if device is None:
        return None
    rate = peak(torch.cuda.get_device_name(device), config.precision)
    return None if rate is None else rate * seconds * config.trainer.ranks


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
