"""Built-in tasks whose answers are known: sparse factors, the game, the surfaces and the checks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import thalweg
from lab.training import SEED, evaluated, trained
from thalweg.lab.loading import load_task
from thalweg.lab.tasks import checks, factors, gan, surfaces


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """As a race's workers have it; small models gain nothing from a second one."""
    torch.set_num_threads(1)


class TestFactors:
    def test_gradients_are_sparse_and_adamw_refuses_them(self) -> None:
        problem = load_task("factors").build(SEED)
        problem.loss(next(iter(problem.batches()))).backward()
        assert all(parameter.grad.is_sparse for parameter in problem.model.parameters())
        with pytest.raises(RuntimeError, match="sparse"):
            thalweg.AdamW(problem.model.parameters()).step()

    def test_the_true_factors_reach_the_floor(self) -> None:
        chance = torch.Generator().manual_seed(0)
        model = factors.Factors()
        with torch.no_grad():
            for table in (model.users, model.items):
                table.weight.copy_(torch.randn(table.weight.shape, generator=chance) / factors.RANK**0.25)
            pairs, ratings = factors.load_splits()["test"]
            assert factors.error(model(pairs), ratings)["RMSE"] == pytest.approx(factors.NOISE, rel=0.05)

    def test_an_optimizer_for_sparse_gradients_comes_near_the_floor(self) -> None:
        task = load_task("factors")
        assert task.target > factors.NOISE
        assert task.reached(trained(task, "sparseadam", 0.1)["RMSE"])


class TestGame:
    def test_one_loss_trains_as_two_optimizers_do(self) -> None:
        """Simultaneous updates, each player's gradient taken from its own textbook loss."""
        joint, apart = gan.Ring(SEED), gan.Ring(SEED)
        one = torch.optim.Adam(joint.model.parameters(), lr=1e-2)
        players = apart.model.discriminator, apart.model.generator
        two = [torch.optim.Adam(player.parameters(), lr=1e-2) for player in players]
        for batch, (real, noise) in itertools.islice(zip(joint.batches(), apart.batches(), strict=True), 4):
            one.zero_grad()
            joint.loss(batch).backward()
            one.step()

            real.requires_grad_()
            fake, scores = apart.model.generator(noise), apart.model.discriminator(real)
            slopes = torch.autograd.grad(scores.sum(), real, create_graph=True)[0]
            guess = apart.model.discriminator(fake)
            truth, lie = torch.ones_like(guess), torch.zeros_like(guess)
            entropy = F.binary_cross_entropy_with_logits
            judging = entropy(scores, truth) + entropy(guess, lie) + gan.PENALTY / 2 * slopes.square().sum(1).mean()
            for player, loss in zip(players, (judging, entropy(guess, truth)), strict=True):
                own = list(player.parameters())
                for parameter, gradient in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
                    parameter.grad = gradient
            for optimizer in two:
                optimizer.step()
        for first, second in zip(joint.model.parameters(), apart.model.parameters(), strict=True):
            assert torch.allclose(first, second, atol=1e-5)

    def test_each_loss_reaches_its_own_player_only(self) -> None:
        problem = gan.Ring(SEED)
        batch = next(problem.batches())
        for own, other in (("discriminator", "generator"), ("generator", "discriminator")):
            problem.model.zero_grad(set_to_none=True)
            problem.model.losses(*batch)[own == "generator"].backward()
            assert all(p.grad is not None for p in getattr(problem.model, own).parameters())
            assert all(p.grad is None for p in getattr(problem.model, other).parameters())

    def test_misplaced_counts_what_has_to_move(self) -> None:
        centres = gan.centres()
        assert gan.misplaced(centres) == pytest.approx(0)
        assert gan.misplaced(centres[:1].expand(80, 2)) == pytest.approx(7 / 8)
        assert gan.misplaced(torch.zeros(80, 2)) == 1
        assert gan.misplaced(gan.ring(4096, torch.Generator().manual_seed(0))) < 0.05

    def test_energy_distance_of_two_points_is_known(self) -> None:
        here, there = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        assert gan.energy_distance(here, there) == pytest.approx(10)
        assert gan.energy_distance(here, here) == pytest.approx(0)


class TestSurfaces:
    def test_the_quadratic_has_the_stated_condition_and_optimum(self) -> None:
        matrix, optimum = surfaces.valley()
        values = torch.linalg.eigvalsh(matrix.double())
        assert (values[-1] / values[0]).item() == pytest.approx(surfaces.CONDITION, rel=1e-3)
        problem = surfaces.Quadratic(SEED)
        assert evaluated(problem)["excess loss"] > 0.3
        with torch.no_grad():
            problem.model.place.copy_(optimum)
        assert evaluated(problem)["excess loss"] == 0

    def test_the_expected_loss_is_the_floor_and_the_excess(self) -> None:
        problem = surfaces.Quadratic(SEED)
        with torch.no_grad():
            losses = [problem.loss(batch).item() for batch in itertools.islice(problem.batches(), 2000)]
        expected = surfaces.floor() + evaluated(problem)["excess loss"]
        assert sum(losses) / len(losses) == pytest.approx(expected, rel=0.01)

    def test_rosenbrock_has_its_known_values(self) -> None:
        problem = surfaces.Rosenbrock(SEED)
        for place, value in (((1.0, 1.0), 0.0), ((-1.2, 1.0), 24.2), ((0.0, 0.0), 1.0)):
            with torch.no_grad():
                problem.model.place.copy_(torch.tensor(place))
            assert evaluated(problem)["loss"] == pytest.approx(value, rel=1e-5)


class TestChecks:
    @pytest.mark.filterwarnings("ignore:.*rounding")
    def test_stall_is_failed_by_rounding_to_nearest_at_every_rate(self) -> None:
        left = [trained(load_task("stall"), "adamw", lr)["loss"] for lr in (3e-3, 1e-2, 3e-2, 0.1)]
        assert all(share > 2 * checks.STALL_LEVEL for share in left), left

    def test_stall_is_passed_by_stochastic_rounding(self) -> None:
        for name, lr in (("adamw", 1e-2), ("lion", 3e-3)):
            assert trained(load_task("stall"), name, lr, rounding="stochastic")["passed"] == 1

    def test_stall_is_about_the_parameters_type_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        linear = torch.nn.Linear
        monkeypatch.setattr(torch.nn, "Linear", lambda *shape, dtype, **rest: linear(*shape, **rest))
        assert trained(load_task("stall"), "adamw", 1e-2)["passed"] == 1

    def test_a_spike_scales_the_gradient_and_not_the_loss(self) -> None:
        problem = checks.Spike(SEED)
        images, labels, factor = next(itertools.islice(problem.batches(), checks.SPIKES[0], None))
        assert factor == checks.SPIKE
        plain, spiked = problem.loss((images, labels, 1.0)), problem.loss((images, labels, factor))
        assert spiked.item() == pytest.approx(plain.item())
        parameters = list(problem.model.parameters())
        for small, large in zip(*(torch.autograd.grad(x, parameters) for x in (plain, spiked)), strict=True):
            assert torch.allclose(small * checks.SPIKE, large, rtol=1e-4, atol=1e-4)

    def test_spike_is_failed_bare_and_passed_clipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = load_task("spike")
        assert trained(task, "adamw", 3e-3)["passed"] == 0
        assert trained(task, "adamw", 3e-3, techniques=["agc"])["passed"] == 1
        monkeypatch.setattr(checks, "SPIKES", ())
        assert trained(task, "adamw", 3e-3)["passed"] == 1
