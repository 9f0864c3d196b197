"""Products on two ranks are those of one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from optbench.errors import UserError
from optbench.models.layers import set_ghost_batch_size
from optbench.objective import Execution, Network, Objective
from tests.objective.product_problems import GROUP, KEY, assert_is, flat, problem, vectors_of
from tests.two_ranks import on_two_ranks

RANKS = [("dropout", GROUP), ("batch norm", GROUP), ("batch norm", None)]  # None: one group over both ranks


def rank_problem(name, group):
    model, inputs, targets, loss = problem(name)
    set_ghost_batch_size(model, group)
    return model, torch.cat([inputs, -inputs])[:16], torch.cat([targets, targets])[:16], loss


def all_products(objective):
    """The values that every rank shares, and those of its own examples."""
    vectors, last = vectors_of(objective, 2), torch.linspace(-1, 1, 16, dtype=torch.float64)
    share = slice(objective._first, objective._first + len(objective.outputs()))
    back = last[share, None] * objective.outputs()
    matrices = [
        objective.gradient(),
        objective.vjp(back),
        objective.hvp(vectors[0]),
        objective.empirical_fisher_vp(vectors[1]),
    ]
    shared = [flat(product) for product in [*matrices, *objective.ggnvps(vectors)]]
    shared += [objective.quadratic(vectors)]
    own = [objective.outputs(), objective.jvp(vectors[1]), objective.sample_targets(3), objective.per_example_losses()]
    if not objective.network.norms:
        own.append(objective.per_example_squared_gradient_norms())
    return shared, own


def on_one_of_two_ranks(rank):
    results = []
    for name, group in RANKS:
        model, inputs, targets, loss = rank_problem(name, group)
        replica = nn.parallel.DistributedDataParallel(model)  # whose reducer must not take part
        assert replica.module is model
        ranks = dist.new_group([0, 1])
        if group is None:
            set_ghost_batch_size(model, None, ranks)
        share, micro_batch = slice(8 * rank, 8 * rank + 8), None if group is None else 4
        execution = Execution(micro_batch=micro_batch, world_size=2, rank=rank)
        results.append(all_products(Objective(Network(model), loss, inputs[share], targets[share], execution, KEY)))
    with pytest.raises(UserError, match="batch norm couples examples of several ranks"):
        Objective(Network(model), loss, inputs[share], targets[share], execution, KEY).jacobian()
    return results


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    found = on_two_ranks(on_one_of_two_ranks, tmp_path)
    for case, (name, group) in enumerate(RANKS):
        model, inputs, targets, loss = rank_problem(name, group)
        shared, own = all_products(Objective(Network(model), loss, inputs, targets, dropout_key=KEY))
        for rank in range(2):
            for one, other in zip(found[rank][case][0], shared, strict=True):
                assert_is(one, other)
            for one, other in zip(found[rank][case][1], own, strict=True):
                assert_is(one.double(), other[8 * rank : 8 * rank + 8].double())
