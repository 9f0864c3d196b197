"""The content of summary.json: what a run was, how it ended, what it cost, and its last evaluation."""

from typing import Any

from optbench import config as configuration
from optbench.config.run_config import RunConfig
from optbench.training.costs import costs
from optbench.training.evaluation import METRICS
from optbench.training.recorder import WHERE, Recorder, selection_values
from optbench.training.task import Task


def summarize(
    config: RunConfig, task: Task, recorder: Recorder, code: str, saved_bytes: float | None = None
) -> dict[str, Any]:
    """The content of summary.json: the run, its ``code``, its outcome, its costs, and the last evaluation.

    saved_bytes: those that autograd keeps of an example, None if unknown.
    """
    rate, rule = configuration.learning_rate(config)
    if rate is None:
        rate = float(task.optimizer.param_groups[0]["initial_lr"])
    horizon = task.recipe.horizon
    metrics = dict.fromkeys(METRICS)
    # After divergence the last evaluation is left out, because the weights have changed since.
    if recorder.outcome != "diverged":
        metrics |= {name: value for name, value in recorder.evaluation.items() if name not in WHERE}
    steps = recorder.results.get("diverged_step", task.step)
    targets = dict.fromkeys(("steps_to_target", "samples_to_target", "seconds_to_target"))
    return {
        "run_id": configuration.run_id(config.text),
        "status": recorder.outcome,
        "why": recorder.why,
        "code": code,
        "optimizer": config.optimizer.label,
        "model": config.model.label,
        "dataset": config.dataset.label,
        "batch": config.batch,
        "seed": config.seed,
        "trial": config.trial,
        "learning_rate": rate,
        "base_learning_rate": config.optimizer.options.get("learning_rate"),
        "scaling_rule": rule,
        "communication_bytes": task.communication_bytes(),
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "steps": steps,
        "epochs": horizon.epoch(steps),
        "samples": horizon.plan.first_sample(steps),
        "seconds_training": task.clock.read(),
        **costs(config, task, recorder.measured, saved_bytes),
        **metrics,
        **selection_values(task),
        **(targets if config.budget.target is not None else {}),
        **recorder.results,
        **recorder.probes.summary(),
    }
