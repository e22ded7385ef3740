"""Writes a model as graphs for other runtimes, and measures what that changed."""

import copy
import warnings
from pathlib import Path

import torch

from ..checkpoint import Processor, model_hash
from ..extras import require
from ..files import check_empty, remove_left_overs, whole_folder, write_json
from ..metrics.pairs import psnr_of_error
from ..modeling import AdaTokModel
from .exported import ENDINGS, INT8, REPORT_NAME, ExportedAdaTok
from .graphs import DYNAMIC_SHAPES, INPUTS, OUTPUTS, trace_graphs


OPSET = 20


def export_model(
    model: AdaTokModel,
    processor: Processor,
    out: str | Path,
    format: str = "onnx",
    *,
    int8: bool = False,
    pixel_values: torch.Tensor | None = None,
) -> dict:
    r"""
    Writes encoder and decoder of a model as graphs, with its configuration and image processor beside them. The batch
    may be of any size, and images of one batch may have different budgets. The folder appears when all of it has been
    written.

    Args:
        model ([`AdaTokModel`]): The model; it stays as it is. The graphs compute in float32.
        processor ([`AdaTokImageProcessor`]): Its image processor.
        out (`str` or `Path`): Where to; must be absent or empty.
        format (`str`, *optional*, defaults to `"onnx"`): `onnx`, or `torch` for `torch.export`.
        int8 (`bool`, *optional*, defaults to `False`): Whether to write a second pair of ONNX graphs with weights of
            8 bits. Their codes are not exchangeable with those of the model.
        pixel_values (`torch.Tensor` of shape `(images, 3, image_size, image_size)`, *optional*): Pictures in [-1, 1]
            by which to compare the graphs with the model; random ones if not given.

    Returns:
        `dict`: what `export.json` holds: `format`, `opset` (ONNX alone), `model_hash`, `bytes` of each file, `images`
        that were compared, `codes_equal` in 0..1, `budgets_equal` in 0..1, `pixels_difference` (the largest one, in
        [-1, 1] from the same codes and budgets) and, with `int8`, the dictionary `int8` of [`measure_damage`].

    Raises:
        `ValueError`: for an unknown format, for `int8` without ONNX, and if the folder is not empty or a file.
        `ImportError`: if a package of the extra `export` is missing.

    Example:

    ```python
    >>> import tempfile
    >>> from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokModel
    >>> from adatok_hf.export.export import export_model

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export_model(AdaTokModel(config), AdaTokImageProcessor(), folder, "torch")
    >>> sorted(report["bytes"]), report["codes_equal"]
    (['torch/decoder_model.pt2', 'torch/encoder_model.pt2'], 1.0)

    ```"""
    if format not in ENDINGS:
        raise ValueError(f"The format must be onnx or torch; got {format!r}.")
    if int8 and format != "onnx":
        raise ValueError("Weights of 8 bits are written as ONNX alone; leave int8 or the format torch out.")
    if format == "onnx":
        require("export", "onnx", "onnxscript", "onnxruntime")
    check_empty(out)
    out = Path(out).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(out.parent)
    fingerprint = model_hash(model)
    model = copy.deepcopy(model).float().cpu().eval()
    if pixel_values is None:
        shape = (4, model.config.num_channels, model.config.image_size, model.config.image_size)
        pixel_values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    report = {"format": format, "model_hash": fingerprint, "images": len(pixel_values)}
    with whole_folder(out) as folder:
        (folder / format).mkdir()
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        for name, program in trace_graphs(model).items():
            path = folder / format / f"{name}{ENDINGS[format]}"
            torch.export.save(program, path) if format == "torch" else _write_onnx(name, program, path)
            if int8:
                _write_int8(path)
        report["bytes"] = {
            f"{format}/{path.name}": path.stat().st_size for path in sorted((folder / format).iterdir())
        }
        if format == "onnx":
            report["opset"] = OPSET
        write_json(folder / REPORT_NAME, report)
        report |= compare(model, ExportedAdaTok.from_folder(folder), pixel_values)
        if int8:
            report["int8"] = measure_damage(
                ExportedAdaTok.from_folder(folder), ExportedAdaTok.from_folder(folder, int8=True), pixel_values
            )
        write_json(folder / REPORT_NAME, report)
    return report


def _write_onnx(name: str, program: torch.export.ExportedProgram, path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated inside the exporter
        torch.onnx.export(
            program,
            f=path,
            input_names=INPUTS[name],
            output_names=OUTPUTS[name],
            opset_version=OPSET,
            dynamic_shapes=DYNAMIC_SHAPES[name],
            external_data=False,
            verbose=False,
        )


def _write_int8(path: Path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = path.with_name(f"{path.stem}{INT8}{path.suffix}")
    quant_pre_process(path, target, skip_symbolic_shape=True)
    quantize_dynamic(target, target, weight_type=QuantType.QInt8, per_channel=True)


@torch.no_grad()
def compare(model: AdaTokModel, exported: ExportedAdaTok, pixel_values: torch.Tensor, batch_size: int = 32) -> dict:
    """
    Compares an export with its model.

    Args:
        model ([`AdaTokModel`]): In float32, on the CPU, in evaluation mode.
        exported ([`~adatok_hf.export.exported.ExportedAdaTok`]): The export.
        pixel_values (`torch.Tensor` of shape `(images, num_channels, image_size, image_size)`): In [-1, 1].
        batch_size (`int`, *optional*, defaults to 32): Images at once.

    Returns:
        `dict`: `codes_equal` and `budgets_equal` as shares in 0..1, and `pixels_difference`, the largest one where
        both decode the model's codes at budgets that differ from image to image.
    """
    limit, codes, budgets, difference, total = model.config.num_latent_tokens, 0, 0, 0.0, len(pixel_values)
    for batch in pixel_values.split(batch_size):
        encoded = model.encode(batch, budgets=limit)
        image_codes, budget_logits = exported.encode(batch)
        codes += (image_codes == encoded.image_codes).sum().item()
        own = exported.choose_budgets(encoded.budget_logits)
        budgets += (exported.choose_budgets(budget_logits) == own).sum().item()
        mixed = torch.arange(len(batch)) * 7 % limit + 1
        pixels = model.decode(encoded.image_codes, mixed).pixel_values
        difference = max(difference, (exported.decode(encoded.image_codes, mixed) - pixels).abs().max().item())
    return {
        "codes_equal": codes / total / limit,
        "budgets_equal": budgets / total,
        "pixels_difference": difference,
    }


@torch.no_grad()
def measure_damage(
    exact: ExportedAdaTok, rounded: ExportedAdaTok, pixel_values: torch.Tensor, batch_size: int = 32
) -> dict:
    """
    Measures what weights of 8 bits cost, on pictures at the budgets that the exact policy chooses.

    Args:
        exact, rounded ([`~adatok_hf.export.exported.ExportedAdaTok`]): With weights of 32 and of 8 bits.
        pixel_values (`torch.Tensor` of shape `(images, num_channels, image_size, image_size)`): In [-1, 1].
        batch_size (`int`, *optional*, defaults to 32): Images at once.

    Returns:
        `dict`: `codes_equal` and `budgets_equal` as shares in 0..1, and means over the images in dB against the
        originals: `psnr_exact`, `psnr_rounded`, and `psnr_rounded_decoder`, of the exact codes.
    """
    codes, budgets, errors = [], [], {"psnr_exact": [], "psnr_rounded": [], "psnr_rounded_decoder": []}
    for batch in pixel_values.split(batch_size):
        image_codes, logits = exact.encode(batch)
        rounded_codes, rounded_logits = rounded.encode(batch)
        kept = exact.choose_budgets(logits)
        codes.append((image_codes == rounded_codes).float().mean(dim=1))
        budgets.append((kept == rounded.choose_budgets(rounded_logits)).float())
        made = (
            exact.decode(image_codes, kept),
            rounded.decode(rounded_codes, kept),
            rounded.decode(image_codes, kept),
        )
        for values, pixels in zip(errors.values(), made):
            squares = (pixels.clamp(-1, 1) - batch).square().mean(dim=(1, 2, 3))
            values.append(psnr_of_error(squares, data_range=2))
    return {
        "codes_equal": torch.cat(codes).mean().item(),
        "budgets_equal": torch.cat(budgets).mean().item(),
        **{name: torch.cat(values).mean().item() for name, values in errors.items()},
    }
