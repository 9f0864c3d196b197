"""Initial weights from a finished run."""

import torch
from torch import Generator, nn

from optbench.errors import UserError
from optbench.store import RunDirectory, StoreError
from optbench.training import checkpointing


@torch.no_grad()
def weights_of_run(model: nn.Module, generator: Generator, source: str, results_dir: str) -> None:
    """Set the weights and buffers of ``model`` to the last ones of the run ``source`` in ``results_dir``; nothing is drawn.

    The checkpoint is read as data: no code in it runs. Raises UserError for a run that is not there or not done, and for weights
    of other names or shapes.
    """
    directory = RunDirectory.at(results_dir, source)
    state = directory.status().state if directory.path.is_dir() else "not there"
    if state != "done":
        raise UserError(
            f"init.source={source}: this run is {state} in {directory.path.parent}; accepted: the whole id of a run that is done"
        )
    try:
        found = checkpointing.final_weights(checkpointing.load(directory.checkpoint, source))
    except FileNotFoundError:
        raise UserError(
            f"init.source={source}: {directory.checkpoint} is missing, which holds its weights; accepted: another run, or this "
            "one again, by its command with force=true"
        ) from None
    except StoreError as error:
        raise UserError(f"init.source={source}: {error}") from error
    own = model.state_dict()
    for name in sorted(own.keys() | found.keys()):
        here, there = (list(tensors[name].shape) if name in tensors else "absent" for tensors in (own, found))
        if here != there:
            raise UserError(
                f"init.source={source}: {name} is {there} there and {here} in this model; accepted: a run with the same "
                "model and shapes of data"
            )
    model.load_state_dict(found)
