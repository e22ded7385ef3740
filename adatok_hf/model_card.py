"""The model card of a checkpoint."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .files import parse_yaml
from .modeling import AdaTokConfig, TaTokConfig


CARD_NAME = "README.md"
CHOICE_LABEL = "chosen by the model"
OF_MEASUREMENT = ("quality measured on", "LPIPS above", "codebook use")  # training facts that explain the rows
SNIPPET = """```python
import torch
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoModel

# A repository of the Hub, or the folder that this card lies in.
processor = AutoImageProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True).eval()

image = Image.new("RGB", (256, 256), "white")  # or Image.open("a_photograph.jpg")
ImageDraw.Draw(image).ellipse((48, 48, 208, 208), fill="teal")

inputs = processor(image, return_tensors="pt")
with torch.no_grad():
    encoded = model.encode(**inputs)  # or budgets={smallest}, to decide yourself
    decoded = model.decode(encoded.image_codes, budgets=encoded.budgets)
picture = processor.post_process(decoded.pixel_values)[0]
print(encoded.budgets.tolist(), encoded.image_codes.shape, picture.size)
```"""
TATOK_SNIPPET = (
    SNIPPET.replace(
        "encoded = model.encode(**inputs)  # or budgets={smallest}, to decide yourself",
        "encoded = model.encode(**inputs)  # or num_tokens={some}, to decide yourself",
    )
    .replace("model.decode(encoded.image_codes, budgets=encoded.budgets)", "model.decode(encoded)")
    .replace("encoded.budgets.tolist(), encoded.image_codes.shape", "encoded.num_tokens.tolist()")
)
ADATOK = """\
An adaptive image tokenizer: it turns a {size} x {size} image into at most {latents} codes, ordered by importance, and
rebuilds the image from any prefix of them. {policy}
The method is AdaTok, [huggingface.co/papers/2606.07185](https://huggingface.co/papers/2606.07185)."""
ADATOK_ROWS = """| Latent tokens | {latents} |
| Codebook | {codebook_size} entries of {codebook_dim} numbers |
| Candidate budgets | {budgets} |

Any budget from 1 to {latents} may be forced; between candidates the head of the next larger one serves it."""
TATOK = """\
An adaptive image tokenizer: it turns a {size} x {size} image into {globals} global codes and one code for each of
{patches} patches, and drops the patches that say least beyond the rest. {policy}
The method is TaTok, [huggingface.co/papers/2605.16384](https://huggingface.co/papers/2605.16384)."""
TATOK_ROWS = """| Global tokens | {globals}, of {global_codebook_size} codes |
| Patch tokens | {patches}, of {patch_codebook_size} codes |
| Width of a code | {codebook_dim} numbers |

A budget is a number of tokens, the global ones among them: any from {globals} to {latents}. Which patches are kept has
to be told to a decoder too: `model.config.count_bits(num_tokens)` counts everything."""
BODY = """---
{front_matter}
---

# {name}

{introduction}

## Use

{snippet}

## Budgets

| | |
|---|---|
| Image size | {size} x {size} pixels, RGB, values in [-1, 1] |
{rows}

## Quality

{quality}

## Training

{training}

## Limits

- Reconstruction is lossy. Small text, faces and fine texture suffer first, the more so at small budgets.
- Images are resized and cropped to {size} x {size}; nothing outside the crop is kept.
- The codes describe images like those of the training data best; other kinds cost more codes or lose more.
- The codes of this checkpoint mean nothing to another one.

## Licence

{license}
"""


def model_card(
    config: AdaTokConfig | TaTokConfig, repo_id: str, metrics: dict | None = None, *, license: str | None = None
) -> str:
    """
    Writes the model card of a checkpoint.

    Args:
        config ([`AdaTokConfig`] or [`TaTokConfig`]): The model's configuration.
        repo_id (`str`): The repository that the snippet loads from.
        metrics (`dict`, *optional*):
            What was measured: `"rows"`, a list of `{"budget": int, "psnr": float, "lpips": float, ...}`, one per
            candidate budget and perhaps one of `"budget": "auto"` with its `"mean_budget"`, and `"training"`, a dict
            of facts of which `"datasets"` may list ids on the Hub and `"base_model"` name one. What is absent is
            called not measured, or not recorded.
        license (`str`, *optional*): Licence identifier of the Hub, see [`read_license`]; `apache-2.0` if not given.

    Returns:
        `str`: the card, with its front matter.

    Raises:
        `ValueError`: if the rows are no list of dicts with a budget, or the training facts no dict.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.model_card import model_card

    >>> config = AdaTokConfig(num_latent_tokens=64, budgets=[32, 64])
    >>> card = model_card(config, "someone/adatok", {"rows": [{"budget": 32, "psnr": 17.25}]})
    >>> print(card[card.index("| Budget") : card.index("## Training")].strip())
    | Budget | PSNR |
    |---|---|
    | 32 | 17.25 |
    | 64 | not measured |

    ```"""
    metrics, license = metrics or {}, license or "apache-2.0"
    rows, training = metrics.get("rows", []), metrics.get("training", {})
    if not isinstance(rows, list) or not isinstance(training, dict):
        raise ValueError(f"The metrics must hold a list of rows and a dict of training facts; got {metrics}.")
    names = metric_names(rows)
    data = ModelCardData(
        license=license,
        library_name="transformers",
        tags=[
            config.model_type,
            "image-tokenizer",
            "image-compression",
            "vector-quantization",
            "adaptive-tokenization",
        ],
        datasets=training.get("datasets") or None,
        base_model=training.get("base_model"),
        metrics=names or None,
    )
    introduction, table, snippet = describe(config)
    card = BODY.format(
        front_matter=data.to_yaml(),
        name=repo_id.rsplit("/", 1)[-1],
        size=config.image_size,
        introduction=introduction,
        rows=table,
        snippet=snippet.replace("{repo_id}", repo_id),
        quality=quality_table(rows, names, config.budgets if config.model_type == "adatok" else []),
        training="\n".join(f"- {key}: {format_fact(value)}" for key, value in training.items()) or "Not recorded.",
        license=license,
    )
    return str(ModelCard(card))


def lasting_facts(metrics: dict | None) -> dict:
    """The training facts that stay true when the rows of the metrics are given up or replaced."""
    training = (metrics or {}).get("training", {})
    return {name: fact for name, fact in training.items() if name not in OF_MEASUREMENT}


def describe(config: AdaTokConfig | TaTokConfig) -> tuple[str, str, str]:
    """What a card says first, the rows of its table, and the snippet without its repository."""
    return describe_tatok(config) if config.model_type == "tatok" else describe_adatok(config)


def describe_adatok(config: AdaTokConfig) -> tuple[str, str, str]:
    """The same of an AdaTok."""
    if config.is_policy_trained:
        policy = "In one forward pass it decides how many codes each image deserves."
    else:
        policy = "Its policy is not trained: without a forced budget every image gets all codes."
    facts = {
        "size": config.image_size,
        "latents": config.num_latent_tokens,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "budgets": ", ".join(map(str, config.budgets)),
    }
    snippet = SNIPPET.replace("{smallest}", str(config.budgets[0]))
    return ADATOK.format(policy=policy, **facts), ADATOK_ROWS.format(**facts), snippet


def describe_tatok(config: TaTokConfig) -> tuple[str, str, str]:
    """The same of a TaTok."""
    if config.threshold is None:
        policy = "It has no threshold yet: without one, or a number of tokens, every image keeps all patches."
    else:
        measure = {"prior": "entropy", "surprisal": "surprisal", "residual": "error"}[config.entropy]
        kind = f"share of the {measure} that is kept"
        if config.threshold_rule == "absolute":
            kind = f"{measure} that is dropped"
        policy = f"In one forward pass it decides which, by the {kind}: {config.threshold:.4g}."
    facts = {
        "size": config.image_size,
        "globals": config.num_global_tokens,
        "patches": config.num_patches,
        "latents": config.num_latent_tokens,
        "global_codebook_size": config.global_codebook_size,
        "patch_codebook_size": config.patch_codebook_size,
        "codebook_dim": config.codebook_dim,
    }
    snippet = TATOK_SNIPPET.replace("{some}", str(config.budgets[1]))
    return TATOK.format(policy=policy, **facts), TATOK_ROWS.format(**facts), snippet


def metric_names(rows: list[dict]) -> list[str]:
    """Every metric that some row has, in order of appearance."""
    for row in rows:
        if not isinstance(row, dict) or not (isinstance(row.get("budget"), int) or row.get("budget") == "auto"):
            raise ValueError(f'Every row of the metrics must be like {{"budget": 32, "psnr": 20.5}}; got {rows}.')
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("budget", "mean_budget")]


def quality_table(rows: list[dict], names: list[str], candidates: list[int]) -> str:
    """One line per candidate budget, measured or not, per further budget that was measured, and for the policy."""
    if not rows:
        return "Not measured."
    measured = {row["budget"]: row for row in rows}
    auto = measured.pop("auto", None)
    header = ["Budget", *(name.upper().replace("RFID", "rFID") for name in names)]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for budget in sorted({*candidates, *measured}):
        values = [measured.get(budget, {}).get(name, "not measured") for name in names]
        lines.append(f"| {' | '.join([str(budget), *map(format_fact, values)])} |")
    if auto is not None:
        values = [auto.get(name, "not measured") for name in names]
        label = f"{CHOICE_LABEL}, {format_fact(auto.get('mean_budget', 'unknown'))} on average"
        lines.append(f"| {' | '.join([label, *map(format_fact, values)])} |")
    return "\n".join(lines)


def format_fact(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_license(folder: Path) -> str | None:
    """The licence that the card in a folder names, if it has a card and that names one."""
    path = folder / CARD_NAME
    try:
        facts = parse_front_matter(path.read_text(encoding="utf-8"), path) if path.is_file() else {}
    except ValueError:  # front matter that is none
        return None
    return facts["license"] if isinstance(facts.get("license"), str) else None


def parse_front_matter(card: str, name: str | Path) -> dict:
    """The YAML at the head of a card, empty if there is none; raises `ValueError` if it is damaged."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card, re.DOTALL)
    facts = parse_yaml(match[1], name) if match else None
    if match and facts is not None and not isinstance(facts, dict):
        raise ValueError(f"The front matter of {name} must be a mapping; it is {type(facts).__name__}.")
    return facts or {}
