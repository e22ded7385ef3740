"""A pipeline to the Hub, in one commit."""

import os
import tempfile
from pathlib import Path

from ..hub import complete_repo_id, push_folder, require_token
from ..model_card import CARD_NAME, read_license
from .load_pipeline import load_pipeline


CARD = """---
{license}library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [adatok, image-generation]
---

# {name}

Generates images of {size} x {size} pixels, {classes}, each with as many codes as it deserves: {budgets}.
The codes are those of AdaTok, [huggingface.co/papers/2606.07185](https://huggingface.co/papers/2606.07185).

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{repo_id}", trust_remote_code=True)
output = pipe({label!r}, num_images_per_label=4, generator=torch.Generator().manual_seed(0))
output.images[0].save("image.png")
print(output.budgets)
```
"""


def is_pipeline(source: str | Path) -> bool:
    """Whether a folder holds a saved pipeline."""
    return (Path(os.path.expanduser(source)) / "model_index.json").is_file()


def push_pipeline(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """
    Sends a saved pipeline to the Hub: weights, configurations, the code to load them and a card, the folder's own if
    it has one, otherwise one with the licence of the tokenizer. Nothing is sent unless it loads.

    Args:
        folder (`str` or `Path`): What [`AdaTokPipeline.save_pretrained`] wrote.
        repo_id (`str`): Where to, as `namespace/name`, or `name` for one's own namespace. Created if need be.
        private (`bool`, *optional*, defaults to `False`): Whether a created repository is private.
        token (`str`, *optional*): Hub token with write access; the one of `hf auth login` or `HF_TOKEN` when unset.

    Returns:
        `str`: URL of the repository.

    Raises:
        `ValueError`: as [`load_pipeline`] and [`~adatok_hf.hub.push_folder`].
    """
    token = require_token(token)
    repo_id = complete_repo_id(repo_id, token)
    pipeline = load_pipeline(folder)
    vocabulary = pipeline.vocabulary
    names, home = vocabulary.class_names, Path(os.path.expanduser(folder))
    license, own = read_license(home / "image_tokenizer"), home / CARD_NAME
    card = CARD.format(
        license=f"license: {license}\n" if license else "",
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        classes=f"of {len(names)} classes" if names else "of no class in particular",
        label=names[0] if names else None,
        budgets=", ".join(map(str, vocabulary.budgets)),
        size=pipeline.image_tokenizer.config.image_size,
    )
    with tempfile.TemporaryDirectory() as temporary:
        pipeline.save_pretrained(temporary)
        text = own.read_text(encoding="utf-8") if own.is_file() else card
        (Path(temporary) / CARD_NAME).write_text(text, encoding="utf-8")
        return push_folder(temporary, repo_id, token, private=private, commit_message="Upload AdaTok pipeline")


__all__ = ["is_pipeline", "push_pipeline"]
