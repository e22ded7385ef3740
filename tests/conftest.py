"""Small random models, drawn pictures and random perceptual weights for all tests."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from transformers import LlamaForCausalLM

from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokModel, TaTokConfig, TaTokModel
from adatok_hf.allocation.reward_table import RewardTable, RewardTableInfo
from adatok_hf.checkpoint import codes_hash
from adatok_hf.metrics.perceptual import BACKBONE_FILES
from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary
from adatok_hf.modeling.vocabulary_tatok import TaTokVocabulary


BACKBONES = {"alex": models.alexnet, "vgg": models.vgg16}


def draw_picture(seed: int) -> Image.Image:
    """Soft random colours, 40 x 32 RGB."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((40, 32), Image.Resampling.BILINEAR)


@pytest.fixture
def tiny_config() -> AdaTokConfig:
    return AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_latent_tokens=16,
        codebook_size=64,
        codebook_dim=8,
        budgets=[4, 8, 16],
        lora_rank=2,
        lora_alpha=2,
        policy_hidden_size=16,
    )


@pytest.fixture
def tiny_model(tiny_config) -> AdaTokModel:
    """In evaluation mode; the heads differ and the batch statistics are not their defaults."""
    torch.manual_seed(0)
    model = AdaTokModel(tiny_config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        nn.init.normal_(model.quantizer.latent_norm.running_mean, std=0.1)
        nn.init.uniform_(model.quantizer.latent_norm.running_var, 0.5, 2.0)
    return model


@pytest.fixture
def tatok_config() -> TaTokConfig:
    return TaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_global_tokens=4,
        global_codebook_size=64,
        patch_codebook_size=32,
        codebook_dim=8,
        prior_hidden_size=32,
        prior_num_hidden_layers=1,
        prior_num_attention_heads=2,
    )


@pytest.fixture
def tiny_tatok(tatok_config) -> TaTokModel:
    """In evaluation mode; the prior has opinions and the batch statistics are not their defaults."""
    torch.manual_seed(0)
    model = TaTokModel(tatok_config).eval()
    with torch.no_grad():
        nn.init.normal_(model.prior.code_head.weight, std=0.5)
        for quantizer in (model.global_quantizer, model.patch_quantizer):
            nn.init.normal_(quantizer.latent_norm.running_mean, std=0.1)
            nn.init.uniform_(quantizer.latent_norm.running_var, 0.5, 2.0)
    return model


@pytest.fixture
def tatok_checkpoint(tmp_path, tiny_tatok, processor) -> Path:
    """A saved folder with `tiny_tatok` and its processor; half of the entropy is kept."""
    path = tmp_path / "tatok_checkpoint"
    tiny_tatok.config.threshold = 0.5
    tiny_tatok.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def processor():
    """Makes 32 x 32 pixel values, as `tiny_model` needs them."""
    return AdaTokImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture
def tiny_checkpoint(tmp_path, tiny_model, processor) -> Path:
    """A saved folder with `tiny_model` and its processor."""
    path = tmp_path / "tiny_checkpoint"
    tiny_model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def sample_images() -> list[Image.Image]:
    """A flat picture, a gradient, some shapes and noise: 48 x 40 RGB, from simple to complex."""
    width, height = 48, 40
    flat = Image.new("RGB", (width, height), (200, 80, 40))
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    gradient = Image.fromarray(np.stack([ramp, ramp, np.full_like(ramp, 128)], axis=2))
    shapes = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(shapes)
    draw.ellipse((4, 4, 26, 26), fill="navy")
    draw.rectangle((22, 16, 44, 36), outline="green", width=3)
    draw.line((0, 39, 47, 0), fill="red", width=2)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return [flat, gradient, shapes, noise]


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [draw_picture(seed) for seed in range(10)]


@pytest.fixture(scope="session")
def write_pictures():
    """Writes so many PNG files into a folder and gives the folder."""

    def write(folder: Path, count: int) -> Path:
        folder.mkdir(parents=True)
        for index in range(count):
            draw_picture(index).save(folder / f"picture-{index:02d}.png")
        return folder

    return write


@pytest.fixture
def make_table():
    """
    A table of random images whose gain from more codes is readable from the first feature, so that a policy can
    learn it. Keywords: number of images, budgets, width of the features, seed.
    """

    def make(num_images: int = 200, budgets=(4, 8, 16), width: int = 64, seed: int = 0) -> RewardTable:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(num_images, width, generator=generator)
        gain = features[:, :1].sigmoid()  # (images, 1), in 0..1
        shares = torch.tensor(budgets) / budgets[-1]
        lpips = 0.5 - 0.3 * gain * shares.sqrt()
        mse = 0.1 - 0.05 * gain * shares.sqrt()
        info = RewardTableInfo(
            model="a model",
            model_hash="0" * 64,
            data="random",
            num_images=num_images,
            budgets=list(budgets),
            num_latent_tokens=budgets[-1],
            images_per_part=64,
            perceptual_net="alex",
        )
        columns = {
            "features": features,
            "lpips": lpips,
            "mse": mse,
            "psnr": 10 * torch.log10(4 / mse),
            "webp_bytes": torch.randint(100, 900, (num_images,), generator=generator),
            "gradient_energy": torch.rand(num_images, generator=generator),
            "group": [("flat", "busy")[index % 2] for index in range(num_images)],
            "image_hash": [f"{seed}-{index}" for index in range(num_images)],
        }
        return RewardTable(info, columns)

    return make


@pytest.fixture(scope="session")
def backbone_features():
    """Random convolutions of a backbone, under torchvision's names and rounded to half precision."""

    def make(net: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        features = BACKBONES[net](weights=None).features.state_dict()
        return {f"features.{name}": tensor.half() for name, tensor in features.items()}

    return make


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory, backbone_features) -> Path:
    """A folder with random AlexNet weights under the name that `load_lpips` looks for."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(backbone_features("alex"), folder / BACKBONE_FILES["alex"])
    return folder


@pytest.fixture
def one_sentence():
    """Expects a `ValueError` whose message is one line with the given parts."""

    @contextmanager
    def expect(*parts: str):
        with pytest.raises(ValueError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message and message.endswith("."), message
        for part in parts:
            assert part in message, message

    return expect


@pytest.fixture
def vocabulary(tiny_model) -> ImageVocabulary:
    """Of three classes and the codes of `tiny_model`."""
    config = tiny_model.config
    names = ["emoji", "places/abbey", "places/alley"]
    return ImageVocabulary(config.codebook_size, config.budgets, names, codes_hash(tiny_model))


def make_generator(vocabulary: ImageVocabulary | TaTokVocabulary) -> LlamaForCausalLM:
    """In evaluation mode; its weights are large enough that classes and positions matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(vocabulary.model_config(**sizes, initializer_range=0.3)).eval()
    model.generation_config = vocabulary.generation_config()
    return model


@pytest.fixture
def generator(vocabulary) -> LlamaForCausalLM:
    """Writes the codes of `tiny_model`."""
    return make_generator(vocabulary)


@pytest.fixture
def tatok_vocabulary(tiny_tatok) -> TaTokVocabulary:
    """Of two classes and the codes of `tiny_tatok`."""
    return TaTokVocabulary.for_tokenizer(tiny_tatok.config, ["emoji", "places/abbey"], codes_hash(tiny_tatok))


@pytest.fixture
def tatok_generator(tatok_vocabulary) -> LlamaForCausalLM:
    """Writes the tokens of `tiny_tatok`."""
    return make_generator(tatok_vocabulary)
