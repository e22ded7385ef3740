"""The embedded checkpoints and their quality."""

from pathlib import Path

import numpy as np
from transformers import AutoConfig

from adatok_hf import AdaTokConfig, TaTokConfig, checkpoints
from adatok_hf.files import read_json
from adatok_hf.metrics.rate import bits_per_pixel
from adatok_hf.tables import markdown_table

from . import sources


def zoo() -> str:
    """The embedded checkpoints, a line each, and what those without an evaluation are."""
    rows, notes = [], ""
    for name, folder in checkpoints().items():
        config, metrics = AutoConfig.from_pretrained(folder), read_json(Path(folder) / "metrics.json")
        training, quality = metrics["training"], {row["budget"]: row for row in metrics["rows"]}
        wanted = (config.budgets[0], config.budgets[len(config.budgets) // 2 - 1], config.num_latent_tokens, "auto")
        shown = [quality[budget] for budget in wanted if budget in quality]
        if "auto" not in quality:
            notes += (
                f"\n\n`{name}` is not evaluated yet, and has no policy: every image gets all codes unless a budget is "
                f"forced. Its quality was measured on {training['quality measured on']}."
            )
        rows.append(
            [
                f"`{name}` (embedded)",
                str(config.image_size),
                code_widths(config),
                f"{training['parameters'] / 1e6:.1f} M",
                images_seen(training),
                "<br>".join(
                    f"{row.get('mean_budget', row['budget']):.3g}{' chosen' if row['budget'] == 'auto' else ''}: "
                    f"{row['psnr']:.2f} dB / {row['lpips']:.3f}" + (f" / {row['rfid']:.0f}" if "rfid" in row else "")
                    for row in shown
                ),
            ]
        )
    header = ["checkpoint", "pixels", "codes", "parameters", "trained on", "codes: PSNR / LPIPS / rFID"]
    return markdown_table(header, rows) + notes


def code_widths(config: AdaTokConfig | TaTokConfig) -> str:
    """How many codes an image has, of how many bits each."""
    if isinstance(config, TaTokConfig):
        widths = [(size - 1).bit_length() for size in (config.global_codebook_size, config.patch_codebook_size)]
        return f"{config.num_global_tokens} of {widths[0]} bits, up to {config.num_patches} of {widths[1]} with places"
    return f"{config.budgets[0]} to {config.budgets[-1]} of {(config.codebook_size - 1).bit_length()} bits"


def images_seen(training: dict) -> str:
    """What a checkpoint was trained on, and its decoder alone after that."""
    further = training.get("images seen, decoder alone")
    return f"{training['images seen']:,} images" + (f", its decoder on {further:,} more" if further else "")


def quality() -> str:
    """The shipped checkpoint at every candidate budget and at the policy's."""
    config, metrics = sources.shipped_config(), read_json(sources.shipped_folder() / "metrics.json")
    rates, rows = [bits_per_pixel(budget, config) for budget in config.budgets], []
    for row in metrics["rows"]:
        is_chosen = row["budget"] == "auto"
        rate = np.interp(row["mean_budget"] if is_chosen else row["budget"], config.budgets, rates)
        rows.append(
            [f"the policy's, {row['mean_budget']:.2f} on average" if is_chosen else str(row["budget"]), f"{rate:.4f}"]
            + [f"{row['rfid']:.1f}", f"{row['kid']:.4f}", f"{row['lpips']:.4f}"]
            + [f"{row['psnr']:.2f} dB", f"{row['ssim']:.4f}"]
        )
    return markdown_table(["budget", "bits per pixel", "rFID", "KID", "LPIPS", "PSNR", "SSIM"], rows)
