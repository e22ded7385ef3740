import json

import pytest
from PIL import Image

from adatok_hf.cli import main


@pytest.fixture
def generate(generator, tiny_checkpoint, tmp_path, capsys):
    """Runs `adatok generate` on the tiny generator and gives exit code, stdout and stderr."""
    generator.save_pretrained(tmp_path / "generator")
    parts = ["--generator", str(tmp_path / "generator"), "--model", str(tiny_checkpoint), "--device", "cpu"]

    def run(*arguments, out=tmp_path / "out"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(["generate", *parts, "--out", str(out), *map(str, arguments)])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def rows(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def test_it_writes_a_grid_and_results(generate, tmp_path):
    code, out, _ = generate("--label", "emoji", "--label", "2", "--label", "any", "-n", 2)
    assert code == 0 and "6 images" in out
    assert [row["label"] for row in rows(tmp_path / "out")] == ["emoji", "emoji", "2", "2", "any", "any"]
    assert all(len(row["image_codes"]) == row["budget"] for row in rows(tmp_path / "out"))
    grid = Image.open(tmp_path / "out" / "grid.png")
    assert grid.width >= 2 * 96 and grid.height >= 3 * 96


def test_the_report_names_the_generator_that_ships(tmp_path):
    words = ["--label", "emoji", "-n", "1", "--budget", "8", "--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_info:
        main(["generate", *words])
    assert exit_info.value.code == 0
    assert json.loads((tmp_path / "results.json").read_text())["generator"] == "adatok-64"


def test_the_same_seed_gives_the_same_image_in_any_batch(generate, tmp_path):
    generate("--label", "emoji", "-n", 3, "--seed", 5, "--batch-size", 2)
    generate("--label", "emoji", "-n", 1, "--seed", 6, out=tmp_path / "one")
    assert rows(tmp_path / "out")[1] == rows(tmp_path / "one")[0]


def test_a_budget_can_be_forced(generate, tmp_path):
    assert generate("--label", 0, "--budget", 8)[0] == 0
    assert {row["budget"] for row in rows(tmp_path / "out")} == {8}


@pytest.mark.parametrize(
    "arguments, part",
    [
        ([], "--label"),
        (["--label", "abbey"], "places/abbey"),
        (["--label", "7"], "0 to 2"),
        (["--label", "emoji", "--budget", "5"], "4, 8, 16"),
        (["--label", "emoji", "--budget", "many"], "--budget"),
        (["--label", "emoji", "--guidance-scale", "-1"], "guidance_scale"),
        (["--label", "emoji", "--device", "abacus"], "'abacus'"),
    ],
)
def test_bad_input_is_one_sentence(generate, arguments, part):
    code, _, err = generate(*arguments)
    assert code == 2 and part in err and err.count("\n") == 1


def test_no_pictures_are_refused(generate):
    code, _, err = generate("--label", "emoji", "-n", 0)
    assert code == 2 and "Traceback" not in err


def test_without_classes_no_label_is_needed(generator, tiny_checkpoint, tiny_config, tmp_path):
    from transformers import LlamaForCausalLM

    from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary

    vocabulary = ImageVocabulary(tiny_config.codebook_size, tiny_config.budgets)
    config = vocabulary.model_config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "free")
    parts = ["--generator", str(tmp_path / "free"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    with pytest.raises(SystemExit) as exit_info:
        main(["generate", *parts, "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 0 and {row["label"] for row in rows(tmp_path / "out")} == {"any"}
