"""Stage 2 on random reward tables: what the policy learns, what is logged, what is refused."""

import json
import math

import pytest
import torch

from adatok_hf.allocation.grpo import entropy
from adatok_hf.training.policy_arguments import PolicyTrainingArguments
from adatok_hf.training.policy_trainer import AdaTokPolicyTrainer
from adatok_hf.training.train_policy import new_policy, train_policy


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a short run on the CPU; keywords override them."""

    def make(**overrides) -> PolicyTrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 60,
            "per_device_train_batch_size": 64,
            "learning_rate": 1e-2,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "log_level": "error",
        }
        return PolicyTrainingArguments(**{**defaults, **overrides})

    return make


@pytest.fixture
def chosen():
    """Budgets that a trained policy chooses for the images of a table."""

    def choose(trained, table):
        with torch.no_grad():
            return table.budgets[trained.policy(table.features).argmax(dim=-1)].float()

    return choose


def test_images_that_gain_more_get_more_codes(make_table, tiny_config, arguments, chosen):
    held_out = make_table(seed=1)
    budgets = chosen(train_policy(make_table(400), tiny_config, arguments()), held_out)
    gain = held_out.features[:, 0]
    assert budgets[gain > 1].mean() > budgets[gain < -1].mean() + 4


def test_a_scale_for_each_image_gives_all_images_nearly_the_same(make_table, tiny_config, arguments, chosen):
    held_out = make_table(seed=1)
    apart = chosen(train_policy(make_table(400), tiny_config, arguments(scale_rewards="group")), held_out)
    together = chosen(train_policy(make_table(400), tiny_config, arguments()), held_out)
    assert apart.std() < 0.5 * together.std()


def test_more_weight_on_fidelity_gives_more_codes(make_table, tiny_config, arguments, chosen):
    table = make_table(400)
    low, high = (
        chosen(train_policy(table, tiny_config, arguments(weighting="fixed", fidelity_weight=weight)), table).mean()
        for weight in (0.2, 0.8)
    )
    assert low < high


def test_rows_reach_workers_that_are_not_forked(make_table, tiny_config, arguments):
    workers = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "forkserver"}
    alone, apart = (
        train_policy(make_table(100), tiny_config, arguments(max_steps=2, **more)) for more in ({}, workers)
    )
    assert all(torch.equal(*pair) for pair in zip(alone.policy.parameters(), apart.policy.parameters()))


@pytest.mark.parametrize("start", [0.25, 0.75])
def test_gradient_rule_moves_the_weights_from_wherever_they_start(make_table, tiny_config, arguments, start):
    args = arguments(max_steps=150, fidelity_weight=start, weighting_learning_rate=0.3)
    weight = train_policy(make_table(400), tiny_config, args).weights[0]
    assert abs(weight - 0.5) < abs(start - 0.5)


def test_target_mean_is_approached(make_table, tiny_config, arguments):
    def final_mean(target):
        args = arguments(
            max_steps=150, weighting="target_mean", target_mean_budget=target, weighting_learning_rate=0.2
        )
        return train_policy(make_table(400), tiny_config, args).history[-1]["eval_mean_budget"]

    assert final_mean(7.0) == pytest.approx(7.0, abs=2.0)
    assert final_mean(12.0) == pytest.approx(12.0, abs=2.0)


def test_log_has_the_words_of_trl_and_of_the_weights(make_table, tiny_config, arguments):
    history = train_policy(make_table(), tiny_config, arguments(max_steps=20)).history
    (first, *_) = [entry for entry in history if "loss" in entry]
    names = {"reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "clip_ratio", "mean_budget", "fidelity"}
    names |= {"weight_fidelity", "weight_efficiency", "grad_norm_fidelity", "grad_norm_efficiency"}
    assert names <= first.keys()
    assert 0 < first["entropy"] <= math.log(3) + 1e-6 and first["frac_reward_zero_std"] == 0
    assert first["weight_fidelity"] + first["weight_efficiency"] == pytest.approx(1)
    assert 4 <= first["mean_budget"] <= 16 and first["grad_norm_fidelity"] > 0


def test_first_step_has_the_gradient_norms_of_the_whole_batch(make_table, tiny_config, arguments):
    table = make_table(64)
    args = arguments(max_steps=1, logging_steps=1)
    trainer = AdaTokPolicyTrainer(new_policy(tiny_config), args, train_dataset=table)
    objectives = trainer.advantages(table.fidelity())
    log_probs = trainer.model(table.features).log_softmax(-1)
    expected = (log_probs.exp() * objectives[:, 0]).sum(-1).mean()
    gradient = torch.autograd.grad(expected, list(trainer.model.parameters()))
    norm = torch.cat([part.flatten() for part in gradient]).norm().item()
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm_fidelity"] == pytest.approx(norm, rel=1e-4)


def test_weights_move_once_per_optimizer_step_by_all_its_micro_batches(make_table, tiny_config, arguments):
    def train(**overrides):
        args = arguments(max_steps=4, weighting_learning_rate=0.5, fidelity_weight=0.3, **overrides)
        trainer = AdaTokPolicyTrainer(new_policy(tiny_config), args, train_dataset=make_table(256))
        trainer.train()
        return trainer.weighting

    whole = train(per_device_train_batch_size=64)
    parts = train(per_device_train_batch_size=16, gradient_accumulation_steps=4)
    torch.testing.assert_close(parts.start_norms, whole.start_norms, rtol=1e-3, atol=0)
    torch.testing.assert_close(parts.weights, whole.weights, rtol=1e-4, atol=0)


def test_advantages_of_both_objectives_have_unit_deviation_over_the_dataset(make_table, tiny_config, arguments):
    table = make_table()
    trainer = AdaTokPolicyTrainer(new_policy(tiny_config), arguments(), train_dataset=table)
    objectives = trainer.advantages(table.fidelity())
    torch.testing.assert_close(objectives.square().mean(dim=(0, 2)), torch.ones(2))
    torch.testing.assert_close(objectives.mean(dim=-1), torch.zeros(200, 2), atol=1e-5, rtol=0)
    assert (objectives[:, 1].diff(dim=-1) < 0).all()  # more codes, less efficient


def test_old_policy_is_refreshed_every_old_policy_steps(make_table, tiny_config, arguments):
    def clip_ratios(**overrides):
        args = arguments(max_steps=8, logging_steps=1, epsilon=1e-4, **overrides)
        trained = train_policy(make_table(), tiny_config, args)
        return [entry["clip_ratio"] for entry in trained.history if "loss" in entry]

    assert clip_ratios(old_policy_steps=1) == [0] * 8  # the ratio is 1
    ratios = clip_ratios(old_policy_steps=4)
    assert ratios[0] == ratios[4] == 0 and min(ratios[1:4] + ratios[5:]) > 0


def test_kl_holds_the_policy_near_its_start(make_table, tiny_config, arguments):
    def final_kl(beta):
        history = train_policy(make_table(), tiny_config, arguments(beta=beta, entropy_coef=0.0)).history
        return [entry["kl"] for entry in history if "loss" in entry][-1]

    assert final_kl(5.0) < 0.2 * final_kl(0.0)


def test_entropy_keeps_the_policy_from_collapsing(make_table, tiny_config, arguments):
    table = make_table()

    def final_entropy(coefficient):
        trained = train_policy(table, tiny_config, arguments(entropy_coef=coefficient))
        with torch.no_grad():
            return entropy(trained.policy(table.features).log_softmax(-1)).mean()

    assert final_entropy(1.0) > final_entropy(0.0) + 0.3


def test_evaluation_measures_the_choice_without_bias(make_table, tiny_config, arguments):
    held_out = make_table(seed=1)
    trained = train_policy(make_table(), tiny_config, arguments(), held_out)
    metrics = trained.history[-1]
    with torch.no_grad():
        columns = trained.policy(held_out.features).argmax(dim=-1)
    assert metrics["eval_mean_budget"] == pytest.approx(held_out.budgets[columns].float().mean().item())
    assert metrics["eval_lpips"] == pytest.approx(held_out.lpips[range(200), columns].mean().item())
    assert metrics["eval_psnr"] == pytest.approx(held_out.psnr[range(200), columns].mean().item())
    assert metrics["eval_top_share"] == pytest.approx(columns.bincount().max().item() / 200)


@pytest.mark.parametrize("weighting", ["gradient", "hypervolume"])
def test_cut_off_run_goes_on_exactly(make_table, tiny_config, arguments, tmp_path, weighting):
    options = {"weighting": weighting, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 3}
    options |= {"old_policy_steps": 4, "max_steps": 12, "save_steps": 6}
    table = make_table()
    whole = train_policy(table, tiny_config, arguments(**options))
    again = train_policy(
        table, tiny_config, arguments(**options), resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6")
    )
    for name, value in whole.policy.state_dict().items():
        torch.testing.assert_close(again.policy.state_dict()[name], value, msg=name)
    assert again.weights == whole.weights


def test_checkpoint_of_another_trainer_is_refused(make_table, tiny_config, arguments, tmp_path):
    train_policy(make_table(), tiny_config, arguments(max_steps=2, save_strategy="steps", save_steps=2))
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "policy_state.pt").unlink()
    with pytest.raises(ValueError, match="cannot be resumed"):
        train_policy(make_table(), tiny_config, arguments(max_steps=4), resume_from_checkpoint=str(checkpoint))


def test_same_seed_same_policy_other_seed_another(make_table, tiny_config, arguments):
    def weights(seed):
        return train_policy(make_table(), tiny_config, arguments(max_steps=5, seed=seed)).policy.fc2.weight

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_rewards_that_are_not_finite(make_table, tiny_config, arguments):
    table = make_table()
    table.mse[17, 2] = torch.nan
    with pytest.raises(ValueError, match="nan as mse of image 17 at budget 16"):
        train_policy(table, tiny_config, arguments())


def test_too_few_images(make_table, tiny_config, arguments):
    with pytest.raises(ValueError, match="at least 64 images; the table has 45"):
        train_policy(make_table(50), tiny_config, arguments())


def test_rewards_without_any_spread(make_table, tiny_config, arguments):
    table = make_table()
    table.lpips[:], table.mse[:] = 0.3, 0.1
    with pytest.raises(ValueError, match="nothing to choose"):
        train_policy(table, tiny_config, arguments())


def test_table_without_the_candidates(make_table, tiny_config, arguments):
    with pytest.raises(ValueError, match=r"not \[8\]"):
        train_policy(make_table(budgets=(4, 16)), tiny_config, arguments())
    with pytest.raises(ValueError, match="chooses among 3 budgets"):
        AdaTokPolicyTrainer(new_policy(tiny_config), arguments(), train_dataset=make_table(budgets=(4, 16)))


def test_table_with_other_features(make_table, tiny_config, arguments):
    with pytest.raises(ValueError, match="reads 64 features, the reward table has 10"):
        train_policy(make_table(width=10), tiny_config, arguments())


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"scale_rewards": "batch"}, "dataset, group, none; got 'batch'"),
        ({"weighting": "best"}, "got 'best'"),
        ({"fidelity_weight": 1.0}, "between 0 and 1; got 1.0"),
        ({"weight_floor": 0.5}, "between 0 and 0.5, half of all weight; got 0.5"),
        ({"old_policy_steps": 0}, "at least 1; got 0"),
        ({"weighting": "target_mean"}, "target_mean_budget"),
        ({"target_mean_budget": 8.0}, "target_mean_budget"),
    ],
)
def test_impossible_arguments(arguments, overrides, reason):
    with pytest.raises(ValueError, match=reason):
        arguments(**overrides)


def test_a_word_of_trl_for_something_else_is_no_argument(arguments):
    with pytest.raises(TypeError, match="num_iterations"):
        arguments(num_iterations=2)


def test_a_target_mean_beyond_the_candidates(make_table, tiny_config, arguments):
    args = arguments(weighting="target_mean", target_mean_budget=40.0)
    with pytest.raises(ValueError, match="between 4 and 16; got 40.0"):
        AdaTokPolicyTrainer(new_policy(tiny_config), args, train_dataset=make_table())


def test_hypervolume_without_evaluation_images(make_table, tiny_config, arguments):
    with pytest.raises(ValueError, match="hypervolume rule needs evaluation images"):
        AdaTokPolicyTrainer(new_policy(tiny_config), arguments(weighting="hypervolume"), train_dataset=make_table())


def test_log_can_be_written_as_json(make_table, tiny_config, arguments):
    json.dumps(train_policy(make_table(), tiny_config, arguments(max_steps=2)).history)
