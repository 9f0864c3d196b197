"""Random subsets, CRAIG and AdaCore: weights, features, curvature, and the samples that training draws."""

import pytest
import torch
from torch import nn

from optbench import config
from optbench.config.run_config import RunConfig
from optbench.errors import UserError
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy, SquaredError
from optbench.optimizers.hutchinson import hessian_diagonal
from optbench.selection.adacore import AdaCore, last_bias
from optbench.selection.base import RandomSubset
from optbench.selection.craig import Craig
from optbench.selection.curvature import CurvatureAverage
from optbench.training import build

WORDS = (
    "dataset=digits", "model=mlp", "model.hidden=[8]", "optimizer=momentum", "dataset.train_limit=200", "batch=8",
    "budget.epochs=2", "precision=fp64", "tracker=none", "progress=false",
)  # fmt: skip


def task(*words):
    run = RunConfig.of(config.compose([*WORDS, *words]))
    found = build.build_task(run, build.load_data(run))
    found.configure_optimizers()
    return found


def first_selection(*words):
    """The task after its first selection, and the subset."""
    trained = task(*words)
    trained._select(0)
    return trained, trained.recipe.selection.current


class TestSubsets:
    @pytest.mark.parametrize("name", ["random", "craig", "adacore"])
    def test_every_class_has_its_part_and_weights_have_mean_one(self, name):
        trained, chosen = first_selection(f"selection={name}", "selection.fraction=0.2")
        labels = trained.source.splits["train"].targets
        for each in range(10):
            members = labels == each
            own = members[chosen.indices]
            assert int(own.sum()) == max(round(0.2 * int(members.sum())), 1)
            # The sizes of the clusters of a class sum to the class.
            share = float(chosen.weights[own].sum()) * len(labels) / len(chosen.indices)
            assert share == pytest.approx(int(members.sum()), rel=1e-12)
        assert float(chosen.weights.mean()) == pytest.approx(1, rel=1e-12)
        assert len(chosen.indices.unique()) == len(chosen.indices)

    def test_without_classes_a_part_of_all(self):
        _, chosen = first_selection("selection=craig", "selection.per_class=false", "selection.fraction=0.1")
        assert len(chosen.indices) == 20

    @pytest.mark.parametrize("name", ["craig", "adacore"])
    def test_all_examples_have_weight_one_and_no_error(self, name):
        trained, chosen = first_selection(f"selection={name}", "selection.fraction=1")
        assert chosen.weights.tolist() == [1.0] * 200
        assert trained.recipe.selection.bound == 0

    def test_random_subsets_are_drawn_anew_and_are_equal_for_equal_seeds(self):
        trained, first = first_selection("selection=random")
        trained._select(trained.recipe.selection.every)
        second = trained.recipe.selection.current
        _, again = first_selection("selection=random")
        assert first.indices.tolist() == again.indices.tolist() != second.indices.tolist()
        assert second.number == 1
        both = len({*first.indices.tolist(), *second.indices.tolist()})
        assert trained.recipe.selection.values()["distinct_examples"] == both

    def test_the_weighted_gradient_of_craig_is_nearer_than_that_of_a_random_subset(self):
        def error(name):
            trained, chosen = first_selection(f"selection={name}", "selection.fraction=0.2")
            inputs, targets = next(trained.source.evaluation("train", 200))
            gradients = CrossEntropy().output_gradient(trained.model(inputs), targets)
            whole, subset = gradients.sum(0), (chosen.weights[:, None] * gradients[chosen.indices]).mean(0) * 200
            return float((whole - subset).norm()), trained

        near, trained = error("craig")
        far, _ = error("random")
        assert near < 0.6 * far
        assert near <= trained.recipe.selection.bound

    def test_curvature_that_is_the_same_everywhere_changes_nothing(self, monkeypatch):
        monkeypatch.setattr("optbench.selection.population.hessian_diagonal", lambda objective, seed, step: {
            id(each): torch.full_like(each, 0.3) for each in objective.network.parameters
        })  # fmt: skip
        for power in (1, 0.5):
            _, one = first_selection("selection=craig")
            _, other = first_selection("selection=adacore", f"selection.power={power}", "selection.epsilon=0")
            assert one.indices.tolist() == other.indices.tolist()
            assert one.weights.tolist() == other.weights.tolist()


class TestFeatures:
    def test_gradients_in_the_outputs_are_softmax_minus_one_hot(self):
        trained, _ = first_selection("selection=craig")
        population = of(trained)
        inputs, targets = next(trained.source.evaluation("train", 200))
        expected = trained.model(inputs).softmax(1) - nn.functional.one_hot(targets, 10)
        torch.testing.assert_close(population.output_gradients(), expected.detach())
        assert population.passes == 200

    def test_the_gradients_in_the_outputs_are_those_in_the_last_bias(self):
        trained, _ = first_selection("selection=craig")
        inputs, targets = next(trained.source.evaluation("train", 1))
        bias = last_bias(trained.model)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(trained.model(inputs), targets), [bias])
        torch.testing.assert_close(of(trained).output_gradients()[0], gradient)

    def test_curvature_is_that_of_the_last_bias(self):
        """With many draws the diagonal of diag(p) - p p^T, averaged over the examples."""
        trained, _ = first_selection("selection=adacore")
        inputs, _ = next(trained.source.evaluation("train", 200))
        p = trained.model(inputs).detach().softmax(1)
        found = of(trained).hessian_diagonal(last_bias(trained.model), 400, None, 0)
        torch.testing.assert_close(found, (p - p.square()).mean(0), rtol=0.1, atol=0.02)
        # The mode of training is back.
        assert trained.model.training

    def test_powers_of_the_curvature(self, monkeypatch):
        diagonal = torch.arange(1.0, 11.0, dtype=torch.float64)
        monkeypatch.setattr("optbench.selection.population.Population.hessian_diagonal", lambda *_: diagonal)
        trained, _ = first_selection("selection=craig")
        gradients = of(trained).output_gradients()
        for power in (1.0, 0.5):
            selection = AdaCore(0.1, 1, power=power, epsilon=0.1)
            expected = gradients / (diagonal + 0.55) ** power
            torch.testing.assert_close(selection.features(of(trained)), expected)

    def test_the_square_root_ignores_the_scale_of_parameters_and_the_inverse_does_not(self, monkeypatch):
        """In coordinates x_k = y_k / s_k gradients are divided by s_k and curvatures by s_k^2."""
        scale = torch.logspace(-1, 1, 10, dtype=torch.float64)
        trained, _ = first_selection("selection=craig")
        gradients, diagonal = of(trained).output_gradients(), torch.rand(10, dtype=torch.float64) + 0.1
        features = {}
        for power in (1.0, 0.5):
            for factor in (torch.ones_like(scale), scale):
                monkeypatch.setattr(
                    "optbench.selection.population.Population.hessian_diagonal", lambda *_, f=factor: diagonal / f**2
                )
                monkeypatch.setattr(
                    "optbench.selection.population.Population.output_gradients", lambda _, f=factor: gradients / f
                )
                features.setdefault(power, []).append(AdaCore(0.1, 1, power=power, epsilon=0.0).features(of(trained)))
        torch.testing.assert_close(*features[0.5])
        assert not torch.allclose(*features[1.0])


def of(trained):
    from optbench.selection import Population

    return Population(trained.network, trained.recipe.loss, trained.source, trained.execution)


class TestCurvature:
    def test_one_draw_is_exact_for_a_diagonal_hessian(self):
        """The outputs are w_k x_k, with the loss 1/2 sum_k (w_k x_k - t_k)^2: the Hessian is diag(mean x_k^2)."""

        class Scales(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(4, dtype=torch.float64))

            def forward(self, inputs):
                return inputs * self.w

        inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        model = Scales()
        objective = Objective(Network(model), SquaredError(), inputs, torch.zeros(6, 4, dtype=torch.float64))
        found = hessian_diagonal(objective, 0, 0)[id(model.w)]
        torch.testing.assert_close(found, inputs.square().mean(0))

    def test_the_variance_of_a_draw_and_the_limits_of_both_averages(self):
        """z ∘ H z has the variance sum_(j != i) H_ij^2: rms tends to the norm of a row, mean_abs to |H_ii|."""
        generator = torch.Generator().manual_seed(1)
        matrix = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        matrix = matrix + matrix.T
        signs = 1.0 - 2 * torch.randint(0, 2, (40000, 4), generator=generator).double()
        draws = signs * (signs @ matrix)
        off = matrix.square().sum(1) - matrix.diagonal().square()
        torch.testing.assert_close(draws.var(0), off, rtol=0.03, atol=0)
        means = {name: CurvatureAverage(name, 0.9999) for name in ("mean_abs", "rms")}
        for draw in draws[:20000]:
            found = {name: average.update(draw) for name, average in means.items()}
        torch.testing.assert_close(found["rms"], matrix.norm(dim=1), rtol=0.03, atol=0)
        torch.testing.assert_close(found["mean_abs"], matrix.diagonal().abs(), rtol=0.03, atol=0.08)

    @pytest.mark.parametrize("average", ["mean_abs", "rms"])
    def test_weights_of_the_past(self, average):
        """With decay 1/2 the weights of three estimates are 1/7, 2/7, 4/7."""
        mean = CurvatureAverage(average, 0.5)
        found = [float(mean.update(torch.tensor([value], dtype=torch.float64))) for value in (3.0, -3.0, 1.0)]
        second = abs(3 - 2 * 3) / 3 if average == "mean_abs" else 3.0
        third = abs(3 - 6 + 4) / 7 if average == "mean_abs" else ((9 + 18 + 4) / 7) ** 0.5
        assert found == pytest.approx([3.0, second, third], rel=1e-14)


class TestTraining:
    def test_batches_are_epochs_of_the_subset_with_its_weights(self):
        trained, chosen = first_selection("selection=craig")
        count = len(chosen.indices)
        stock = trained.source.splits["train"].inputs
        inputs, _ = trained.source.batch(0, 0, count)
        expected = trained.source._prepare(stock[chosen.indices])
        rows = {
            tuple(row.tolist()): float(weight) for row, weight in zip(expected.flatten(1), chosen.weights, strict=True)
        }
        weights = trained.source.weights(0, count)
        assert {tuple(row.tolist()): float(w) for row, w in zip(inputs.flatten(1), weights, strict=True)} == rows
        shares = [trained.source.weights(0, count - count % 2, rank, 2) for rank in range(2)]
        torch.testing.assert_close(torch.cat(shares), trained.source.weights(0, count - count % 2))

    def test_samples_count_from_the_selection(self):
        trained, chosen = first_selection("selection=random", "selection.every=3", "batch=4")
        trained._select(3)
        second = trained.recipe.selection.current
        assert second.first_sample == 12
        size = len(second.indices)
        drawn = trained.source.weights(12, size)
        assert len(drawn) == size
        index = trained.source._indices(12, size, 0, size)
        assert sorted(index.tolist()) == sorted(second.indices.tolist())
        assert chosen.indices.tolist() != second.indices.tolist()

    def test_the_clocks_are_apart(self):
        trained = task("selection=adacore")
        trained.clock.start()
        trained._select(0)
        assert trained.recipe.selection.seconds > 0
        assert trained.clock.since is not None
        assert trained.clock.elapsed < trained.recipe.selection.seconds
        values = trained.recipe.selection.values()
        assert (values["selections"], values["selection_passes"], values["selection_products"]) == (1, 200, 10 * 200)


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["selection=random", "dataset=text", "model=gpt_small"],
                "selection=random: dataset=text is of kind tokens",
            ),
            (
                ["selection=craig", "dataset=quadratic", "model=quadratic"],
                "selection=craig: dataset=quadratic is of kind noise",
            ),
            (
                ["selection=random", "dataset=adding", "model=rnn"],
                r"selection\.per_class=true: dataset=adding has no class labels",
            ),
            (
                ["selection=random", "communication=sign", "communication.workers=2"],
                "selection=random: workers of communication=sign",
            ),
            (["selection=adacore", "precision=fp16"], "precision=fp16: selection=adacore needs second derivatives"),
            (
                ["selection=craig", "trainer.sharding=fsdp2", "trainer=ddp", "trainer.devices=2"],
                "selection=craig: ranks that divide",
            ),
            (["selection=craig", "selection.fraction=0"], r"selection\.fraction=0"),
        ],
    )
    def test_before_any_work(self, words, message):
        with pytest.raises(UserError, match=message):
            config.compose(["dataset=digits", "model=mlp", *words])

    def test_a_batch_larger_than_the_subset(self):
        with pytest.raises(
            UserError, match=r"batch=64: larger than the subsets of selection=random, which have 2\d examples"
        ):
            task("selection=random", "batch=64")

    def test_a_model_without_a_last_linear_layer(self):
        selection = AdaCore(0.1, 1)
        with pytest.raises(UserError, match="selection=adacore: Sequential does not end in a linear layer"):
            selection.check(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1)))
        Craig(0.1, 1).check(nn.Sequential(nn.Conv1d(1, 1, 1)))
        RandomSubset(0.1, 1).check(nn.Sequential(nn.Conv1d(1, 1, 1)))


def test_no_selection_leaves_the_run_id():
    plain = config.compose([*WORDS])
    assert config.run_id(config.compose([*WORDS, "selection=none"])) == config.run_id(plain)
    ids = {
        config.run_id(config.compose([*WORDS, f"selection={name}"])) for name in ("none", "random", "craig", "adacore")
    }
    assert len(ids) == 4
