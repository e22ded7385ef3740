"""How the weights move: by gradients, by hypervolume, by a wanted mean."""

import math

import pytest
import torch

from adatok_hf.allocation.pareto import (
    FixedWeighting,
    GradientWeighting,
    HypervolumeWeighting,
    Progress,
    TargetMeanWeighting,
    hypervolume,
    pareto_front,
)


HALF = torch.tensor([0.5, 0.5])


def opposed(fidelity: float, efficiency: float) -> Progress:
    """Two opposed gradients of given norms."""
    return Progress(torch.tensor([[fidelity, 0.0], [-efficiency, 0.0]]), mean_budget=0.5)


def started(fidelity: float, efficiency: float, **options) -> GradientWeighting:
    """A rule whose first gradients had these norms."""
    weighting = GradientWeighting(HALF.clone(), **options)
    weighting.update(opposed(fidelity, efficiency))
    assert weighting.weights.tolist() == [0.5, 0.5]
    return weighting


def test_objective_with_more_of_its_first_gradient_left_gains_weight():
    weighting = started(10.0, 1.0)
    weighting.update(opposed(5.0, 0.9))  # fidelity has half its gradient left, efficiency nine tenths
    assert weighting.weights[1] > 0.5 and weighting.weights.sum().item() == pytest.approx(1)


def test_gradients_of_unit_length_would_never_move_two_weights():
    for angle in (0.3, 1.5, 3.0):
        gradients = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        influence = gradients @ gradients.sum(dim=0)
        assert influence[0].item() == pytest.approx(influence[1].item(), abs=1e-6)


def test_weights_rest_where_both_objectives_have_the_same_share_of_their_first_gradient_left():
    weighting = started(3.0, 1.0)
    weighting.update(opposed(1.5, 0.5))
    assert weighting.weights.tolist() == pytest.approx([0.5, 0.5])  # though 0.5 * 1.5 - 0.5 * 0.5 is not 0


def test_weights_rest_inverse_to_the_first_norms_where_nothing_but_the_weighted_gradients_moves_the_policy():
    """A policy that has always converged: the gradients balance under the weights of the moment."""
    weighting = started(3.0, 1.0, learning_rate=0.2)
    for _ in range(2000):
        fidelity, efficiency = weighting.weights.tolist()
        weighting.update(opposed(efficiency, fidelity))  # w_f |g_f| = w_e |g_e|
    assert (weighting.weights[0] * 3.0).item() == pytest.approx((weighting.weights[1] * 1.0).item(), rel=1e-2)


def test_weights_rest_where_the_policy_stands_still():
    weighting = started(1.0, 1.0)
    progress = opposed(0.5, 0.9)
    progress.pace = 0.0
    weighting.update(progress)
    assert weighting.weights.tolist() == [0.5, 0.5]


def test_no_weight_falls_below_the_floor():
    weighting = started(1.0, 1.0, floor=0.1, learning_rate=1.0)
    for _ in range(100):
        weighting.update(opposed(5.0, 0.1))
    assert weighting.weights.tolist() == pytest.approx([0.9, 0.1])


def test_fixed_weights_stay():
    weighting = FixedWeighting(HALF.clone())
    weighting.update(opposed(5.0, 0.1))
    assert weighting.weights.tolist() == [0.5, 0.5] and weighting.multiplier == 1


def test_meta_reward_rises_with_the_hypervolume_that_a_point_adds():
    weighting = HypervolumeWeighting(HALF.clone(), reference=(0.0, 0.0))

    def at(point):
        weighting.update(Progress(torch.zeros(2, 2), 0.5, point))
        return weighting.multiplier

    assert at((1.0, 1.0)) == pytest.approx(0.5 + 1.5 * math.tanh(1.0))
    assert at((0.5, 0.5)) == 0.5  # behind the front
    assert at((2.0, 0.5)) == pytest.approx(0.5 + 1.5 * math.tanh(0.5))
    assert at(None) == pytest.approx(0.5 + 1.5 * math.tanh(0.5))  # nothing measured, nothing changes
    assert weighting.front == [(2.0, 0.5), (1.0, 1.0)]


def test_efficiency_gains_weight_above_the_wanted_mean_and_loses_it_below():
    weighting = TargetMeanWeighting(HALF.clone(), target=0.5)
    weighting.update(Progress(torch.zeros(2, 2), mean_budget=0.8))
    assert weighting.weights[1] > 0.5
    weighting = TargetMeanWeighting(HALF.clone(), target=0.5)
    weighting.update(Progress(torch.zeros(2, 2), mean_budget=0.2))
    assert weighting.weights[1] < 0.5


def test_front_keeps_what_nothing_beats():
    points = [(1.0, 1.0), (2.0, 0.0), (0.5, 0.9), (0.0, 3.0), (2.0, 0.0)]
    assert pareto_front(points) == [(2.0, 0.0), (1.0, 1.0), (0.0, 3.0)]


def test_hypervolume_counts_the_area_above_the_corner_once():
    assert hypervolume([(2.0, 1.0), (1.0, 2.0)], (0.0, 0.0)) == 3
    assert hypervolume([(2.0, 1.0), (-1.0, 9.0)], (0.0, 0.0)) == 2
    assert hypervolume([], (0.0, 0.0)) == 0


@pytest.mark.parametrize("rule", [GradientWeighting, HypervolumeWeighting, TargetMeanWeighting])
def test_state_is_restored(rule, tmp_path):
    weighting = rule(HALF.clone())
    for step in range(12):
        weighting.update(Progress(torch.randn(2, 3), 0.7, (float(step), 1.0)))
    torch.save(weighting.state_dict(), tmp_path / "state.pt")
    other = rule(HALF.clone())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in (weighting, other):
        step.update(Progress(torch.ones(2, 3), 0.7, (30.0, 2.0)))
    assert torch.equal(weighting.weights, other.weights) and weighting.multiplier == other.multiplier
