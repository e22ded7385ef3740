"""Stage 1 on a tiny model: what is trained, averaged, measured and revived."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from adatok_hf import AdaTokModel
from adatok_hf.data import ImageCollator
from adatok_hf.metrics.images import to_images, to_pixel_values
from adatok_hf.metrics.pairs import psnr
from adatok_hf.model_card import model_card, read_license
from adatok_hf.modeling.blocks import AdaTokLayer
from adatok_hf.modeling.configuration_adatok import AdaTokPixelDecoderConfig
from adatok_hf.training import tokenizer_trainer


METRICS = {"rows": [], "training": {"steps": 4}}


def train_logs(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_loss_goes_down_on_one_repeated_batch(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:4], max_steps=16, learning_rate=3e-3)
    trainer.train()
    losses = [entry["reconstruction"] for entry in train_logs(trainer)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_loss_is_the_weighted_sum_of_its_logged_components(make_trainer, weights_dir):
    trainer = make_trainer(
        max_steps=2,
        reconstruction_weight=0.5,
        perceptual_weight=2.0,
        perceptual_start=1,
        quantization_weight=3.0,
        adversarial_weight=0.1,
        weights_dir=str(weights_dir),
    )
    trainer.train()
    first, second = train_logs(trainer)
    assert "perceptual" not in first and second["perceptual"] > 0
    for entry in (first, second):
        expected = 0.5 * entry["reconstruction"] + 3.0 * entry["quantization"] + 0.1 * entry["adversarial"]
        expected += 2.0 * entry.get("perceptual", 0.0)
        assert entry["loss"] == pytest.approx(expected, abs=1e-4)


def test_every_image_gets_a_budget_of_its_own(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:8], max_steps=3)
    budgets = []
    trainer.model.register_forward_hook(lambda module, args, output: budgets.append(output.budgets.tolist()))
    trainer.train()
    assert len(budgets) == 3 and all(len(drawn) == 4 for drawn in budgets)
    assert any(len(set(drawn)) > 1 for drawn in budgets)


def test_policy_stays_bit_identical(make_trainer, snapshot):
    trainer = make_trainer(weight_decay=0.1, adversarial_weight=0.1)
    before = snapshot(trainer.model)
    trainer.train()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith("policy") for name in changed)
    averaged = trainer.ema.module.state_dict()
    assert all(torch.equal(averaged[name], before[name]) for name in before if name.startswith("policy"))


def test_every_head_and_the_codebook_are_trained(make_trainer, snapshot):
    trainer = make_trainer(max_steps=6)
    before = snapshot(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    trained = [name for name in before if "lora_B" in name or "codebook" in name]
    assert len(trained) == 1 + 2 * 2 * 3
    assert all(not torch.equal(before[name], after[name]) for name in trained)


def test_average_is_exported(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.export(str(tmp_path / "exported"), METRICS)
    exported = AdaTokModel.from_pretrained(tmp_path / "exported").state_dict()
    averaged = trainer.ema.module.state_dict()
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[name], averaged[name]) for name in averaged)
    weights = dict(trainer.model.named_parameters())
    trained = [name for name, parameter in weights.items() if parameter.requires_grad]
    assert all(not torch.equal(exported[name], weights[name]) for name in trained if "lora_A" not in name)


def test_average_exported_in_16_bits_loads_in_32(make_trainer, tmp_path):
    trainer = make_trainer(export_half_precision=True)
    trainer.train()
    trainer.export(str(tmp_path / "exported"), METRICS)
    stored = load_file(tmp_path / "exported" / "model.safetensors")
    assert stored["encoder.latent_tokens"].dtype == torch.float16
    exported, averaged = AdaTokModel.from_pretrained(tmp_path / "exported"), trainer.ema.module
    assert exported.dtype == averaged.dtype == torch.float32
    for name, tensor in exported.state_dict().items():
        assert torch.equal(tensor, averaged.state_dict()[name].half().to(tensor.dtype)), name


@pytest.mark.parametrize("ema_decay", [0.0, 0.2, 0.999])
def test_average_follows_its_law(make_trainer, watch, ema_decay):
    trainer = make_trainer(ema_decay=ema_decay, max_steps=3)
    name = "encoder.latent_tokens"
    weights = watch(trainer, lambda: trainer.model.state_dict()[name].clone())
    trainer.train()
    expected = weights[0]
    for averaged, weight in enumerate(weights[1:], start=1):
        decay = min(ema_decay, (1 + averaged) / (10 + averaged))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(trainer.ema.module.state_dict()[name], expected)


def test_latent_norm_of_the_average_is_that_of_the_model(make_trainer):
    trainer = make_trainer()
    trainer.train()
    averaged, model = trainer.ema.module.quantizer.latent_norm, trainer.model.quantizer.latent_norm
    assert torch.equal(averaged.running_mean, model.running_mean)
    assert not torch.equal(model.running_mean, torch.zeros_like(model.running_mean))


def test_latent_norm_statistics_freeze_at_their_step(make_trainer, watch):
    trainer = make_trainer(freeze_latent_norm_step=2)
    means = watch(trainer, lambda: trainer.model.quantizer.latent_norm.running_mean.clone())
    trainer.train()
    assert not torch.equal(means[0], means[1])
    assert torch.equal(means[1], means[2]) and torch.equal(means[1], means[3])


def test_metrics_at_every_candidate_budget_are_logged(make_trainer, weights_dir):
    trainer = make_trainer(
        eval_strategy="steps", eval_steps=2, perceptual_weight=1.0, perceptual_start=99, weights_dir=str(weights_dir)
    )
    trainer.train()
    names = {f"eval_{metric}_{budget}" for metric in ("psnr", "lpips") for budget in (4, 8, 16)}
    entries = [entry for entry in trainer.state.log_history if "eval_psnr_4" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    assert all(names | {"eval_codebook_use"} <= entry.keys() for entry in entries)


def test_without_pictures_for_the_grid_there_is_none(make_trainer, tmp_path):
    trainer = make_trainer(grid_images=0)
    assert "eval_psnr_4" in trainer.evaluate() and not list(tmp_path.rglob("*.png"))


def test_metrics_are_those_of_the_averaged_weights(make_trainer, pictures, processor):
    trainer = make_trainer()
    trainer.train()
    metrics = trainer.evaluate(metric_key_prefix="test")
    model = trainer.ema.module
    pixel_values = processor(pictures[:6], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        codes = model.encode(pixel_values, budgets=16).image_codes
        pixels = model.decode(codes, budgets=8).pixel_values.clamp(-1, 1)
        pixels = ((pixels + 1) * 127.5).round() / 127.5 - 1
    errors = ((pixels - pixel_values) / 2).square().mean(dim=(1, 2, 3))  # the signal's range becomes 1
    assert metrics["test_psnr_8"] == pytest.approx((-10 * errors.log10()).mean().item(), abs=1e-3)
    assert metrics["test_codebook_use"] == pytest.approx(len(codes.unique()) / 64)
    assert not any("lpips" in name for name in metrics)


def test_metrics_are_those_of_8_bit_pictures(make_trainer, pictures, processor, weights_dir):
    trainer = make_trainer(perceptual_weight=1.0, weights_dir=str(weights_dir))
    metrics = trainer.evaluate()
    model = trainer.ema.module.eval()
    pixel_values = processor(pictures[:6], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        pixels = model(pixel_values, budgets=8).pixel_values
        pairs = [to_images(processor.post_process(values)) for values in (pixel_values, pixels)]
        assert metrics["eval_psnr_8"] == pytest.approx(psnr(*pairs).mean().item(), abs=1e-5)
        distances = trainer.eval_lpips(to_pixel_values(pairs[1]), to_pixel_values(pairs[0]))
    assert metrics["eval_lpips_8"] == pytest.approx(distances.mean().item(), rel=1e-5)


@pytest.mark.parametrize("train_only", [None, "heads", "decoder"])
def test_every_trained_weight_gets_a_gradient_at_every_step(make_trainer, pictures, train_only):
    trainer = make_trainer(
        images=pictures[:2], per_device_train_batch_size=2, adversarial_weight=0.1, train_only=train_only, max_steps=2
    )
    without = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            names = [n for n, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None]
            without.append(names)

    trainer.add_callback(Look())
    trainer.train()
    assert without == [[], []] and trainer.args.ddp_find_unused_parameters is False


def test_grid_shows_originals_and_every_candidate_budget(make_trainer, pictures, processor):
    trainer = make_trainer(max_steps=2, grid_images=5)
    trainer.train()
    grids = Path(trainer.args.output_dir) / "grids"
    grids.mkdir()
    left_over = grids / f".adatok-{'0' * 8}-1-{'0' * 32}.png"
    left_over.touch()
    os.utime(left_over, (0, 0))
    trainer.evaluate()
    (path,) = grids.iterdir()
    assert path.name == "step-0000002.png"
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (5 * 32, 4 * 32, 3)
    originals = processor.post_process(processor(pictures[:5], return_tensors="pt")["pixel_values"])
    assert (sheet[:, :32] == np.concatenate([np.asarray(image) for image in originals])).all()
    assert (sheet[:, 32:64] != sheet[:, 96:]).any()


def test_images_are_mirrored_half_of_the_time(make_trainer, pictures, processor):
    trainer = make_trainer(images=pictures[:4], max_steps=8)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, inputs: seen.extend(inputs["pixel_values"].clone()), with_kwargs=True
    )
    trainer.train()
    originals = processor(pictures[:4], return_tensors="pt")["pixel_values"]
    plain = sum(any(torch.equal(image, original) for original in originals) for image in seen)
    mirrored = sum(any(torch.equal(image, original.flip(-1)) for original in originals) for image in seen)
    assert plain + mirrored == len(seen) == 32 and plain > 4 and mirrored > 4


def test_gradient_accumulation_equals_the_larger_batch(make_trainer, pictures, snapshot, monkeypatch):
    # Fixed budgets, mirror images and frozen statistics leave nothing that depends on how the batch is cut.
    monkeypatch.setattr(tokenizer_trainer, "draw_budgets", lambda size, *_, **__: torch.full((size,), 8))
    half = [np.asarray(picture.resize((16, 32))) for picture in pictures[:8]]
    symmetric = [Image.fromarray(np.concatenate([side, side[:, ::-1]], axis=1)) for side in half]
    states = []
    for batch_size, accumulation in ((4, 1), (2, 2)):
        trainer = make_trainer(
            images=symmetric,
            max_steps=3,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            freeze_latent_norm_step=0,
            optim="sgd",
            learning_rate=0.05,
        )
        start = snapshot(trainer.model)
        trainer.train()
        states.append(snapshot(trainer.model))
    assert not torch.allclose(start["encoder.latent_tokens"], states[0]["encoder.latent_tokens"], atol=1e-4)
    for name in start:
        torch.testing.assert_close(states[0][name], states[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_gradient_checkpointing_recomputes_and_changes_nothing(make_trainer, snapshot):
    states, calls = [], []
    for gradient_checkpointing in (False, True):
        trainer = make_trainer(max_steps=2, gradient_checkpointing=gradient_checkpointing)
        layers = [module for module in trainer.model.modules() if isinstance(module, AdaTokLayer)]
        calls.append([])
        for layer in layers:  # inside the layer, where the recomputation passes
            layer.attention.register_forward_hook(lambda *_, count=calls[-1]: count.append(1))
        trainer.train()
        states.append(snapshot(trainer.model))
    assert len(calls[1]) == 2 * len(calls[0])
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], msg=name)


def test_bfloat16_autocast_runs_on_the_cpu(make_trainer, weights_dir):
    trainer = make_trainer(
        max_steps=3, bf16=True, perceptual_weight=1.0, adversarial_weight=0.1, weights_dir=str(weights_dir)
    )
    dtypes = set()
    trainer.model.encoder.layers[0].mlp.fc1.register_forward_hook(
        lambda module, args, output: dtypes.add(output.dtype)
    )
    trainer.train()
    assert dtypes == {torch.bfloat16}
    assert all(np.isfinite(entry["loss"]) for entry in train_logs(trainer))
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert trainer.evaluate()["eval_psnr_16"] > 0


def test_compute_loss_hands_back_outputs_on_request(make_trainer, pictures, processor):
    trainer = make_trainer()
    batch = ImageCollator(processor)([{"image": image} for image in pictures[:4]])
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert loss.ndim == 0 and outputs.image_codes.shape == (4, 16)


def test_muon_trains_the_matrices_of_the_layers_and_adamw_the_rest(make_trainer):
    trainer = make_trainer(muon=True, learning_rate=2e-3, adamw_learning_rate=1e-3)
    optimizer = trainer.create_optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 1e-3]
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    by_muon, by_adamw = (
        [names[id(parameter)] for group in part.param_groups for parameter in group["params"]]
        for part in optimizer.parts.values()
    )
    assert "encoder.layers.0.mlp.fc1.weight" in by_muon and any("lora_A" in name for name in by_muon)
    assert all(".layers." in name and name.endswith("weight") for name in by_muon)
    assert {"quantizer.codebook.weight", "encoder.patch_embedding.weight", "decoder.mask_token"} <= set(by_adamw)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert sorted([*by_muon, *by_adamw]) == sorted(trained)


@pytest.mark.parametrize("rate, muon", [(-1e-3, True), (1e-3, False)])
def test_a_rate_of_adamw_that_means_nothing_is_refused(make_trainer, one_sentence, rate, muon):
    with one_sentence("adamw_learning_rate", str(rate)):
        make_trainer(adamw_learning_rate=rate, muon=muon)


@pytest.mark.parametrize("size", [0, 33])
def test_a_perceptual_crop_beyond_the_image_is_refused(make_trainer, one_sentence, size):
    with one_sentence("perceptual_crop", str(size)):
        make_trainer(perceptual_crop=size)


@pytest.mark.parametrize(
    "named, base, expected",
    [(None, None, "apache-2.0"), (None, "mit", "mit"), ("cc-by-nc-4.0", "mit", "cc-by-nc-4.0")],
)
def test_an_export_has_the_licence_that_is_named_else_that_of_the_weights_it_started_from(
    make_trainer, tmp_path, tiny_config, named, base, expected
):
    trainer = make_trainer(license=named)
    if base is not None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "README.md").write_text(model_card(tiny_config, "base", license=base), encoding="utf-8")
        trainer.model.name_or_path = str(tmp_path / "base")
    trainer.export(str(tmp_path / "out"), {})
    assert read_license(tmp_path / "out") == expected


def test_even_pixels_keep_a_plain_area_plain(make_trainer, tiny_config):
    tiny_config.pixel_decoder_config = AdaTokPixelDecoderConfig(
        codebook_size=None, hidden_sizes=[8, 8], layers_per_block=1, norm_num_groups=4
    )
    lattice = {}
    for even_pixels in (False, True):
        trainer = make_trainer(config=tiny_config, max_steps=2, learning_rate=0.1, even_pixels=even_pixels)
        trainer.train()
        convolution = trainer.model.decoder.pixel_decoder.conv_out
        features = torch.randn(1, convolution.in_channels, 1, 1).expand(-1, -1, 5, 5)
        with torch.no_grad():
            pixels = nn.functional.pixel_shuffle(convolution(features), 4)[..., 4:-4, 4:-4]
        lattice[even_pixels] = (pixels.amax((2, 3)) - pixels.amin((2, 3))).max()
    assert lattice[True] < 1e-5 < 1e-2 < lattice[False]


def test_even_pixels_without_a_pixel_decoder_are_refused(make_trainer, one_sentence):
    with one_sentence("even_pixels", "pixel_decoder_config"):
        make_trainer(even_pixels=True)


def test_training_takes_denormal_numbers_for_zeros_and_nothing_after_it_does(make_trainer, watch):
    trainer = make_trainer(max_steps=1)
    seen = watch(trainer, lambda: torch.tensor(1e-39).mul(1.0).item())
    trainer.train()
    assert seen == [0.0] and torch.tensor(1e-39).mul(1.0).item() > 0
