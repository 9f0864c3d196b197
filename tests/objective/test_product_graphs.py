"""Products keep graphs as long as they hold, and leave everything else as it was."""

import copy
import gc
import weakref

import pytest
import torch

from optbench.objective import Execution, Network, Objective
from tests.objective.product_problems import (
    KEY,
    TIGHT,
    assert_is,
    counted,
    dense,
    every_micro_batch,
    flat,
    objective_of,
    problem,
    vectors_of,
)


@every_micro_batch
def test_evaluation_mode(micro_batch):
    model, inputs, targets, loss = problem("batch norm in eval mode")
    model.train()
    model[1].eval()  # a mode of its own, to be found again
    objective = Objective(Network(model), loss, inputs, targets, Execution(micro_batch=micro_batch), KEY)
    vector = vectors_of(objective)[0]
    _, jacobian, middle, gradient, curvature, _ = dense("batch norm in eval mode")
    trained = objective.hvp(vector)
    with objective.evaluation_mode():
        assert_is(flat(objective.hvp(vector)), curvature @ flat(vector))
        assert_is(flat(objective.ggnvp(vector)), jacobian.T @ middle @ jacobian @ flat(vector))
        assert_is(flat(objective.gradient()), gradient)
        assert_is(objective.loss(), loss(dense("batch norm in eval mode")[0], targets))
        model[1].running_mean += 1  # a graph that is kept would not know
        assert not torch.allclose(flat(objective.hvp(vector)), curvature @ flat(vector))
        model[1].running_mean -= 1
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert_is(flat(objective.hvp(vector)), flat(trained))
    assert not torch.allclose(flat(trained), curvature @ flat(vector))


def test_the_first_evaluation_in_train_mode_is_the_one_recorded():
    model, inputs, targets, loss = problem("batch norm")
    objective = Objective(Network(model), loss, inputs, targets)
    with objective.evaluation_mode():
        objective()
    before = model[1].running_mean.clone()
    objective()
    objective.finish()
    assert not torch.equal(model[1].running_mean, before)


def every_product(objective):
    """Calls everything once."""
    vectors = vectors_of(objective, 2)
    objective.gradient()
    objective.hvp(vectors[0])
    objective.hvps(vectors)
    objective.ggnvps(vectors)
    objective.empirical_fisher_vp(vectors[0])
    objective.jvp(vectors[0])
    objective.vjp(objective.outputs())
    objective.quadratic(vectors)
    objective.sample_targets(1)
    objective.per_example_losses()
    objective.jacobian()
    objective.last_layer_gradients()


@pytest.mark.parametrize("name", ["conv with batch norm", "batch norm", "gru", "dropout", "transformer"])
@pytest.mark.parametrize("recording", ["follow", "record"])
def test_products_leave_everything_as_it_was(name, recording):
    objective = objective_of(name, micro_batch=4)
    model = objective.network.model
    objective.network.record_norms(recording)
    if recording == "record":
        objective()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    recorded = [len(norm.recorded) for norm in objective.network.norms]
    modes = [norm.recording for norm in objective.network.norms]
    state, flags, rng = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()], torch.get_rng_state()
    backends = (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled, torch.is_grad_enabled())
    every_product(objective)
    with objective.evaluation_mode():
        every_product(objective)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for parameter, gradient in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
        assert parameter.is_leaf
        assert parameter.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert [len(norm.recorded) for norm in objective.network.norms] == recorded
    assert [norm.recording for norm in objective.network.norms] == modes
    assert (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled, torch.is_grad_enabled()) == backends
    copy.deepcopy(model)  # no module keeps a tensor of some graph


def test_products_within_no_grad():
    """Optimizers' steps run without gradients."""
    objective = objective_of("mlp")
    vector = vectors_of(objective)[0]
    expected = dense("mlp")[4] @ flat(vector)
    with torch.no_grad():
        assert_is(flat(objective.hvp(vector)), expected)
        every_product(objective)


@pytest.mark.parametrize(
    ("micro_batch", "cached_graphs", "first", "then"),
    [(None, 1, 1, 0), (4, 1, 3, 3), (4, 2, 3, 2), (4, 3, 3, 0), (4, None, 3, 0)],
)
@pytest.mark.parametrize("product", ["hvp", "gradient"])
def test_forward_passes(micro_batch, cached_graphs, first, then, product):
    """``first`` of them for the first product, ``then`` for every later one."""
    objective = objective_of("mlp", micro_batch=micro_batch, cached_graphs=cached_graphs)
    passes, of = counted(objective), {"hvp": vectors_of(objective)[:1], "gradient": []}[product]
    getattr(objective, product)(*of)
    assert len(passes) == first
    for count in range(1, 4):
        getattr(objective, product)(*of)
        assert len(passes) == first + count * then


def test_all_products_share_one_graph():
    objective = objective_of("mlp")
    passes, vectors = counted(objective), vectors_of(objective)
    objective.gradient()
    objective.hvps(vectors)
    objective.ggnvp(vectors[0])
    objective.ggnvp(vectors[1])
    objective.outputs()
    objective.sample_targets(0)
    objective.per_example_losses()
    objective.quadratic(vectors)
    objective.jvp(vectors[0])
    assert len(passes) == 1
    objective.finish()
    objective.hvp(vectors[0])
    assert len(passes) == 2


def test_several_vectors_build_a_graph_that_is_not_kept_once():
    objective = objective_of("mlp", micro_batch=4)
    passes, vectors = counted(objective), vectors_of(objective, 5)
    objective.hvps(vectors)
    assert len(passes) == 3
    objective.ggnvps(vectors)
    assert len(passes) == 6


CHANGES = {
    "in place": lambda parameter, value: parameter.detach().copy_(value),
    "data": lambda parameter, value: setattr(parameter, "data", value.clone()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("index", [0, 3])
def test_changed_parameters_give_fresh_results(change, index):
    objective = objective_of("mlp", micro_batch=4, cached_graphs=None)
    vector = vectors_of(objective)[0]

    def everything(objective):
        matrices = [objective.hvp(vector), objective.ggnvp(vector), objective.gradient(), [objective.outputs()]]
        return torch.cat([flat(product) for product in matrices])

    before = everything(objective)
    parameter = objective.network.parameters[index]
    old = parameter.detach().clone()
    CHANGES[change](parameter, old + 0.5)
    fresh = objective_of("mlp", micro_batch=4)
    fresh.network.parameters[index].data += 0.5
    expected = everything(fresh)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(everything(objective), expected, **TIGHT)
    CHANGES[change](parameter, old)
    torch.testing.assert_close(everything(objective), before, **TIGHT)


def test_a_trial_elsewhere_keeps_the_graph():
    objective = objective_of("mlp")
    vector, before = vectors_of(objective)[0], objective.hvp(vectors_of(objective)[0])
    passes = counted(objective)
    objective.loss(at=[p.detach() + 1 for p in objective.network.model.parameters()])
    assert all(map(torch.equal, objective.hvp(vector), before))
    assert len(passes) == 1  # that of the trial


@pytest.mark.parametrize("how", ["finish", "change", "mode", "delete"])
def test_no_graph_outlives_its_parameters(how):
    """The record of a forward pass is freed by reference counts alone."""
    objective = objective_of("mlp", micro_batch=4, cached_graphs=None)
    alive = []
    objective.network.model[2].register_forward_hook(lambda module, inputs, outputs: alive.append(weakref.ref(outputs)))
    vector = vectors_of(objective)[0]
    gc.disable()
    try:
        objective.hvp(vector)
        objective.ggnvp(vector)
        graphs = [weakref.ref(graph) for graph in objective._graphs._graphs.values()]
        assert len(graphs) == 3
        if how == "finish":
            objective.finish()
        elif how == "change":
            objective.network.parameters[0].data = objective.network.parameters[0].data + 1
            objective.loss()
        elif how == "mode":
            with objective.evaluation_mode():
                objective.loss()
        else:
            del objective
        assert [graph() for graph in graphs] == [None] * 3
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()
