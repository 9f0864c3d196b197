"""Evaluate loss and accuracy on whole splits, in eval mode and without augmentation; ranks share the examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from optbench.training.evaluation_weights import evaluation_weights
from optbench.training.task import Task

SPLITS = ("train", "validation", "test")
METRICS = tuple(f"{part}_{metric}" for part in (*SPLITS, "gap") for metric in ("loss", "accuracy"))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a task's model: ``train_limit`` examples of the training set, all of validation and test.

    always_test: False leaves the test set, which may be several times as large as the other two, to the last evaluation of a run.
    """

    train_limit: int | None = None
    batch: int = 1000
    always_test: bool = True

    def __call__(self, task: Task, last: bool = True) -> dict[str, float | None]:
        """{train,validation,test}_{loss,accuracy}, gap_loss and gap_accuracy; with averaging, also averaged_... of each.

        A loss of reconstructions adds {train,validation,test}_squared_error.
        The weights are those that the optimizer offers for evaluation; an average is one of the weights that it trains.
        The generalization gap is test loss minus train loss, and train accuracy minus test accuracy. Unless the evaluation is the
        ``last`` one, or the test set is evaluated always, there are neither test metrics nor gaps.
        """
        splits = SPLITS if last or self.always_test else SPLITS[:-1]
        with evaluation_weights(task):
            metrics = self._metrics(task, "", splits)
        if task.average is not None and task.average.active:
            with task.average.applied_to(task.model):
                metrics |= self._metrics(task, "averaged_", splits)
        return metrics

    def _metrics(self, task: Task, prefix: str, splits: Sequence[str]) -> dict[str, float | None]:
        metrics: dict[str, float | None] = {}
        for split in splits:
            metrics |= {f"{prefix}{split}_{name}": value for name, value in self.split(task, split).items()}
        if "test" not in splits:
            return metrics
        train, test = metrics[f"{prefix}train_loss"], metrics[f"{prefix}test_loss"]
        metrics[f"{prefix}gap_loss"] = test - train if test is not None and train is not None else None
        train, test = metrics[f"{prefix}train_accuracy"], metrics[f"{prefix}test_accuracy"]
        metrics[f"{prefix}gap_accuracy"] = train - test if test is not None and train is not None else None
        return metrics

    def _keep_up(self, task: Task, split: str, limit: int | None) -> None:
        """Pass one example through the model as often as another rank has more batches: they gather its weights together."""
        execution, source = task.execution, task.source
        if task.sharding.wraps or execution.world_size == 1:
            return
        own, most = (
            source.evaluation_batches(split, self.batch, limit, rank, execution.world_size)
            for rank in (execution.rank, 0)
        )
        for _ in range(most - own):
            inputs, _ = next(iter(source.evaluation(split, 1, 1)))
            with execution.autocast():
                task.model(inputs)

    @torch.no_grad()
    def split(self, task: Task, split: str) -> dict[str, float | None]:
        """The means over one split: loss, accuracy (None if the targets define none), squared_error if the loss has one."""
        execution, loss = task.execution, task.recipe.loss
        totals = torch.zeros(4, dtype=torch.float64, device=task.device)
        graded = reconstructed = False
        limit = self.train_limit if split == "train" else None
        task.model.eval()
        for inputs, targets in task.source.evaluation(split, self.batch, limit, execution.rank, execution.world_size):
            with execution.autocast():
                outputs = task.model(inputs)
            totals[0] += loss.per_example(outputs, targets).double().sum()
            totals[1] += len(inputs)
            correct = loss.correct(outputs, targets, task.source.spec)
            if correct is not None:
                graded = True
                totals[2] += correct.double().sum()
            error = loss.squared_error(outputs, targets)
            if error is not None:
                reconstructed = True
                totals[3] += error.double().sum()
        self._keep_up(task, split, limit)
        task.model.train()
        if execution.world_size > 1:
            # A rank without examples of its own does not know whether the others' were graded, but the sums do.
            execution.sum_over_ranks(totals)
            graded, reconstructed = graded or float(totals[2]) > 0, reconstructed or float(totals[3]) > 0
        total_loss, count, right, total_error = totals.tolist()
        found = {"loss": total_loss / count, "accuracy": right / count if graded else None}
        return found | ({"squared_error": total_error / count} if reconstructed else {})
