"""Which example each sample of training is: endless streams of epochs, as pure functions of (seed, epoch)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optbench import randomness


class EpochStream:
    """An endless stream of epochs, each a new permutation of ``members`` (int64), drawn for (seed, purpose, epoch)."""

    def __init__(self, members: Tensor, seed: int, purpose: str) -> None:
        self.members, self.seed, self.purpose = members, seed, purpose
        self._orders: dict[int, Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Give indices on ``device`` from now on."""
        self.members = self.members.to(device)
        self._orders.clear()

    def take(self, first: int, count: int) -> list[Tensor]:
        """The members at the places ``first .. first + count - 1`` of the stream, in parts of one epoch each."""
        epoch, start = divmod(first, len(self.members))
        parts = []
        while count > 0:
            part = self._order(epoch)[start : start + count]
            parts.append(part)
            count -= len(part)
            epoch, start = epoch + 1, 0
        return parts

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {kept: order for kept, order in self._orders.items() if kept >= epoch - 1}
            places = randomness.permutation(self.seed, self.purpose, epoch, len(self.members))
            self._orders[epoch] = self.members[places.to(self.members.device)]
        return self._orders[epoch]


class SampleOrder:
    """The examples of every batch, which has equal consecutive shares, one from each of ``streams``.

    One stream is the usual order: the samples of training count through epochs of the whole training set. With W streams, each
    belongs to one worker, whose share of the batch that begins at sample n are the places n / W onwards of its stream. Batches
    must be multiples of W.
    """

    def __init__(self, streams: Sequence[EpochStream]) -> None:
        self.streams = streams

    @classmethod
    def shuffled(cls, examples: int, seed: int) -> "SampleOrder":
        """Epochs of all examples."""
        return cls([EpochStream(torch.arange(examples), seed, "order")])

    @classmethod
    def sorted_by_label(cls, labels: Tensor, workers: int, seed: int) -> "SampleOrder":
        """Worker w sees shard w alone: the examples ordered by their label (N,), and by index within a label, cut in W.

        The sizes of the shards differ by at most one.
        """
        shards = torch.tensor_split(labels.argsort(stable=True), workers)
        return cls([EpochStream(shard, seed, f"order of worker {worker}") for worker, shard in enumerate(shards)])

    def to(self, device: torch.device) -> None:
        """Give indices on ``device`` from now on."""
        for stream in self.streams:
            stream.to(device)

    def take(self, first_sample: int, size: int, offset: int, count: int) -> Tensor:
        """The indices (count,) of the examples from ``offset`` on in the batch of ``size`` that begins at ``first_sample``."""
        workers = len(self.streams)
        share, first = size // workers, first_sample // workers
        parts: list[Tensor] = []
        while count > 0:
            worker, place = divmod(offset, share)
            length = min(share - place, count)
            parts += self.streams[worker].take(first + place, length)
            offset, count = offset + length, count - length
        return parts[0] if len(parts) == 1 else torch.cat(parts)
