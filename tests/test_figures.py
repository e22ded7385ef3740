"""Every figure of README and docs is the one that was measured."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from adatok_hf import checkpoints
from adatok_hf.generation.load_pipeline import load_pipeline


ROOT = Path(__file__).parent.parent


@pytest.fixture
def figures(monkeypatch):
    """The script that writes the figures, as a module."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("figures")


@pytest.fixture
def measure(figures):
    """The script that embeds what was trained, as a module."""
    return importlib.import_module("measure")


def test_pages_show_the_figures_that_were_measured(figures):
    assert len(figures.PAGES) == len(set(figures.PAGES)) > 5
    for page in figures.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "<!-- figures: " in text and figures.write_blocks(text) == text, page


def test_no_page_has_figures_that_nobody_writes(figures):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {str(page.relative_to(ROOT)) for page in pages if "<!-- figures: " in page.read_text(encoding="utf-8")}
    assert found == set(figures.PAGES)


def test_another_result_changes_the_text(figures, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    for name in ("study.json", "heads.json", "fixed.json"):
        shutil.copy(ROOT / "docs" / "study" / name, tmp_path)
    study = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    study["share_of_oracle"][0]["share"] = 0.87
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    monkeypatch.setattr(figures.sources, "STUDY", tmp_path)
    changed = figures.write_blocks(text)
    assert "the policy gets 87% of its gain" in changed and changed != text


def test_a_study_of_other_weights_says_so(figures, tmp_path, monkeypatch):
    study = json.loads((ROOT / "docs" / "study" / "study.json").read_text(encoding="utf-8"))
    assert study["model_hash"] == figures.sources.shipped_hash()
    sentence = "of the weights that shipped before"
    assert figures.sources.of_predecessor("study", study["model_hash"]) == ""
    assert f"The study is {sentence}" in figures.sources.of_predecessor("study", "another")
    assert f"The study is {sentence}" not in figures.policy.policy()
    shutil.copytree(ROOT / "docs" / "study", tmp_path, dirs_exist_ok=True)
    (tmp_path / "study.json").write_text(json.dumps(study | {"model_hash": "another"}), encoding="utf-8")
    heads = json.loads((tmp_path / "heads.json").read_text(encoding="utf-8"))
    heads["settings"]["checkpoint"] = "another"
    (tmp_path / "heads.json").write_text(json.dumps(heads), encoding="utf-8")
    monkeypatch.setattr(figures.sources, "STUDY", tmp_path)
    assert figures.policy.policy().count(sentence) == 2
    assert "| `adatok-64`, earlier weights |" in figures.claims.claims()


@pytest.mark.parametrize("changed", [None, "model_hash", "generator_hash"])
def test_an_evaluation_of_another_generator_says_so(figures, tmp_path, monkeypatch, changed):
    report = json.loads((ROOT / "docs" / "generation.json").read_text(encoding="utf-8"))
    path = tmp_path / "generation.json"
    path.write_text(json.dumps(report | ({changed: "another"} if changed else {})), encoding="utf-8")
    monkeypatch.setattr(figures.sources, "GENERATION", path)
    assert figures.generation.generation().startswith("The evaluation is of the weights") == (changed is not None)


@pytest.mark.parametrize("is_shipped", [False, True])
def test_a_claim_about_lengths_says_whose_codes_they_were(figures, tmp_path, monkeypatch, is_shipped):
    reports = json.loads((ROOT / "docs" / "generation_lengths.json").read_text(encoding="utf-8"))
    reports["adaptive"]["model_hash"] = figures.sources.shipped_hash() if is_shipped else "another"
    path = tmp_path / "generation_lengths.json"
    path.write_text(json.dumps(reports), encoding="utf-8")
    monkeypatch.setattr(figures.sources, "GENERATION_LENGTHS", path)
    (row,) = (line for line in figures.claims.claims().splitlines() if "Images of budgets of their own" in line)
    assert row.endswith("| `adatok-64` |" if is_shipped else "| `adatok-64`, earlier weights |")


def test_a_claim_that_was_not_measured_is_left_out(figures, tmp_path, monkeypatch):
    assert "Images of budgets of their own" in figures.claims.claims()
    monkeypatch.setattr(figures.sources, "GENERATION_LENGTHS", tmp_path / "generation_lengths.json")
    assert "Images of budgets of their own" not in figures.claims.claims()


def test_no_result_names_a_place_on_the_machine_that_made_it():
    results = [*(ROOT / "docs").rglob("*.json"), *(ROOT / "adatok_hf" / "checkpoints").rglob("metrics.json")]
    assert len(results) > 10
    for path in results:
        assert not re.search(r'"(/|file:|~)', path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "trained, sentence",
    [
        ({"no heads": (0, 1), "two heads": (0, 1)}, ""),
        ({"no heads": (0, 1), "two heads": (0,)}, " Not trained yet: two heads by seed 1."),
        ({"no heads": (), "two heads": (0,)}, " Not trained yet: no heads, two heads by seed 1."),
    ],
)
def test_a_study_tells_which_trainings_it_lacks(figures, monkeypatch, trained, sentence):
    monkeypatch.setattr(figures.fixed, "NAMES", tuple(trained))
    trainings = [{"arm": arm, "seed": seed} for arm, seeds in trained.items() for seed in seeds]
    assert figures.fixed.missing_arms({"settings": {"seeds": 2}, "trainings": trainings}) == sentence


def test_what_rounds_to_zero_has_no_sign(figures):
    assert figures.claims.difference(-0.00001, (-0.00021, 0.00019)) == "0.0000 [-0.0002, 0.0002]"


@pytest.mark.parametrize(
    "interval, less, more",
    [
        ((-0.2, -0.1), "holds", "does not hold"),
        ((0.1, 0.2), "does not hold", "holds"),
        ((-0.1, 0.1), "cannot be decided", "cannot be decided"),
        ((-0.1, 0.0), "cannot be decided", "cannot be decided"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_has_its_sign(figures, interval, less, more):
    assert (figures.claims.is_less(interval), figures.claims.is_more(interval)) == (less, more)


def test_claims_about_the_checkpoint_follow_from_its_figures(figures):
    rows = [{"budget": b, "lpips": 0.4 - b / 100, "rfid": 100 - b, "kid": 0.1 - b / 1000} for b in (8, 16, 32)]
    rows.append({"budget": "auto", "lpips": 0.2, "rfid": 75.0, "kid": 0.085, "mean_budget": 15.2})
    weighting = [
        {"arm": "gradient", "distance_to_nearest": 0.01, "nearest_ci": [0.008, 0.012]},
        {"arm": "gradient from 0.25", "distance_to_nearest": -0.01, "nearest_ci": [-0.012, -0.008]},
        {"arm": "fixed 0.5"},
    ]
    uniform = {"arm": "uniform", "difference": 0.002, "ci": [0.001, 0.003]}
    weighting[0] |= {"top_share": 0.95, "entropy": 0.2, "largest_entropy": 2.1}
    bounds = {d: [d - 0.001, d + 0.001] for d in (-0.002, 0.002, 0.0)}
    by_size, worse, alike = ({"difference": d, "ci": ci, "by_seed": list(ci)} for d, ci in bounds.items())
    views = [{"sees": "file size"} | worse, {"sees": "patch states"} | alike, {"sees": "latent states"} | worse]
    candidates = [{"candidates": 4} | worse, {"candidates": 8} | alike]
    study = {
        "budgets": [8, 16, 24, 32, 40, 48, 56, 64],
        "rows": [uniform, {"arm": "by WebP size"} | by_size],
        "ablations": {"weighting": weighting, "views": views, "candidates": candidates},
    }

    def claims_of(rows: list[dict], study: dict) -> list[tuple]:
        return [*figures.claims.of_the_checkpoint(rows), *figures.claims.of_the_policy(study)]

    verdicts = {claim: verdict for claim, _, verdict in claims_of(rows, study)}
    assert list(verdicts.values()) == [
        *("holds", "holds", "holds", "does not hold"),
        *("does not hold", "holds", "holds", "cannot be decided", "holds", "does not hold"),
    ]
    views.append({"sees": "gradient energy"} | alike)
    verdicts |= {claim: verdict for claim, _, verdict in claims_of(rows, study)}
    assert len(verdicts) == 11 and verdicts["And more than the energy of gradients"] == "cannot be decided"
    views[0]["by_seed"] = [-0.001, 0.005]
    assert ("And sees more than that size", "cannot be decided") in [
        (claim, verdict) for claim, _, verdict in claims_of(rows, study)
    ]
    rows[1]["lpips"] = 0.5
    rows[-1]["rfid"] = 90.0
    assert [verdict for *_, verdict in figures.claims.of_the_checkpoint(rows)] == ["does not hold"] * 2


@pytest.mark.parametrize(
    "by_seed, verdict",
    [
        ([-0.02, -0.01], "holds"),
        ([0.01, 0.02], "does not hold"),
        ([-0.03, 0.01], "cannot be decided"),
        ([0.01], "does not hold, in one seed"),
    ],
)
def test_claims_about_trainings_need_every_seed(figures, by_seed, verdict):
    mean = sum(by_seed) / len(by_seed)
    found = {"lpips": mean, "ci": [mean - 0.005, mean + 0.005], "by_seed": by_seed}
    opposite = {"lpips": -mean, "ci": [-mean - 0.005, -mean + 0.005], "by_seed": [-each for each in by_seed]}
    arms = ("no heads", "shared head", "two heads", "rank 4")
    rows = [
        {"arm": arm, "budget": budget, "share": 1.0, "minus_fixed": found, "minus_adaptive": opposite}
        for arm in ("adaptive, policy", "adaptive, one budget for all", *arms)
        for budget in ("mean", "full")
    ]
    measured = list(figures.claims.of_fixed_lengths({"rows": rows}))
    assert [found for *_, found in measured] == [verdict] * 6
    assert f"{mean:+.4f}" in measured[0][1]


@pytest.mark.parametrize(
    "tatok, adatok, more, verdict",
    [
        (0.30, 0.32, 0.23, "holds, in one training"),
        (0.34, 0.32, 0.27, "does not hold, in one training"),
        (0.30, 0.32, 0.25, "cannot be decided"),
    ],
)
def test_claims_about_tatok_follow_from_its_figures(figures, tatok, adatok, more, verdict):
    arms = {
        "DTF, prior": (0.3, None),
        "random": (0.35, "DTF, prior"),
        "pixel variance": (0.35, "DTF, prior"),
        "globals hidden, as many patches in their place": (0.35, "DTF, prior"),
        "AdaTok, 16 codes": (adatok, None),
        "AdaTok, 24 codes": (0.25, None),
        "TaTok, 14 tokens": (tatok, "AdaTok, 16 codes"),
        "TaTok, 22 tokens": (more, "AdaTok, 24 codes"),
        "TaTok, 72 tokens": (0.2, None),
    }
    rows = [{"arm": arm, "lpips": lpips, "against": against} for arm, (lpips, against) in arms.items()]
    for row in rows:
        if row["against"] is not None:
            less = row["lpips"] - arms[row["against"]][0]
            row["ci"] = [less - 0.01, less + 0.01]
    study = {"rows": rows, "tokens": 14, "adatok": "outputs/twin"}
    *others, (_, measured, found) = figures.claims.of_tatok(study)
    assert [each for *_, each in others] == ["holds"] * 3
    assert found == verdict and f"that of twin {tatok - adatok:+.4f}" in measured and "at 22 tokens" in measured


@pytest.mark.parametrize("speed, verdict", [(8.6, "holds"), (2.0, "does not hold")])
def test_the_claim_about_tatoks_speed_follows_from_its_figures(figures, speed, verdict):
    bench = {"throughput_ratio": speed, "writing_ratio": 3.0, "token_ratio": 4.5, "position_cost": 1.7}
    ((_, _, found),) = figures.claims.of_tatok_generation(bench)
    assert found == verdict


@pytest.mark.parametrize(
    "gfid, kid, verdict",
    [
        (101.9, 0.0501, "holds"),
        (103.0, 0.0501, "cannot be decided"),
        (101.9, 0.06, "cannot be decided"),
        (103.0, 0.06, "does not hold"),
    ],
)
def test_the_claim_about_generated_images_follows_from_every_guidance_and_both_measures(figures, gfid, kid, verdict):
    def report(budget: float, *gfids: float, kid: float = 0.05) -> dict:
        scales = (None, 1.0, 2.5)
        return {
            "rows": [
                {"guidance_scale": scale, "gfid": value, "kid": kid, "mean_budget": budget}
                for scale, value in zip(scales, gfids)
            ]
        }

    reports = {"adaptive": report(25.7, 200.0, 100.0, gfid, kid=kid), "fixed": report(64, 90.0, 110.0, 100.0)}
    ((_, measured, found),) = figures.claims.of_generated_images(reports)
    assert found == verdict and f"{gfid} at 25.7 codes, 100.0 at 64, with guidance 2.5" in measured


def test_card_and_metrics_of_an_embedded_checkpoint_agree(figures):
    for folder in map(Path, checkpoints().values()):
        card = (folder / "README.md").read_text(encoding="utf-8")
        for row in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["rows"]:
            budget = f"chosen by the model, {row['mean_budget']:.2f}" if row["budget"] == "auto" else row["budget"]
            (line,) = [line for line in card.splitlines() if line.startswith(f"| {budget} ")]
            assert f"| {row['psnr']:.4g} |" in line and f"{row['lpips']:.4g}" in line


def test_a_generator_makes_a_pipeline_of_the_folder_around_its_tokenizer(
    measure, generator, tiny_checkpoint, tmp_path
):
    home = tmp_path / "adatok-some" / "image_tokenizer"
    shutil.copytree(tiny_checkpoint, home, ignore=shutil.ignore_patterns("*.py"))
    generator.save_pretrained(tmp_path / "generator")
    (home / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "generator" / "metrics.json").write_text("{}")
    (tmp_path / "generator" / "README.md").write_text("---\ntags: [adatok]\n---\n\n# generator\n")
    measure.embed_generator(tmp_path / "generator", home)
    assert (home.parent / "transformer" / "metrics.json").is_file() and not list(home.parent.rglob("*.py"))
    card = (home.parent / "transformer" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "# Generator of adatok-some" in card
    weights = "model.safetensors"
    assert (home / weights).read_bytes() == (tiny_checkpoint / weights).read_bytes()
    pipeline = load_pipeline(home.parent)
    assert pipeline.class_names == ("emoji", "places/abbey", "places/alley")
