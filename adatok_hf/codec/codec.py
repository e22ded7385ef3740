"""One object from pictures to image codes and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checkpoint import ANY_MODEL, load_checkpoint
from ..data import load_image
from ..modeling import AdaTokModel
from .sequential_tatok import SequentialTaTok, in_sequences


Picture = str | Path | Image.Image | np.ndarray | torch.Tensor


@dataclass
class AdaTokCodec:
    r"""
    Model, image processor, device and precision in one: pictures to codes in one call, and back in another.

    Args:
        model ([`AdaTokModel`] or [`SequentialTaTok`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): Its image processor.
        batch_size (`int`, *optional*, defaults to 32): Pictures at once.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf import AdaTokCodec, default_checkpoint

    >>> codec = AdaTokCodec.from_pretrained(default_checkpoint())
    >>> codes = codec.encode([Image.new("RGB", (80, 60), "teal"), Image.new("RGB", (64, 64))], budgets=[4, 8])
    >>> [len(row) for row in codes]
    [4, 8]
    >>> [picture.size for picture in codec.decode(codes)]
    [(64, 64), (64, 64)]

    ```"""

    model: AdaTokModel | SequentialTaTok
    processor: object
    batch_size: int = 32

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {self.batch_size}.")

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 32,
        revision: str | None = None,
        token: str | None = None,
    ) -> "AdaTokCodec":
        """
        Loads a checkpoint, see [`~adatok_hf.checkpoint.load_checkpoint`].

        Args:
            checkpoint (`str` or `Path`): Folder, or repository id on the Hub.
            device (`str` or `torch.device`, *optional*): The GPU, if there is one, if not given.
            dtype (`torch.dtype`, *optional*): The one of the weights if not given.
            batch_size (`int`, *optional*, defaults to 32): Pictures at once.
            revision, token (`str`, *optional*): For a repository id.
        """
        model, processor = load_checkpoint(checkpoint, kinds=ANY_MODEL, revision=revision, token=token)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(in_sequences(model.to(device=device, dtype=dtype)), processor, batch_size)

    @torch.inference_mode()
    def encode(
        self,
        images: Picture | Sequence[Picture],
        budgets: int | Sequence[int] | None = None,
        cost_bias: float | None = None,
    ) -> list[list[int]]:
        """
        Pictures to their codes.

        Args:
            images: A picture, or a list of them: paths, PIL images of any mode, or what the processor takes as one.
            budgets (`int`, or as many of them as pictures, *optional*):
                Codes of every picture, or of each, in `1 .. num_latent_tokens`. The policy chooses if not given.
            cost_bias (`float`, *optional*): Shifts that choice, see [`AdaTokModel.encode`].

        Returns:
            `list[list[int]]`: for each picture its codes in `0 .. codebook_size - 1`, most important first.

        Raises:
            `ValueError`: if a picture cannot be read, or as [`AdaTokModel.encode`].
        """
        is_single = isinstance(images, str | Path | Image.Image)
        is_single = is_single or isinstance(images, np.ndarray | torch.Tensor) and images.ndim < 4
        images = [images] if is_single else list(images)
        if isinstance(budgets, np.ndarray | torch.Tensor):
            budgets = budgets.tolist()
        if isinstance(budgets, Sequence) and len(budgets) != len(images):
            raise ValueError(f"budgets must be one number, or one for each of {len(images)} images; got {budgets}.")
        rows = []
        for start in range(0, len(images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            pictures = [load_image(image) if isinstance(image, str | Path) else image for image in images[batch]]
            pixel_values = self.processor(pictures, return_tensors="pt")["pixel_values"]
            kept = torch.tensor(budgets[batch]) if isinstance(budgets, Sequence) else budgets
            encoded = self.model.encode(
                pixel_values.to(self.model.device, self.model.dtype), budgets=kept, cost_bias=cost_bias
            )
            codes = zip(encoded.image_codes.tolist(), encoded.budgets.tolist())
            rows += [row[:budget] for row, budget in codes]
        return rows

    @torch.inference_mode()
    def decode(self, codes: Sequence[Sequence[int]]) -> list[Image.Image]:
        """
        Codes to pictures.

        Args:
            codes: For each picture its codes, as many as are kept, as [`encode`] gives them.

        Returns:
            `list[PIL.Image.Image]`: RGB, all of the model's size.

        Raises:
            `ValueError`: if a row is empty or too long, or as [`AdaTokModel.decode`].
        """
        config, pictures = self.model.config, []
        for row in codes:
            if not 1 <= len(row) <= config.num_latent_tokens:
                raise ValueError(f"A picture has 1 to {config.num_latent_tokens} codes; got {len(row)}.")
        for start in range(0, len(codes), self.batch_size):
            batch = codes[start : start + self.batch_size]
            budgets = torch.tensor([len(row) for row in batch], device=self.model.device)
            padded = [
                [*map(int, row), *[config.codebook_size] * (config.num_latent_tokens - len(row))] for row in batch
            ]
            image_codes = torch.tensor(padded, device=self.model.device)
            pictures += self.processor.post_process(self.model.decode(image_codes, budgets=budgets).pixel_values)
        return pictures


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a GPU or the processor computes in it, else float32; a few codes in a hundred differ by it."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32


__all__ = ["AdaTokCodec", "fast_dtype"]
