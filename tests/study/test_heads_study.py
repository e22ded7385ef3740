"""The comparison of no heads, one shared head and a head per budget, on a tiny model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from distance import Distance
from PIL import Image

from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokModel
from adatok_hf.cli import main
from adatok_hf.data import ImageFolder
from adatok_hf.study import heads_study as heads
from adatok_hf.study.heads_study import ARMS, build_arm, count_head_parameters, format_heads_table, merge_heads
from adatok_hf.training import tokenizer_trainer
from adatok_hf.training.tokenizer_trainer import ReconstructionTrainer


BUDGETS = [4, 8, 16]
ARGUMENTS = {"steps": 3, "batch_size": 4, "seeds": 2, "learning_rate": 1e-2, "perceptual_weight": 0.0, "bf16": False}


class RecordingTrainer(ReconstructionTrainer):
    """Keeps what it trained on, and itself."""

    made: list["RecordingTrainer"] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pixels, self.budgets_drawn, self.codes = [], [], []
        self.model.register_forward_hook(self._record, with_kwargs=True)
        self.made.append(self)

    def _record(self, module, args, kwargs, output):
        self.pixels.append(kwargs["pixel_values"].clone())
        self.budgets_drawn.append(output.budgets)
        self.codes.append(output.image_codes)


@pytest.fixture(autouse=True)
def light_networks(monkeypatch):
    for module in (heads, tokenizer_trainer):
        monkeypatch.setattr(module, "load_lpips", lambda *args: Distance())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A checkpoint whose heads have an effect, ten pictures to train on and five others."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    config = AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_latent_tokens=16,
        codebook_size=64,
        codebook_dim=8,
        budgets=BUDGETS,
        lora_rank=2,
        lora_alpha=4,
    )
    model = AdaTokModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        model.quantizer.latent_norm.running_var.uniform_(0.5, 2.0)
    model.save_pretrained(folder / "checkpoint")
    size = {"height": 32, "width": 32}
    AdaTokImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder / "checkpoint")
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("validation", 5)):
        (folder / split).mkdir()
        for index in range(count):
            corners = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(corners).resize((32, 32)).save(folder / split / f"{index}.png")
    return {
        "checkpoint": str(folder / "checkpoint"),
        "train_data": str(folder / "train"),
        "eval_data": str(folder / "validation"),
    }


@pytest.fixture(scope="module")
def study(inputs, tmp_path_factory):
    """A whole study: its result, its folder, and the trainers by arm and seed."""
    out, made_before = tmp_path_factory.mktemp("study"), len(RecordingTrainer.made)
    with pytest.MonkeyPatch.context() as patch:
        for module in (heads, tokenizer_trainer):
            patch.setattr(module, "load_lpips", lambda *args: Distance())
        patch.setattr(heads, "ReconstructionTrainer", RecordingTrainer)
        result = heads.run_heads_study(**inputs, out=out, **ARGUMENTS)
    trainers = dict(zip([(arm, seed) for seed in range(2) for arm in ARMS], RecordingTrainer.made[made_before:]))
    return result, out, trainers


@pytest.fixture
def base(inputs) -> AdaTokModel:
    return AdaTokModel.from_pretrained(inputs["checkpoint"]).eval()


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def head_tensors(model: AdaTokModel, part: str = "lora_") -> list[torch.Tensor]:
    return [parameter for name, parameter in model.named_parameters() if part in name]


def stored(out: Path, name: str) -> dict[str, np.ndarray]:
    content = json.loads((out / "heads" / f"{name}.json").read_text())
    return {measure: np.array(content[measure]) for measure in ("psnr", "lpips")}


def test_arms_see_the_same_images_and_budgets_and_seeds_do_not(study):
    _, _, trainers = study
    assert len(trainers) == 6
    for name in ("pixels", "budgets_drawn", "codes"):
        seen = {key: torch.cat(getattr(trainer, name)) for key, trainer in trainers.items()}
        for seed in range(2):
            assert all(torch.equal(seen[arm, seed], seen["K heads", seed]) for arm in ARMS), name
        assert not torch.equal(seen["K heads", 0], seen["K heads", 1])
    assert seen["K heads", 0].shape == (10, 16)  # an epoch


def test_what_is_shared_by_the_arms_stays_that_of_the_checkpoint(study, base):
    for trainer in study[2].values():
        for part in ("encoder", "quantizer"):
            kept = getattr(base, part).state_dict()
            for model in (trainer.model, trainer.ema.module):
                assert all(torch.equal(kept[key], value) for key, value in getattr(model, part).state_dict().items())
        assert not torch.equal(trainer.model.decoder.mask_token, base.decoder.mask_token)


def test_heads_learn_in_the_arms_that_have_them_and_stay_at_zero_in_the_other(study):
    for (arm, _), trainer in study[2].items():
        moved = [bool((up != 0).any()) for up in head_tensors(trainer.ema.module, "lora_B")]
        assert moved and any(moved) == (arm != "no heads")


def test_arms_with_heads_have_equally_many_parameters(study, base):
    result, _, trainers = study
    expected = 3 * 2 * 2 * (32 + 64)  # heads, linears, rank, widths
    assert result["parameters_of_heads"] == {"no heads": 0, "shared head": expected, "K heads": expected}
    for (arm, _), trainer in trainers.items():
        assert count_head_parameters(trainer.model, trained_only=True) == result["parameters_of_heads"][arm]
    assert count_head_parameters(base) == expected


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_starts_as_the_checkpoint_without_its_heads(base, pixel_values, arm):
    model = build_arm(base, arm, seed=1).eval()
    with torch.no_grad():
        codes = base.encode(pixel_values, budgets=16).image_codes
        with_heads = [base.decode(codes, budgets=budget).pixel_values for budget in (1, *BUDGETS)]
        for up in head_tensors(base, "lora_B"):
            up.zero_()
        assert torch.equal(model.encode(pixel_values, budgets=16).image_codes, codes)
        for budget, before in zip((1, *BUDGETS), with_heads):
            pixels = model.decode(codes, budgets=budget).pixel_values
            torch.testing.assert_close(pixels, base.decode(codes, budgets=budget).pixel_values)
            assert not torch.allclose(pixels, before, atol=1e-3)


def test_the_seed_draws_the_same_down_projections_for_all_arms(base):
    several, shared, other = (build_arm(base, *key) for key in (("K heads", 0), ("shared head", 0), ("K heads", 1)))
    downs = head_tensors(several, "lora_A")
    stacked = [torch.cat(downs[start : start + 3]) for start in range(0, len(downs), 3)]
    assert all(torch.equal(one, three) for one, three in zip(head_tensors(shared, "lora_A"), stacked, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(downs, head_tensors(other, "lora_A")))
    assert not any(torch.equal(*pair) for pair in zip(downs, head_tensors(base, "lora_A")))


def test_the_shared_head_serves_every_budget_with_the_scale_of_the_heads(base, pixel_values):
    shared = merge_heads(base)
    assert shared.config.budgets == [16] and base.config.budgets == BUDGETS
    with torch.no_grad():
        codes = base.encode(pixel_values, budgets=16).image_codes
        without = [shared.decode(codes, budgets=budget).pixel_values for budget in range(1, 17)]
        for down in head_tensors(base, "lora_A"):
            down.zero_()
        for layer, several in zip(heads._lora_layers(shared), heads._lora_layers(base)):
            (up,) = layer.lora_B.values()
            up.weight[:, 2:4] = several.lora_B["budget_0008"].weight
            (down,) = layer.lora_A.values()
            several.lora_A["budget_0008"].weight.copy_(down.weight[2:4])
        for budget, before in zip(range(1, 17), without):
            assert not torch.allclose(shared.decode(codes, budgets=budget).pixel_values, before, atol=1e-4)
        expected = base.decode(codes, budgets=8).pixel_values
        torch.testing.assert_close(shared.decode(codes, budgets=8).pixel_values, expected)


def test_the_measures_are_those_of_the_averaged_weights_and_of_the_checkpoint(study, inputs, base):
    _, out, trainers = study
    processor = AdaTokImageProcessor.from_pretrained(inputs["checkpoint"])
    images = [item["image"] for item in ImageFolder(inputs["eval_data"])]
    originals = np.stack(images).astype(float)
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    for name, model in (
        ("checkpoint-heads-on", base),
        ("k-heads-1", trainers["K heads", 1].ema.module),
        ("shared-head-0", trainers["shared head", 0].ema.module),
    ):
        with torch.no_grad():
            codes = model.encode(pixel_values, budgets=16).image_codes
            pictures = processor.post_process(model.decode(codes, budgets=8).pixel_values)
        errors = np.stack(pictures).astype(float) - originals
        psnr = 10 * np.log10(255**2 / (errors**2).mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(stored(out, name)["psnr"][:, 1], psnr, atol=1e-3)
        lpips = np.abs(errors).mean(axis=(1, 2, 3)) / 127.5
        np.testing.assert_allclose(stored(out, name)["lpips"][:, 1], lpips, atol=1e-5)


def test_the_result_has_a_row_for_every_arm_and_budget_and_is_json(study, inputs):
    result, out, _ = study
    assert result["model"] == Path(inputs["checkpoint"]).name
    names = ["checkpoint, heads on", "checkpoint, heads zeroed", *ARMS]
    assert [(row["arm"], row["budget"]) for row in result["rows"]] == [
        (arm, budget) for arm in names for budget in (*BUDGETS, "mean")
    ]
    assert (result["steps"], result["images_per_step"], result["seeds"], result["n"]) == (3, 4, 2, 5)
    assert json.loads((out / "heads.json").read_text()) == result


def test_differences_are_paired_means_over_images_and_seeds(study):
    result, out, _ = study
    rows = {(row["arm"], row["budget"]): row for row in result["rows"]}
    seeds = [stored(out, f"shared-head-{seed}")["lpips"] - stored(out, f"k-heads-{seed}")["lpips"] for seed in (0, 1)]
    for budget, column in ((4, [0]), (16, [2]), ("mean", [0, 1, 2])):
        row = rows["shared head", budget]
        by_image = np.mean([seed[:, column].mean(axis=1) for seed in seeds], axis=0)
        assert row["lpips_minus_k_heads_by_seed"] == pytest.approx([seed[:, column].mean() for seed in seeds])
        assert row["lpips_minus_k_heads"] == pytest.approx(by_image.mean())
        assert row["lpips_minus_k_heads"] == pytest.approx(row["lpips"] - rows["K heads", budget]["lpips"])
        assert row["psnr_minus_k_heads"] == pytest.approx(row["psnr"] - rows["K heads", budget]["psnr"])
        low, high = row["ci"]
        assert by_image.min() <= low < row["lpips_minus_k_heads"] < high <= by_image.max()
    own = rows["K heads", 4]
    assert [own[name] for name in ("lpips_minus_k_heads", "ci", "psnr_ci", "lpips_minus_k_heads_by_seed")] == [
        None
    ] * 4


def test_the_table_has_a_line_for_every_row(study):
    lines = format_heads_table(study[0]).splitlines()
    for row, line in zip(study[0]["rows"], lines[1:]):
        assert line.startswith(row["arm"]) and f"{row['lpips']:.4f}" in line
        assert ("[" in line) == (row["arm"] != "K heads")
    assert "2 trainings of 3 steps of 4 images" in "\n".join(lines) and max(map(len, lines)) < 119


def test_a_cut_study_repeats_only_what_is_not_stored(study, inputs, tmp_path, monkeypatch):
    result, out, _ = study
    folder = tmp_path / "heads"
    folder.mkdir()
    for path in (out / "heads").iterdir():
        if path.name != "shared-head-1.json":
            (folder / path.name).write_bytes(path.read_bytes())
    trained, train_arm = [], heads.train_arm

    def watched(base, processor, dataset, settings, arm, seed, *rest):
        trained.append((arm, seed))
        return train_arm(base, processor, dataset, settings, arm, seed, *rest)

    monkeypatch.setattr(heads, "train_arm", watched)
    for _ in range(2):
        assert heads.run_heads_study(**inputs, out=tmp_path, **ARGUMENTS) == result
    assert trained == [("shared head", 1)]
    assert not [path for path in folder.iterdir() if path.suffix != ".json"]


def test_lpips_takes_part_in_the_loss_at_its_weight(base, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "ReconstructionTrainer", RecordingTrainer)
    settings = heads.HeadsStudySettings("", "", "", 0, 1, 4, 1e-3, 0.5, "alex", False)
    processor = AdaTokImageProcessor.from_pretrained(inputs["checkpoint"])
    heads.train_arm(base, processor, ImageFolder(inputs["train_data"]), settings, "K heads", 0, tmp_path)
    (entry,) = [entry for entry in RecordingTrainer.made[-1].state.log_history if "loss" in entry]
    expected = entry["reconstruction"] + entry["quantization"] + 0.5 * entry["perceptual"]
    assert entry["perceptual"] > 0 and entry["loss"] == pytest.approx(expected, abs=1e-4)


def test_the_command_prints_the_table_and_one_line_of_json(study, inputs, capsys):
    result, out, _ = study
    options = {**inputs, "out": str(out), **{name: value for name, value in ARGUMENTS.items() if name != "bf16"}}
    options["model"] = options.pop("checkpoint")
    words = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["study", "heads", *words, "--no-bf16"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == result
    assert format_heads_table(result) in printed


@pytest.mark.parametrize(
    ("name", "value", "least"), [("steps", 0, 1), ("batch_size", 0, 1), ("seeds", 1, 2), ("max_eval_images", 1, 2)]
)
def test_a_number_that_is_too_small_is_refused(inputs, tmp_path, name, value, least):
    with pytest.raises(ValueError, match=f"{name} must be at least {least}; got {value}"):
        heads.run_heads_study(**inputs, out=tmp_path, **{**ARGUMENTS, name: value})


def test_a_folder_with_another_study_is_refused(study, inputs):
    with pytest.raises(ValueError, match="belongs to another study: steps is 3 there and 4 here"):
        heads.run_heads_study(**inputs, out=study[1], **{**ARGUMENTS, "steps": 4})


def test_a_picture_that_cannot_be_read_ends_no_study(inputs, tmp_path):
    folders = {}
    for name in ("train_data", "eval_data"):
        folders[name] = str(shutil.copytree(inputs[name], tmp_path / name))
        (tmp_path / name / "1.png").write_bytes((tmp_path / name / "0.png").read_bytes()[:60])
    result = heads.run_heads_study(**{**inputs, **folders}, out=tmp_path / "out", **ARGUMENTS)
    assert result["n"] == 4


def test_a_damaged_file_is_named(study, inputs, tmp_path):
    (tmp_path / "heads").mkdir()
    damaged = tmp_path / "heads" / "checkpoint-heads-on.json"
    damaged.write_bytes((study[1] / "heads" / damaged.name).read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{damaged} is damaged"):
        heads.run_heads_study(**inputs, out=tmp_path, **ARGUMENTS)


def test_a_checkpoint_with_one_candidate_budget_is_refused(base, inputs, tmp_path):
    merge_heads(base).save_pretrained(tmp_path / "shared")
    AdaTokImageProcessor.from_pretrained(inputs["checkpoint"]).save_pretrained(tmp_path / "shared")
    with pytest.raises(ValueError, match="single candidate budget 16"):
        heads.run_heads_study(**{**inputs, "checkpoint": tmp_path / "shared"}, out=tmp_path, **ARGUMENTS)


def test_a_training_that_diverges_is_an_error_and_leaves_no_file(base, inputs, tmp_path):
    settings = heads.HeadsStudySettings("", "", "", 1, 1, 4, 7.5, 0.0, "alex", False)
    with pytest.raises(ValueError, match="'K heads' diverged.*7.5"):
        heads.store_measures(
            tmp_path / "k-heads-0.json", settings, "K heads", {"psnr": [[1.0]], "lpips": [[float("nan")]]}
        )
    assert not list(tmp_path.iterdir())
