import json
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from PIL import Image
from study_tables import BUDGETS, CANDIDATES, Arguments, make_config, make_table, train

from adatok_hf.study import runs
from adatok_hf.study.ablations import (
    DYNAMIC_RULES,
    MEASURES,
    OTHER_STARTS,
    VIEWS,
    candidate_sets,
    see_only,
    weighting_ablation,
)
from adatok_hf.study.arms import MIRRORED, HeldOut
from adatok_hf.study.plots import plot_study
from adatok_hf.study.policy_study import run_study
from adatok_hf.study.report import format_report, format_study_table, last_line, write_report


SWEEP = (0.3, 0.5, 0.7)


class CountingTrainer:
    def __init__(self):
        self.calls = []

    def __call__(self, table, config, arguments):
        self.calls.append((arguments, list(config.budgets)))
        return train(table, config, arguments)


@pytest.fixture(scope="module")
def tables():
    return make_table(500, 0), make_table(320, 1)


@pytest.fixture(scope="module")
def study(tables, tmp_path_factory):
    """The result, its folder, and what was trained for it."""
    folder, trainer = tmp_path_factory.mktemp("study"), CountingTrainer()
    config = make_config()
    options = {"seeds": 2, "resamples": 400, "sweep": SWEEP}
    policy = train(tables[0], config, Arguments(seed=9)).policy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "train_policy", trainer)
        result = run_study(*tables, config, Arguments(), folder, policy=policy, mean_budget=9.0, **options)
    return result, folder, trainer.calls


@pytest.fixture
def run(tables, tmp_path, monkeypatch):
    def run(train_table=tables[0], eval_table=tables[1], trainer=train, **options):
        monkeypatch.setattr(runs, "train_policy", trainer)
        options = {"config": make_config(), "arguments": Arguments(), "seeds": 1} | options
        return run_study(train_table, eval_table, out=tmp_path, resamples=100, sweep=(0.5,), **options)

    return run


def rows_of(result: dict) -> dict[str, dict]:
    return {row["arm"]: row for row in result["rows"]}


def test_a_policy_that_sees_the_needs_beats_the_controls(study):
    rows = rows_of(study[0])
    for name in ("uniform", "shuffled", "random", "time-sharing hull", "by WebP size, reversed"):
        assert rows[name]["ci"][0] > 0, name
        assert rows[name]["psnr_ci"][1] < 0, name
    assert rows["oracle (reward)"]["ci"][1] < 0
    shares = {(row["arm"], row["oracle"]): row for row in study[0]["share_of_oracle"]}
    share = shares["policy", "oracle (reward)"]
    assert 0.5 < share["ci"][0] < share["share"] < share["ci"][1] < 1


def test_a_policy_that_sees_nothing_beats_nothing(run):
    result = run(make_table(500, 0, is_predictable=False), make_table(320, 1, is_predictable=False), mean_budget=9.0)
    rows = rows_of(result)
    assert rows["shuffled"]["ci"][0] < 0
    assert rows["time-sharing hull"]["ci"][0] < 0
    assert "not distinguishable" in format_report(result) or "worse by" in format_report(result)


def test_every_arm_is_judged_at_the_common_mean(study):
    result = study[0]
    assert {"policy", "checkpoint policy", "regressor"} < rows_of(result).keys()
    for row in result["rows"]:
        assert row["mean_budget"] == pytest.approx(9, abs=0.05)
    for row in result["front"]:
        assert row["mean_budget"] == pytest.approx(row["wanted_mean"], abs=0.05)
    assert rows_of(result)["policy"]["ci"] == [0, 0]
    assert len(rows_of(result)["policy"]["lpips_of_seeds"]) == 2


def test_the_mean_is_that_of_the_first_policy_unless_given(run, tables):
    result = run()
    assert result["mean_budget"] == pytest.approx(result["as_trained"][0]["mean_budget"])
    policy = train(tables[0], make_config(), Arguments(fidelity_weight=0.3)).policy
    given = run(policy=policy)
    assert given["mean_budget"] == pytest.approx(given["as_trained"][1]["mean_budget"])
    assert given["mean_budget"] < result["mean_budget"]


def test_the_ablations_change_what_they_name_and_nothing_else(study):
    result, _, calls = study
    base = Arguments()
    assert all(seed in (0, 1) for seed in {arguments.seed for arguments, _ in calls})
    variants = [(replace(arguments, seed=0), budgets) for arguments, budgets in calls if arguments.seed == 0]
    assert variants == [
        (base, CANDIDATES),
        (replace(base, scale_rewards="group"), CANDIDATES),
        (replace(base, weighting="hypervolume"), CANDIDATES),
        (replace(base, weighting="target_mean", target_mean_budget=9.0), CANDIDATES),
        *((replace(base, fidelity_weight=start), CANDIDATES) for start in OTHER_STARTS),
        *((replace(base, weighting="fixed", fidelity_weight=weight), CANDIDATES) for weight in SWEEP),
        (base, [8, 16]),
        (base, BUDGETS),
        *[(base, CANDIDATES)] * len(VIEWS),
    ]
    assert [row["candidates"] for row in result["ablations"]["candidates"]] == [2, 4, 8]
    assert [row["arm"] for row in result["ablations"]["weighting"]] == [
        *DYNAMIC_RULES,
        *(f"gradient from {start:.2f}" for start in OTHER_STARTS),
        *(f"fixed {weight:.2f}" for weight in SWEEP),
    ]


def test_a_policy_that_sees_less_does_worse_unless_it_sees_what_matters(study):
    """In these tables the first feature tells the need of an image, and so do both measures of its complexity."""
    result, folder, _ = study
    views = {row["sees"]: row for row in result["ablations"]["views"]}
    assert set(views) == set(VIEWS)
    assert views["latent states"]["ci"][0] > 0 > views["patch states"]["difference"] - 0.01
    for measure in MEASURES:
        assert abs(views[measure]["difference"]) < views["latent states"]["difference"]
    assert "What the policy has to see" in (format_report(result))


def test_what_is_hidden_does_not_reach_the_policy(tables):
    table = tables[1]
    half = table.features.shape[1] // 2
    patches, latents = see_only(table, "patch states"), see_only(table, "latent states")
    assert torch.equal(patches.features + latents.features, table.features)
    assert not patches.features[:, half:].any() and not latents.features[:, :half].any()
    for view, (name, *_) in MEASURES.items():
        seen, values = see_only(table, view), getattr(table, name)
        same = values == values[0]
        assert torch.equal(seen.features[same], seen.features[:1].expand(int(same.sum()), -1))
        assert torch.equal(seen.lpips, table.lpips)


def test_a_measure_of_zero_reaches_the_policy_as_the_least_one(tables):
    table = tables[1].select([0, 1, 2])
    table.gradient_energy = torch.tensor([0.0, 2.0**-13, 1.0])
    features = see_only(table, "gradient energy").features
    assert features.isfinite().all() and torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


def test_candidate_sets_end_in_the_full_budget_and_do_not_repeat():
    assert candidate_sets([4, 8, 12, 16], [2, 4, 6, 8, 12, 16]) == [[8, 16], [4, 8, 12, 16], [2, 4, 6, 8, 12, 16]]
    assert candidate_sets([4, 8, 16], [4, 8, 16]) == [[4, 16], [4, 8, 16]]
    assert candidate_sets([8, 16], [8, 16]) == [[8, 16]]


def test_a_weighting_is_placed_by_its_distance_to_the_sweep(tables):
    """Policies that know the needs make the front; one that chooses at random is behind it, the oracle beyond it."""
    held_out = HeldOut(tables[1], CANDIDATES)
    cost = torch.tensor(CANDIDATES) / 16
    noise = 0.03 * torch.randn(320, 4, generator=torch.Generator().manual_seed(0))
    fidelity = held_out.fidelity(0.0)
    scores = {f"fixed {weight}": [fidelity + noise - weight * cost] for weight in (0.1, 0.2, 0.3, 0.5)}
    scores |= {"gradient": [10 * noise], "target mean": [fidelity - 0.2 * cost], "hypervolume": [-cost + 0 * noise]}
    rows = weighting_ablation(held_out, scores, {name: [[]] for name in scores}, resamples=300)
    rows = {row["arm"]: row for row in rows}
    assert rows["gradient"]["distance_ci"][0] > 0 and rows["gradient"]["nearest_ci"][0] > 0
    assert rows["target mean"]["distance_ci"][1] < 0 and rows["target mean"]["nearest_ci"][1] < 0
    assert rows["hypervolume"]["distance_to_sweep"] is None  # cheaper than every fixed weight
    assert rows["fixed 0.1"]["distance_to_sweep"] is None
    assert rows["hypervolume"]["top_share"] == 1


def test_groups_come_by_rising_mean_budget_with_whole_histograms(study):
    groups = study[0]["groups"]
    assert [row["group"] for row in groups] == ["simple", "complex"]
    assert groups[0]["mean_budget"] < groups[1]["mean_budget"]
    assert sum(row["n"] for row in groups) == study[0]["n"] == 320
    for row in groups:
        assert sum(row["histogram"]) == pytest.approx(1)
        mean = sum(budget * share for budget, share in zip(CANDIDATES, row["histogram"]))
        assert mean == pytest.approx(row["mean_budget"], abs=1e-4)


def test_budgets_that_follow_complexity_correlate_with_its_measures(study):
    assert study[0]["correlations"]["policy, webp_bytes"] > 0.8
    assert study[0]["correlations"]["policy, gradient_energy"] > 0.8
    assert "with the mean squared difference of neighbouring pixels: rank correlation +0." in format_report(study[0])


def test_an_interrupted_study_goes_on_where_it_stopped(study, tables, tmp_path, monkeypatch):
    result, folder = study[0], tmp_path / "study"
    shutil.copytree(study[1], folder)
    (removed,) = (folder / "runs").glob("fixed-0.30-dataset-4-budgets-seed-1-*.safetensors")
    removed.unlink()
    trainer = CountingTrainer()
    options = {"seeds": 2, "resamples": 400, "sweep": SWEEP, "mean_budget": 9.0}
    monkeypatch.setattr(runs, "train_policy", trainer)
    policy = train(tables[0], make_config(), Arguments(seed=9)).policy
    arguments = Arguments(output_dir="elsewhere")
    assert run_study(*tables, make_config(), arguments, folder, policy=policy, **options) == result
    assert [(arguments.fidelity_weight, arguments.seed) for arguments, _ in trainer.calls] == [(0.3, 1)]
    run_study(*tables, make_config(), Arguments(max_steps=3), folder, **options)
    assert len(trainer.calls) > 10


def test_a_damaged_run_is_named(run, tmp_path):
    run()
    damaged = sorted((tmp_path / "runs").iterdir())[0]
    damaged.write_bytes(b"not a network")
    with pytest.raises(ValueError, match=f"{damaged.name} is damaged"):
        run()


def test_a_training_that_diverges_is_named(run):
    def diverge(table, config, arguments):
        trained = train(table, config, arguments)
        torch.nn.init.constant_(trained.policy.fc2.bias, float("nan"))
        return trained

    with pytest.raises(ValueError, match="training of gradient-0.50-dataset-4-budgets-seed-0 diverged"):
        run(trainer=diverge)


def test_images_of_the_training_table_are_dropped(run, tables):
    mixed = deepcopy(tables[1])
    mixed.image_hashes[:20] = tables[0].image_hashes[:20]
    result = run(eval_table=mixed)
    assert (result["images_seen_in_training"], result["n"]) == (20, 300)


def test_bad_input_is_refused(run, tables):
    def changed(table, **info):
        table = deepcopy(table)
        vars(table.info).update(info)
        return table

    broken = deepcopy(tables[1])
    broken.lpips[3, 2] = float("nan")
    wide = make_config()
    wide.hidden_size = 16
    for message, options in (
        ("at least 1 seed; got 0", {"seeds": 0}),
        ("agree in their model_hash", {"eval_table": changed(tables[1], model_hash="b" * 64)}),
        ("agree in their perceptual_net", {"eval_table": changed(tables[1], perceptual_net="vgg")}),
        ("nan as lpips of image 3 at budget 6", {"eval_table": broken}),
        (r"not \[12\]", {"train_table": tables[0].select(budgets=[4, 8, 16])}),
        ("between 4 and 16; got 3", {"mean_budget": 3}),
        ("at least 100 held-out images; 99 of 99", {"eval_table": tables[1].select(range(99))}),
        ("0 of 500 are not among", {"eval_table": tables[0]}),
        ("reads 32 features, a reward table has 16", {"config": wide}),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)


def test_study_json_holds_the_result_and_what_it_was_made_of(study):
    result, folder, _ = study
    assert json.loads((folder / "study.json").read_text()) == json.loads(json.dumps(result))
    assert result["versions"]["torch"] == torch.__version__
    assert (result["n_train"], result["seeds"], result["model_hash"]) == (500, 2, "a" * 64)
    assert result["arguments"]["weighting"] == "gradient"


def test_the_last_line_has_one_row_for_each_arm(study):
    rows = json.loads(last_line(study[0]))["rows"]
    assert [row["arm"] for row in rows] == list(rows_of(study[0]))
    assert all(row.keys() == {"arm", "mean_budget", "lpips", "psnr", "ci"} for row in rows)
    assert "\n" not in last_line(study[0])


def test_the_table_has_a_line_for_each_arm(study):
    lines = format_study_table(study[0]).splitlines()
    for row, line in zip(study[0]["rows"], lines[1:]):
        assert line.startswith(row["arm"]) and f"{row['lpips']:.4f}" in line


def test_every_figure_is_drawn_and_shown_in_the_report(study):
    result, folder, _ = study
    names = plot_study(result, folder)
    report = write_report(folder).read_text()
    for name in names:
        assert f"]({name})" in report
        with Image.open(folder / name) as picture:
            assert picture.width > 1000
            assert len(picture.convert("RGB").getcolors(2**20)) > 50
    assert report.count("](") == len(names)


def test_the_report_says_what_the_numbers_say(study):
    result = deepcopy(study[0])
    shuffled = rows_of(result)["shuffled"]
    shuffled |= {"difference": 0.0061, "ci": [0.0052, 0.0070]}
    assert "across images, the policy is better by 0.0061 [0.0052, 0.0070] LPIPS" in format_report(result)
    shuffled |= {"difference": -0.0061, "ci": [-0.0070, -0.0052]}
    assert "across images, the policy is worse by 0.0061 [0.0052, 0.0070] LPIPS" in format_report(result)
    shuffled |= {"difference": 0.0003, "ci": [-0.0004, 0.0010]}
    said = "across images, the policy is not distinguishable (0.0003 [-0.0004, 0.0010] LPIPS includes zero)"
    assert said in format_report(result)
    assert "no collapse" in format_report(result)
    result["as_trained"][0]["top_share"] = 0.99
    assert "it has collapsed to one budget" in format_report(result)


def test_the_report_takes_in_the_ablation_of_the_heads(study, tmp_path):
    result, folder, _ = study
    (tmp_path / "study.json").write_text((folder / "study.json").read_text())
    assert "## Heads" not in write_report(tmp_path).read_text()
    rows = [
        {
            "arm": "no heads",
            "budget": 8,
            "psnr": 17.5,
            "lpips": 0.31,
            "lpips_minus_k_heads": 0.01,
            "ci": [0.005, 0.015],
        },
        {"arm": "K heads", "budget": "mean", "psnr": 17.9, "lpips": 0.3, "lpips_minus_k_heads": None, "ci": None},
    ]
    heads = {"steps": 300, "images_per_step": 32, "seeds": 2, "n": 512, "parameters_of_heads": {"K heads": 1000}}
    heads |= {"rows": rows, "settings": {"checkpoint": "of others"}}
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    assert "## Heads" not in write_report(tmp_path).read_text()
    heads["settings"]["checkpoint"] = result["model_hash"]
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    report = write_report(tmp_path).read_text()
    assert "| no heads | 8 | 17.50 | 0.3100 | +0.0100 [+0.0050, +0.0150] |" in report
    assert "300 steps of 32 images" in report


def test_a_report_needs_a_study(tmp_path):
    with pytest.raises(ValueError, match="no study.json"):
        write_report(tmp_path)


def mirror(table, rows=None):
    """What stands for the mirror images of a table: the same rewards."""
    mirrored = table.select(rows)
    mirrored.info.mirrored = True
    return mirrored


@pytest.mark.parametrize("is_foreseeable", [True, False])
def test_an_oracle_of_mirror_images_gains_what_lies_in_the_picture(run, tables, tmp_path, is_foreseeable):
    mirrored = mirror(tables[1], torch.randperm(len(tables[1])))
    if not is_foreseeable:
        order = torch.randperm(len(mirrored))
        mirrored.lpips, mirrored.mse = mirrored.lpips[order], mirrored.mse[order]
    result = run(mirrored_table=mirrored)
    (row,) = [r for r in result["share_of_oracle"] if (r["arm"], r["oracle"]) == (MIRRORED, "oracle (reward)")]
    assert row["share"] == pytest.approx(1.0) if is_foreseeable else row["share"] < 0
    assert f"gets {row['share']:.0%}" in format_report(result)
    assert "front.png" in plot_study(result, tmp_path)


def test_mirror_images_of_others_are_refused(run, tables, one_sentence):
    with one_sentence("reward-table --mirrored"):
        run(mirrored_table=tables[1])
    with one_sentence("lacks 20 of 320"):
        run(mirrored_table=mirror(tables[1], range(300)))
    mirrored = mirror(tables[1])
    mirrored.info.model_hash = "0" * 64
    with one_sentence("model_hash"):
        run(mirrored_table=mirrored)
