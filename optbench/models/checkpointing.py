"""Activation checkpointing (Chen, Xu, Zhang & Guestrin 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174).

The layers of a chain are divided into segments. A forward pass keeps the inputs of each segment, and none of the activations
within; the backward pass computes those of one segment at a time anew. With N segments of a chain of L layers, about N + L / N
activations are held at a time instead of L, at the cost of another forward pass. The numbers do not change by a bit: within a
recomputation dropout draws the masks of its forward pass, and batch norm records nothing.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from optbench.errors import UserError
from optbench.models.layers import BatchNorm, Dropout

Block = Callable[[Tensor], Tensor]

_here = threading.local()  # of a thread, because autograd may compute segments of several devices at a time


class Chain(nn.Module):
    """A module that passes its inputs through `chain`, the list of its blocks, with `through`.

    lengths: the number of blocks in each segment; empty without checkpointing. kept: the segments that keep their activations
    all the same, as for a measurement; None for all of them.
    """

    lengths: tuple[int, ...] = ()
    kept: frozenset[int] | None = frozenset()

    def chain(self) -> Sequence[Block]:
        """The blocks, in their order; each takes the outputs of the one before."""
        raise NotImplementedError

    def through(self, inputs: Tensor) -> Tensor:
        """The outputs of the last block."""
        blocks = self.chain()
        if not self.lengths or self.kept is None or not torch.is_grad_enabled():
            return _run(blocks, inputs)
        for number, (first, last) in enumerate(pairwise(accumulate(self.lengths, initial=0))):
            inputs = _run(blocks[first:last], inputs) if number in self.kept else self._anew(blocks[first:last], inputs)
        return inputs

    def _anew(self, segment: Sequence[Block], inputs: Tensor) -> Tensor:
        """The outputs of the last block of ``segment``, whose activations the backward pass computes anew."""
        parts = [block for block in segment if isinstance(block, nn.Module)]
        parts = parts if len(parts) == len(segment) else [self]  # a method may call any module
        modules = list(dict.fromkeys(module for part in parts for module in part.modules()))
        overwrites = any(getattr(module, "inplace", False) for module in modules)

        def run(inputs: Tensor) -> Tensor:
            # The recomputation needs the inputs as they are.
            return _run(segment, inputs.clone() if overwrites else inputs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return contextlib.nullcontext(), _AsNow(modules)

        outputs: Tensor = checkpoint(run, inputs, use_reentrant=False, context_fn=contexts)
        return outputs


class _Segmented(Chain):
    """Mixed into the class of an nn.Sequential, whose blocks are its modules."""

    def chain(self) -> Sequence[Block]:
        return [module for module in self._modules.values() if module is not None]  # one may occur several times

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the last module."""
        return self.through(inputs)


def divide(model: nn.Module, segments: int) -> None:
    """Divide the chain of ``model`` into ``segments`` runs of about equally many blocks; 0 keeps all activations.

    The chain is ``model`` itself, or else its child ``blocks``, or else the longest of its children, if that is an
    nn.Sequential with torch's own forward method or a `Chain`. Parameters, buffers and their names stay as they are.

    Raises UserError for a model without such a chain, and for more segments than blocks.
    """
    if segments == 0:
        return
    chain = _chain_of(model)
    if chain is None:
        raise UserError(
            f"model.checkpointing={segments}: {type(model).__name__} has no chain of layers; accepted: 0, or a model that is an "
            "nn.Sequential or has one among its children, as `blocks` or under another name"
        )
    count = _length(chain)
    if segments > count:
        raise UserError(
            f"model.checkpointing={segments}: the chain of {type(model).__name__} has {count} "
            f"block{'s' if count > 1 else ''}; accepted: 0 to {count}"
        )
    if not isinstance(chain, Chain):
        own = type(chain)
        # Another class, not another forward attribute, so that a deep copy passes through its own layers.
        chain.__class__ = type(own.__name__, (_Segmented, own), {"__module__": own.__module__})
    assert isinstance(chain, Chain)
    bounds = [count * number // segments for number in range(segments + 1)]
    chain.lengths = tuple(last - first for first, last in pairwise(bounds))


def _chain_of(model: nn.Module) -> nn.Module | None:
    if _length(model):
        return model
    found = {name: child for name, child in model.named_children() if _length(child)}
    return found.get("blocks") or max(found.values(), key=_length, default=None)


def _length(module: nn.Module) -> int:
    """The number of blocks of a chain; 0 for a module that is none."""
    if isinstance(module, Chain):
        return len(module.chain())
    # One with a forward method of its own may do anything between its blocks.
    return len(module) if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward else 0


def chains(model: nn.Module) -> list[Chain]:
    """The parts of ``model`` that pass in segments."""
    return [module for module in model.modules() if isinstance(module, Chain) and module.lengths]


@contextlib.contextmanager
def keeping(chains: Sequence[Chain], kept: frozenset[int] | None = None) -> Iterator[None]:
    """Within this context the segments ``kept`` of ``chains`` (None: all) keep their activations."""
    before = [chain.kept for chain in chains]
    for chain in chains:
        chain.kept = kept
    try:
        yield
    finally:
        for chain, own in zip(chains, before, strict=True):
            chain.kept = own


def kept_bytes(model: nn.Module, forward: Callable[[], object], segments: frozenset[int] | None = None) -> int:
    """The bytes that autograd keeps of ``forward()``, each storage once, without those of parameters and buffers of ``model``.

    ``segments`` keep their activations (None: all), as while the backward pass computes them anew.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with keeping(chains(model), segments), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _graph = forward()  # as long as it lives, no two storages share an address
    return sum(kept.values())


def recomputing() -> bool:
    """True within a recomputation: a forward hook that collects something sees each pass a second time there."""
    return getattr(_here, "recomputing", False)


def _run(blocks: Sequence[Block], inputs: Tensor) -> Tensor:
    for block in blocks:
        inputs = block(inputs)
    return inputs


class _AsNow:
    """A context for later, any number of times: dropout and batch norm do what they would do now, and nothing is recorded."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._norms = [module for module in modules if isinstance(module, BatchNorm)]
        # A norm that moves its statistics at once has done so.
        self._recording = ["record" if norm.recording == "follow" else norm.recording for norm in self._norms]
        self._drops = [module for module in modules if isinstance(module, Dropout)]
        # Layers share one tensor, into which the next micro-batch writes its own position.
        draws = {id(layer.draw): layer.draw.clone() for layer in self._drops if layer.draw is not None}
        self._draws = [draws.get(id(layer.draw)) for layer in self._drops]
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._undo.callback(setattr, _here, "recomputing", recomputing())
        _here.recomputing = True
        for norm, recording in zip(self._norms, self._recording, strict=True):
            self._undo.callback(setattr, norm, "recording", norm.recording)
            self._undo.callback(norm.recorded.__delitem__, slice(len(norm.recorded), None))
            norm.recording = recording
        for layer, draw in zip(self._drops, self._draws, strict=True):
            self._undo.callback(setattr, layer, "draw", layer.draw)
            layer.draw = draw

    def __exit__(self, *_: object) -> None:
        self._undo.close()
