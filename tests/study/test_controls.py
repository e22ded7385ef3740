import numpy as np
import pytest
import torch
from study_tables import BUDGETS, CANDIDATES, make_config, make_table

from adatok_hf.allocation.choice import widest_shares
from adatok_hf.study import controls
from adatok_hf.study.arms import HeldOut, equal_mean_arms
from adatok_hf.study.statistics import distance_to_front, front, interval, rank_correlation, resampled_means


@pytest.mark.parametrize("mean_budget", [2, 4, 7.3, 15.9, 16])
def test_lotteries_for_all_images_have_exactly_the_wanted_mean(mean_budget):
    budgets = torch.tensor(BUDGETS).double()
    loss = make_table(50, 0).lpips.mean(dim=0)
    for weights in (
        controls.uniform(BUDGETS, mean_budget),
        widest_shares(BUDGETS, mean_budget),
        controls.time_sharing(BUDGETS, loss, mean_budget),
    ):
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(1)
        assert (weights @ budgets).item() == pytest.approx(mean_budget, abs=1e-6)


def test_uniform_is_one_budget_or_its_two_neighbours():
    assert controls.uniform(BUDGETS, 6).nonzero().flatten().tolist() == [2]
    assert controls.uniform(BUDGETS, 6.5).nonzero().flatten().tolist() == [2, 3]


def test_a_single_candidate_is_what_every_control_chooses():
    budgets, scores = torch.tensor([16]), torch.tensor([[0.3], [0.1]])
    for weights in (
        controls.uniform(budgets, 16),
        controls.time_sharing(budgets, torch.tensor([0.5]), 16),
        widest_shares([16], 16),
    ):
        assert weights.tolist() == [1.0]
    assert controls.choose(scores, budgets, 16).tolist() == [0, 0]


def test_the_widest_shares_have_the_largest_entropy_of_their_mean():
    weights = widest_shares(CANDIDATES, 7)
    best = torch.special.entr(weights).sum()
    for direction in ([1.0, -2.0, 1.0, 0.0], [0.0, 1.0, -2.0, 1.0]):  # what keeps sum and mean
        for sign in (1, -1):
            other = weights + sign * 0.01 * torch.tensor(direction)
            assert torch.special.entr(other).sum() < best


def test_time_sharing_leaves_out_budgets_above_the_hull():
    loss = torch.tensor([1.0, 0.9, 0.2, 0.0])
    weights = controls.time_sharing(CANDIDATES, loss, 8)
    assert weights.tolist() == [0.5, 0, 0.5, 0]
    assert weights @ loss.double() < controls.uniform(CANDIDATES, 8) @ loss.double()


@pytest.mark.parametrize("control", [controls.uniform, widest_shares])
@pytest.mark.parametrize("mean_budget", [3.9, 16.1])
def test_a_mean_outside_the_budgets_is_refused(control, mean_budget):
    with pytest.raises(ValueError, match=f"between 4 and 16.*got {mean_budget}"):
        control(CANDIDATES, mean_budget)


def test_by_size_deals_out_the_same_budgets_in_the_order_of_the_files():
    columns, sizes = torch.tensor([3, 0, 2, 1]), torch.tensor([10, 40, 20, 30])
    assert controls.by_size(columns, sizes).tolist() == [0, 3, 1, 2]
    assert controls.by_size(columns, sizes, reverse=True).tolist() == [3, 0, 2, 1]


def test_choose_gives_the_best_total_of_its_mean():
    held_out = HeldOut(make_table(300, 0), CANDIDATES)
    scores = held_out.fidelity(1.0)
    columns = controls.choose(scores, CANDIDATES, 9)
    assert torch.tensor(CANDIDATES)[columns].double().mean().item() == pytest.approx(9, abs=0.05)
    total = scores.gather(1, columns[:, None]).sum()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shuffled = columns[torch.randperm(300, generator=generator)]
        assert scores.gather(1, shuffled[:, None]).sum() < total


def test_the_regressor_learns_what_the_features_tell():
    config, other = make_config(), make_table(300, 1)
    state = torch.random.get_rng_state()
    network = controls.predict_fidelity(make_table(1500, 0), config, seed=3, max_epochs=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = controls.predict_fidelity(make_table(1500, 0), config, seed=3, max_epochs=20)
    fidelity = other.fidelity()[:, other.columns(CANDIDATES)]
    with torch.no_grad():
        assert torch.equal(network(other.features), again(other.features))
        predicted = network(other.features)
    centred = fidelity - fidelity.mean(dim=1, keepdim=True)
    assert np.corrcoef(predicted.flatten(), centred.flatten())[0, 1] > 0.9


def test_shuffled_is_the_mean_over_permutations():
    table = make_table(120, 0)
    scores = torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    held_out = HeldOut(table, CANDIDATES)
    arms = equal_mean_arms(held_out, {"policy": [scores]}, 1.0, 9)
    (columns,) = held_out.columns_at_mean([scores], 9)
    draws = [held_out.choices(columns.roll(shift)).lpips for shift in range(120)]  # each image gets each budget once
    assert np.allclose(np.mean(draws, axis=0), arms["shuffled"].lpips)


def test_all_arms_have_the_same_mean_and_the_oracle_is_the_best():
    held_out = HeldOut(make_table(400, 0), CANDIDATES)
    scores = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    arms = equal_mean_arms(held_out, {"policy": [scores, scores.flip(0)], "regressor": [scores]}, 1.0, 9.3)
    for arm in arms.values():
        assert arm.budgets.mean() == pytest.approx(9.3, abs=0.05)
        assert arms["oracle (LPIPS)"].lpips.mean() <= arm.lpips.mean()


def test_seeds_are_averaged_image_by_image():
    held_out = HeldOut(make_table(100, 0), CANDIDATES)
    ones, twos = torch.ones(100, dtype=torch.long), torch.full((100,), 2)
    arm = held_out.choices(ones, twos)
    assert np.allclose(arm.lpips, (held_out.choices(ones).lpips + held_out.choices(twos).lpips) / 2)
    assert np.allclose(arm.budgets, 10)
    assert arm.lpips_of_seeds == pytest.approx(
        [held_out.lpips[:, 1].mean().item(), held_out.lpips[:, 2].mean().item()]
    )


def test_intervals_have_the_width_that_theory_wants():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2500)
    low, high = interval(resampled_means({"": values}, resamples=4000)[""])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 50, rel=0.06)


def test_resampling_is_paired_and_repeatable():
    values = np.random.default_rng(0).normal(size=3000)
    first, second = (resampled_means({"a": values, "b": 2 * values + 1}, 1500, seed) for seed in (0, 0))
    assert np.array_equal(first["a"], second["a"])
    assert np.allclose(first["b"], 2 * first["a"] + 1)
    assert not np.array_equal(first["a"], resampled_means({"a": values}, 1500, seed=1)["a"])


def test_the_front_leaves_out_points_that_another_one_beats():
    budgets, lpips = front(np.array([16.0, 4.0, 8.0, 9.0]), np.array([0.2, 0.4, 0.3, 0.35]))
    assert (budgets.tolist(), lpips.tolist()) == ([4, 8, 16], [0.4, 0.3, 0.2])
    assert distance_to_front(12, 0.27, budgets, lpips) == pytest.approx(0.02)
    assert distance_to_front(20, 0.15, budgets, lpips) == pytest.approx(-0.05)


def test_there_is_no_rank_correlation_with_a_constant():
    assert rank_correlation(np.ones(5), np.arange(5)) is None
    assert rank_correlation(np.arange(5), np.arange(5) ** 3) == pytest.approx(1)
