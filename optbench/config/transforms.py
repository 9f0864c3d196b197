"""Check that the transforms of an optimizer fit it, and the other choices of a run."""

from optbench.config.files import TRANSFORM_PLACES
from optbench.config.run_config import Choice, RunConfig
from optbench.errors import UserError

_NONE = "another optimizer, or transform=none"


def check_transforms(config: RunConfig) -> None:
    """Raise UserError for a transform that would change another method than its source describes, or give wrong numbers.

    The file of a transform says where it acts (``info.place``), the names of optimizers that it does not fit with the reason
    (``info.not_with``), and if it needs a method that evaluates the objective once (``info.needs_one_evaluation``).
    """
    for transform in config.transforms:
        place = transform.info.get("place")
        if place not in TRANSFORM_PLACES:
            raise UserError(
                f"transform={transform.name}: its file says info.place: {place}; accepted: {', '.join(TRANSFORM_PLACES)}"
            )
        if (reason := _reason(config, transform)) is not None:
            raise UserError(
                f"transform={transform.name}: does not fit optimizer={config.optimizer.name}, {reason}; accepted: {_NONE}"
            )
        if place == "weights" and config.communication.name in ("local", "post_local"):
            raise UserError(
                f"transform={transform.name}: sets the weights, which workers of communication={config.communication.name} "
                "average; accepted: communication=dense, or transform=none"
            )


def _reason(config: RunConfig, transform: Choice) -> str | None:
    """The reason why ``transform`` does not fit the optimizer; None if it does."""
    optimizer, place = config.optimizer.info, transform.info["place"]
    if place in ("evaluation", "gradient"):
        if optimizer.get("family") == "second_order":
            return "whose curvature would be that of another function than its gradient"
        if optimizer.get("gradients") == "none":
            return "which takes losses alone"
    if transform.info.get("needs_one_evaluation") and config.optimizer.stated("evaluations") == "several":
        return "which evaluates the objective more than once a step"
    return next(
        (why for why, names in transform.info.get("not_with", {}).items() if config.optimizer.rule in names), None
    )
