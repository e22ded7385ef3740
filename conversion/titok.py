"""
TiTok and One-D-Piece, which share one format: configuration and weights to those of AdaTok.

Both work on pixels in [0, 1]; AdaTok's are in [-1, 1]. The first and the last convolution absorb the difference.
"""

import itertools
import math
import re
from dataclasses import dataclass, field

import torch

from ..modeling import AdaTokConfig, AdaTokModel
from .source import OriginalCheckpoint


FAMILIES = {"titok": "titok", "one-d-piece": "one_d_piece"}  # and what their configurations call them
HEAD_DIM = 64  # small, base and large models have 8, 12 and 16 attention heads, of 64 channels each
ORIGINAL_TO_CONVERTED_KEY_MAPPING = {
    r"^latent_tokens$": "encoder.latent_tokens",
    r"^quantize\.embedding\.": "quantizer.codebook.",
    r"^pixel_quantize\.embedding\.": "decoder.pixel_decoder.codebook.",
    r"^pixel_decoder\.": "decoder.pixel_decoder.",
    r"^encoder\.patch_embed\.": "encoder.patch_embedding.",
    r"^encoder\.conv_out\.": "encoder.latent_projection.",
    r"^decoder\.decoder_embed\.": "decoder.code_projection.",
    r"^decoder\.latent_token_positional_embedding$": "decoder.latent_position_embedding",
    r"^decoder\.conv_out\.": "decoder.pixel_conv.",
    r"^(encoder|decoder)\.positional_embedding$": r"\1.position_embedding",
    r"^(encoder|decoder)\.ln_(pre|post)\.": r"\1.layernorm_\2.",
    r"^(encoder|decoder)\.transformer\.": r"\1.layers.",
    r"\.ln_1\.": ".layernorm_before.",
    r"\.ln_2\.": ".layernorm_after.",
    r"\.attn\.in_proj_": ".attention.qkv_proj.",
    r"\.attn\.out_proj\.": ".attention.o_proj.",
    r"^(encoder\..+)\.mlp\.c_fc\.": r"\1.mlp.fc1.",
    r"^(encoder\..+)\.mlp\.c_proj\.": r"\1.mlp.fc2.",
    r"^(decoder\..+)\.mlp\.c_fc\.": r"\1.mlp.fc1.base_layer.",
    r"^(decoder\..+)\.mlp\.c_proj\.": r"\1.mlp.fc2.base_layer.",
}


@dataclass
class OriginalSettings:
    """
    What a configuration says of a TiTok or One-D-Piece model. The defaults are what the published One-D-Piece models,
    which come without one, have in common.

    Args:
        normalize_codes (`bool`): Whether latents and codes are unit vectors.
        is_two_stage (`bool`): Whether a convolutional pixel decoder follows the transformer. All such models, and no
            others, read their latents in the interleaved layout.
        commitment_cost (`float`): Weight of the commitment term.
        image_mean (`list[float]`): What the preprocessing subtracts from the channels of pixels in [0, 1].
        image_std (`list[float]`): What it divides them by.
        sizes (`dict[str, int]`): Fields of [`AdaTokConfig`] that the weights must agree with.
    """

    normalize_codes: bool = True
    is_two_stage: bool = True
    commitment_cost: float = 0.25
    image_mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    image_std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    sizes: dict[str, int] = field(default_factory=lambda: {"image_size": 256, "num_latent_tokens": 256})


def convert_original(original: OriginalCheckpoint, family: str, budgets: list[int] | None = None) -> AdaTokModel:
    """
    Turns a TiTok or One-D-Piece checkpoint into an AdaTok model that gives the same codes and pixels. Its heads are
    zero, and its policy, untrained, gives every image the full budget.

    Args:
        original ([`OriginalCheckpoint`]): See [`~adatok_hf.conversion.source.read_original`].
        family (`str`): `"titok"` or `"one-d-piece"`.
        budgets (`list[int]`, *optional*): Candidate budgets; eight equal steps up to all codes when unset.

    Returns:
        [`AdaTokModel`], in evaluation mode.

    Raises:
        `ValueError`: if it is a checkpoint of the other family, a continuous one or one of an intermediate stage of
            training; if tensors are missing, superfluous or of a wrong shape; if the budgets do not fit.
    """
    try:
        settings = read_settings(original.config, family)
        config = convert_config(original.tensors, settings, budgets)
        model = AdaTokModel(config).eval()
        load_tensors(model, convert_tensors(original.tensors, settings, config))
    except ValueError as error:
        raise ValueError(f"{original.name} cannot be converted: {error}") from error
    return model


def read_settings(config: dict | None, family: str) -> OriginalSettings:
    """Reads the configuration, and refuses what is no discrete tokenizer of the family."""
    if config is None:
        if family == "titok":
            raise ValueError(
                "it has no config.json, without which TiTok's variants cannot be told apart; name the JSON or YAML "
                "file of its configuration by --config."
            )
        return OriginalSettings()
    tokenizer, preprocessing = section(config, "model.vq_model"), section(config, "dataset.preprocessing")
    model_type = config["model"].get("type", "titok")
    if model_type not in FAMILIES.values():
        raise ValueError(f"its configuration is none of TiTok or One-D-Piece; its model.type is {model_type!r}.")
    if model_type != FAMILIES[family]:
        right = next(other for other in FAMILIES if other != family)
        raise ValueError(f"its configuration is not one of {family}; use --from {right}.")
    quantize_mode = setting(tokenizer, "quantize_mode", str, default="vq")
    if quantize_mode != "vq":
        raise ValueError(
            f"its latents are continuous (quantize_mode {quantize_mode}), and only discrete variants have codes; take "
            "one of quantize_mode vq."
        )
    is_two_stage = setting(tokenizer, "finetune_decoder", bool, default=True)
    if is_two_stage != setting(tokenizer, "is_legacy", bool, default=True):
        raise ValueError("it is an intermediate stage of training, without pixels; take the finished model.")
    return OriginalSettings(
        normalize_codes=setting(tokenizer, "use_l2_norm", bool),
        is_two_stage=is_two_stage,
        commitment_cost=float(setting(tokenizer, "commitment_cost", int, float)),
        image_mean=three_numbers(preprocessing, "normalize_mean", default=0.0),
        image_std=three_numbers(preprocessing, "normalize_std", default=1.0, above=0),
        sizes={
            "image_size": setting(preprocessing, "crop_size", int),
            "patch_size": setting(tokenizer, "vit_enc_patch_size", int),
            "num_latent_tokens": setting(tokenizer, "num_latent_tokens", int),
            "codebook_size": setting(tokenizer, "codebook_size", int),
            "codebook_dim": setting(tokenizer, "token_size", int),
        },
    )


def family_of(config: dict) -> str:
    """Which `--from` a configuration belongs to."""
    return "one-d-piece" if section(config, "model").get("type") == "one_d_piece" else "titok"


def section(config: dict, path: str) -> dict:
    """The mapping at a dotted path of the configuration, which must be there."""
    for name in path.split("."):
        config = config.get(name)
        if not isinstance(config, dict):
            raise ValueError(f"its configuration is none of TiTok or One-D-Piece; it has no section {path}.")
    return config


def setting(section: dict, name: str, *types: type, default: str | bool | None = None) -> str | bool | int | float:
    """One value of a section, which must be of one of the types, and there unless it has a default."""
    value = section.get(name, default)
    if type(value) not in types:  # `isinstance` would take a bool for an int
        wanted = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"its configuration must give {name} as {wanted}; got {value!r}.")
    return value


def three_numbers(section: dict, name: str, default: float, above: float = -math.inf) -> list[float]:
    """One number for each channel, finite and above a bound; the default for all where the section has none."""
    values = section.get(name, [default] * 3)
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(value) in (int, float) and above < value < math.inf for value in values)
    ):
        bound = "" if above == -math.inf else f" above {above}"
        raise ValueError(f"its configuration must give {name} as three finite numbers{bound}; got {values!r}.")
    return [float(value) for value in values]


def convert_config(
    tensors: dict[str, torch.Tensor], settings: OriginalSettings, budgets: list[int] | None = None
) -> AdaTokConfig:
    """The configuration of the converted model: sizes from the shapes of the weights, the rest from the settings."""
    num_latent_tokens = shape_of(tensors, "latent_tokens", 2)[0]
    patch_size = shape_of(tensors, "encoder.patch_embed.weight", 4)[-1]
    num_positions = shape_of(tensors, "encoder.positional_embedding", 2)[0]
    grid_size = math.isqrt(max(num_positions - 1, 0))
    if grid_size == 0 or num_positions != grid_size**2 + 1:
        raise ValueError(
            f"its encoder.positional_embedding has {num_positions} rows in place of one and those of a square image."
        )
    codebook_size, codebook_dim = shape_of(tensors, "quantize.embedding.weight", 2)
    sizes = {
        "image_size": grid_size * patch_size,
        "patch_size": patch_size,
        "num_latent_tokens": num_latent_tokens,
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
    }
    for name, size in settings.sizes.items():
        if sizes[name] != size:
            raise ValueError(
                f"its weights have {name}={sizes[name]}, but {size} is expected; name the configuration that belongs "
                "to them by --config."
            )
    for side, prefix in (("encoder", ""), ("decoder", "decoder_")):
        width = shape_of(tensors, f"{side}.ln_pre.weight", 1)[0]
        if width == 0 or width % HEAD_DIM:
            raise ValueError(f"its {side}.ln_pre.weight has {width} channels in place of a multiple of {HEAD_DIM}.")
        sizes |= {
            f"{prefix}hidden_size": width,
            f"{prefix}num_hidden_layers": count(tensors, f"{side}.transformer."),
            f"{prefix}num_attention_heads": width // HEAD_DIM,
            f"{prefix}intermediate_size": shape_of(tensors, f"{side}.transformer.0.mlp.c_fc.weight", 2)[0],
        }
    return AdaTokConfig(
        **sizes,
        commitment_cost=settings.commitment_cost,
        normalize_codes=settings.normalize_codes,
        latent_batch_norm=False,
        interleave_latents=settings.is_two_stage,
        pixel_decoder_config=pixel_decoder_config(tensors) if settings.is_two_stage else None,
        budgets=budgets or sorted({math.ceil(step * num_latent_tokens / 8) for step in range(1, 9)}),
    )


def pixel_decoder_config(tensors: dict[str, torch.Tensor]) -> dict:
    """What the weights say of the pixel decoder. Groups and epsilons of its norms are the same in all models."""
    codebook_size, codebook_dim = shape_of(tensors, "pixel_quantize.embedding.weight", 2)
    convolutions = [
        f"pixel_decoder.up.{level}.block.0.conv1.weight" for level in range(count(tensors, "pixel_decoder.up."))
    ]
    return {
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "hidden_sizes": [shape_of(tensors, name, 4)[0] for name in reversed(convolutions)],  # level 0 is the finest
        "layers_per_block": count(tensors, "pixel_decoder.mid."),
        "norm_num_groups": 32,
        "norm_eps": 1e-6,
    }


def convert_tensors(
    tensors: dict[str, torch.Tensor], settings: OriginalSettings, config: AdaTokConfig
) -> dict[str, torch.Tensor]:
    """The weights under the names that AdaTok gives them, all but heads and policy."""
    tensors = dict(tensors)
    positions = take(tensors, "encoder.latent_token_positional_embedding", shape_of(tensors, "latent_tokens", 2))
    tensors["latent_tokens"] = tensors["latent_tokens"] + positions
    fold_input_range(tensors, settings, config)
    if settings.is_two_stage:
        fold_output_range(tensors, "pixel_decoder.conv_out", settings)
        fold_shortcuts(tensors)
    else:
        fold_output_range(tensors, "decoder.conv_out", settings)
        reorder_patches(tensors, config)
    converted = {}
    for original_name, tensor in tensors.items():
        name = convert_name(original_name, config)
        if name in converted:  # the file has it under AdaTok's name too
            raise ValueError(f"its weights hold {name} twice, under two names.")
        converted[name] = tensor
    return converted


def convert_name(name: str, config: AdaTokConfig) -> str:
    """AdaTok's name of an original tensor; the name itself where it has none."""
    if config.pixel_decoder_config is None:
        name = re.sub(r"^decoder\.ffn\.0\.", "decoder.pixel_projection.", name)
    else:
        name = re.sub(r"^decoder\.ffn\.0\.", "decoder.pixel_decoder.hidden_projection.", name)
        name = re.sub(r"^decoder\.ffn\.2\.", "decoder.pixel_decoder.logit_projection.", name)
        # `blocks`: the middle, then the levels, coarse to fine, with an upsampling and a convolution between two.
        layers, levels = config.pixel_decoder_config.layers_per_block, len(config.pixel_decoder_config.hidden_sizes)
        if match := re.match(r"pixel_decoder\.up\.(\d+)\.(?:block\.(\d+)|upsample_conv)\.(.+)", name):
            start = layers + (levels - 1 - int(match[1])) * (layers + 2)
            name = f"pixel_decoder.blocks.{start + (layers + 1 if match[2] is None else int(match[2]))}.{match[3]}"
        name = re.sub(r"^pixel_decoder\.mid\.", "pixel_decoder.blocks.", name)
    for pattern, replacement in ORIGINAL_TO_CONVERTED_KEY_MAPPING.items():
        name = re.sub(pattern, replacement, name)
    return name


def fold_input_range(tensors: dict[str, torch.Tensor], settings: OriginalSettings, config: AdaTokConfig):
    """The original sees ((x + 1) / 2 - mean) / std where AdaTok sees x. Patches are not padded, so this is exact."""
    weight = take(tensors, "encoder.patch_embed.weight", (config.hidden_size, 3, config.patch_size, config.patch_size))
    bias = take(tensors, "encoder.patch_embed.bias", (config.hidden_size,))
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (settings.image_mean, settings.image_std))
    weight = weight.double() / std
    tensors["encoder.patch_embed.weight"] = (weight / 2).float()
    tensors["encoder.patch_embed.bias"] = (bias + (weight * (0.5 - mean)).sum(dim=(1, 2, 3))).float()


def fold_output_range(tensors: dict[str, torch.Tensor], name: str, settings: OriginalSettings):
    """Where the original gives y, the pixel in [0, 1] is y * std + mean, and AdaTok's is twice that less one."""
    weight = take(tensors, f"{name}.weight", (3, *shape_of(tensors, f"{name}.weight", 4)[1:]))
    bias = take(tensors, f"{name}.bias", (3,))
    mean, std = (torch.tensor(values).double() for values in (settings.image_mean, settings.image_std))
    tensors[f"{name}.weight"] = (2 * std.view(3, 1, 1, 1) * weight).float()
    tensors[f"{name}.bias"] = (2 * (std * bias + mean) - 1).float()


def fold_shortcuts(tensors: dict[str, torch.Tensor]):
    """
    Where a residual block changes the number of channels, the original's 1x1 shortcut S reads what the second
    convolution gives, not what the block is given: h + S h, which is one convolution of weight (1 + S) W.
    """
    for level in range(count(tensors, "pixel_decoder.up.")):
        block = f"pixel_decoder.up.{level}.block.0"
        out_channels, in_channels = shape_of(tensors, f"{block}.conv1.weight", 4)[:2]
        if in_channels == out_channels:
            continue
        shortcut = take(tensors, f"{block}.nin_shortcut.weight", (out_channels, out_channels, 1, 1)).double()
        weight = take(tensors, f"{block}.conv2.weight", (out_channels, out_channels, 3, 3)).double()
        weight = weight + torch.einsum("oi,ihwk->ohwk", shortcut[:, :, 0, 0], weight)
        tensors[f"{block}.conv2.weight"] = weight.float()


def reorder_patches(tensors: dict[str, torch.Tensor], config: AdaTokConfig):
    """The original gives the pixels of a patch as (row, column, channel), AdaTok as (channel, row, column)."""
    size = config.patch_size
    for name, shape in (("decoder.ffn.0.weight", (config.decoder_hidden_size, 1, 1)), ("decoder.ffn.0.bias", ())):
        tensor = take(tensors, name, (3 * size**2, *shape))
        tensors[name] = tensor.view(size, size, 3, -1).permute(2, 0, 1, 3).reshape(tensor.shape)


def load_tensors(model: AdaTokModel, tensors: dict[str, torch.Tensor]):
    """Loads all but heads and policy; a 1x1 convolution becomes a linear layer, an embedding gains its batch axis."""
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name and not name.startswith("policy.")
    }
    missing, superfluous = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if any("text_guidance" in name for name in superfluous):
        raise ValueError("its decoder needs a text (TA-TiTok); only tokenizers of images alone can be converted.")
    for problem, names in (("lack what becomes", missing), ("have the superfluous", superfluous)):
        if names:
            raise ValueError(f"its weights {problem} {min(names)}, the first of {len(names)}.")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.squeeze().shape != wanted.squeeze().shape:
            raise ValueError(f"what becomes {name} has shape {tuple(tensor.shape)} in place of {tuple(wanted.shape)}.")
        if not tensor.isfinite().all():
            raise ValueError(f"what becomes {name} has NaN or infinite values; get the weights again.")
    model.load_state_dict({name: tensor.view_as(expected[name]) for name, tensor in tensors.items()}, strict=False)


def shape_of(tensors: dict[str, torch.Tensor], name: str, dimensions: int) -> torch.Size:
    """The shape of a tensor, which must be there and have so many dimensions."""
    if name not in tensors:
        raise ValueError(f"its weights lack {name}.")
    if tensors[name].ndim != dimensions:
        raise ValueError(f"its {name} has shape {tuple(tensors[name].shape)} in place of {dimensions} dimensions.")
    return tensors[name].shape


def take(tensors: dict[str, torch.Tensor], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Removes a tensor, which must be there and have that shape."""
    found = shape_of(tensors, name, len(shape))
    if found != shape:
        raise ValueError(f"its {name} has shape {tuple(found)} in place of {tuple(shape)}.")
    return tensors.pop(name)


def count(tensors: dict[str, torch.Tensor], prefix: str) -> int:
    """How many modules are numbered after the prefix, without a gap."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", name))}
    first_gap = next(number for number in itertools.count() if number not in numbers)
    if first_gap == 0 or first_gap < len(numbers):
        raise ValueError(f"its weights lack {prefix}{first_gap}.")
    return first_gap
