"""A checkpoint continues in another dtype and on another device, and a state is as precise as its weights."""

from typing import Any

import torch

from optbench.testing.outcomes import Broken, Found, NotApplicable, Numbers, difference, nudge, require_close
from optbench.testing.session import Session, state_of
from optbench.testing.subject import Subject

# Two dtypes part by the rounding of the coarser one, which a few steps make larger.
_RTOL, _ATOL = 1e-3, 1e-4


def dtype(subject: Subject) -> Found:
    """A checkpoint in float64 continues in float32 and the other way round, where it would have ended, to float32's rounding."""
    found = Found()
    for origin, target in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        saved = Session(subject, dtype=origin).step(3).state()
        whole = Session(subject, dtype=origin).step(6).weights()
        moved = Session(subject, dtype=target).load(saved)
        _require_dtype(moved, target)
        end = moved.step(3).weights()
        _require_dtype(moved, target)

        def nudged(saved: dict[str, Any] = saved, coarser: Numbers = end if origin == torch.float64 else whole) -> Any:
            """What float32 alone does: the same from weights that are one of its units in the last place larger."""
            other = Session(subject, dtype=torch.float32).load(saved)
            nudge(list(other.model.parameters()))
            return other.step(3).weights(), coarser

        what = f"a checkpoint moved from {origin} to {target}".replace("torch.", "")
        found = require_close(end, whole, what, nudged, _RTOL, _ATOL)
    return found


def _require_dtype(session: Session, wanted: torch.dtype) -> None:
    for name, weight in session.model.named_parameters():
        if weight.dtype != wanted:
            raise Broken(f"the weight {name} has become {weight.dtype} in a model of {wanted}".replace("torch.", ""))


def precision(subject: Subject) -> Found:
    """In float32 and float64 the weights move and keep their dtype, and what the state holds is not coarser than they are."""
    for dtype in (torch.float32, torch.float64):
        session = Session(subject, dtype=dtype)
        start = session.weights()
        session.step(2)
        _require_dtype(session, dtype)
        if not difference(session.weights(), start):
            raise Broken(f"no weight has moved in {dtype}".replace("torch.", ""))
        for name, tensor, parameter in state_of(session.optimizer):
            coarser = tensor.is_floating_point() and torch.finfo(tensor.dtype).eps > torch.finfo(parameter.dtype).eps
            if coarser and tensor.numel() > 1:
                raise Broken(f"its state {name} is {tensor.dtype} where the weights are {dtype}".replace("torch.", ""))
    return Found()


def device(subject: Subject) -> Found:
    """A checkpoint of the CPU continues on a GPU, and one of the GPU on the CPU, where it would have ended, to rounding."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no CUDA device here")
    gpu = torch.device("cuda", 0)
    found = Found()
    for back in (False, True):
        whole = Session(subject).step(6).weights()
        saved = Session(subject, device=gpu if back else None).step(3).state()
        moved = Session(subject, device=None if back else gpu).load(saved).step(3)
        end = {name: weight.cpu() for name, weight in moved.weights().items()}
        what = "from the GPU to the CPU" if back else "from the CPU to the GPU"
        found = require_close(end, whole, f"a checkpoint moved {what}", rtol=1e-6, atol=1e-8)
    return found
