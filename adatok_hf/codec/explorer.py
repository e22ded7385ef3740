"""Pictures that somebody looks at: encoded once, seen at any budget, with what each budget costs and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..checkpoint import checkpoint_name, model_hash
from ..data import load_image
from ..metrics.perceptual import has_lpips, load_lpips
from ..metrics.rate import whole_bytes
from ..modeling import AdaTokEncoderOutput
from .codec import AdaTokCodec, fast_dtype
from .codes_file import ImageCodes
from .grid import Reconstruction
from .reconstruct import Result, measure
from .sequential_tatok import SequentialTaTok


@dataclass
class EncodedPicture:
    r"""
    A picture after its only pass through the encoder.

    Args:
        name (`str`): What to call it.
        original (`PIL.Image.Image`): RGB, as the model saw it.
        size (`tuple[int, int]`): Height and width in pixels before preprocessing.
        codes (`list[int]`): All its codes, most important first.
        budget_logits (`list[float]`): The policy's scores of the candidate budgets; of a TaTok the entropies of the
            patches.
        file_bytes (`int`, *optional*): Size of the file it came from.
    """

    name: str
    original: Image.Image
    size: tuple[int, int]
    codes: list[int]
    budget_logits: list[float]
    file_bytes: int | None = None


class Explorer:
    r"""
    A codec for looking at pictures.

    Args:
        codec ([`AdaTokCodec`]): In any precision.
        model_name (`str`): Folder or Hub id of its model, for files of codes.
        fingerprint (`str`): Its [`~adatok_hf.checkpoint.model_hash`] in the precision of the weights.
        lpips (`torch.nn.Module`, *optional*): As [`~adatok_hf.metrics.perceptual.load_lpips`] gives it, on the CPU.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf import default_checkpoint
    >>> from adatok_hf.codec.explorer import Explorer

    >>> explorer = Explorer.from_pretrained(default_checkpoint())
    >>> (teal,) = explorer.encode([Image.new("RGB", (80, 60), "teal")], ["teal.png"])
    >>> budget, policy = explorer.choose(teal)
    >>> budget in explorer.config.budgets, round(sum(policy.values()), 3)
    (True, 1.0)
    >>> [(seen.budget, result.psnr > 10) for seen, result in explorer.look(teal, [4, 17])]
    [(4, True), (17, True)]

    ```"""

    def __init__(self, codec: AdaTokCodec, model_name: str, fingerprint: str, lpips: torch.nn.Module | None = None):
        self.codec, self.model_name, self.fingerprint, self.lpips = codec, model_name, fingerprint, lpips
        self.config = codec.model.config

    @property
    def is_tatok(self) -> bool:
        """Whether a threshold chooses, and no policy that has a cost bias and probabilities."""
        return isinstance(self.codec.model, SequentialTaTok)

    @property
    def least_budget(self) -> int:
        """The smallest number of tokens that decodes."""
        return self.config.num_global_tokens if self.is_tatok else 1

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, lpips: bool = True) -> "Explorer":
        """
        Loads a checkpoint onto the GPU, if there is one, in [`~adatok_hf.codec.codec.fast_dtype`].

        Args:
            checkpoint (`str` or `Path`): Folder, or repository id on the Hub.
            lpips (`bool`, *optional*, defaults to `True`): Whether to measure LPIPS where its network is at hand.

        Raises:
            `ValueError`: as [`~adatok_hf.checkpoint.load_checkpoint`] and
                [`~adatok_hf.metrics.perceptual.load_lpips`].
        """
        codec = AdaTokCodec.from_pretrained(checkpoint)
        fingerprint = model_hash(codec.model)
        codec.model.to(fast_dtype(codec.model.device))
        network = load_lpips() if lpips and has_lpips() else None
        name = checkpoint_name(checkpoint) if Path(checkpoint).is_dir() else str(checkpoint)
        return cls(codec, name, fingerprint, network)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[str | Path | Image.Image], names: Sequence[str]) -> list[EncodedPicture]:
        """
        Encodes pictures, each of them once.

        Args:
            pictures: Paths, or PIL images of any mode.
            names (`Sequence[str]`): One for each, which errors use too.

        Raises:
            `ValueError`: if a picture cannot be read.
        """
        codec, encoded = self.codec, []
        for start in range(0, len(pictures), codec.batch_size):
            batch = zip(pictures[start : start + codec.batch_size], names[start : start + codec.batch_size])
            opened = [(_open(picture, name), name, _file_bytes(picture)) for picture, name in batch]
            pixel_values = codec.processor([picture for picture, *_ in opened], return_tensors="pt")["pixel_values"]
            originals = codec.processor.post_process(pixel_values)
            output = codec.model.encode(
                pixel_values.to(codec.model.device, codec.model.dtype), budgets=self.config.num_latent_tokens
            )
            rows = zip(opened, originals, output.image_codes.tolist(), output.budget_logits.float().tolist())
            for (picture, name, file_bytes), original, codes, logits in rows:
                width, height = ImageOps.exif_transpose(picture).size
                encoded.append(EncodedPicture(name, original, (height, width), codes, logits, file_bytes))
        return encoded

    def choose(self, encoded: EncodedPicture, cost_bias: float | None = None) -> tuple[int, dict[int, float] | None]:
        """
        What the policy decides, without a further pass through the encoder.

        Args:
            encoded ([`EncodedPicture`]): The picture.
            cost_bias (`float`, *optional*): As in [`AdaTokModel.encode`]; without effect on a TaTok.

        Returns:
            `tuple[int, dict[int, float] | None]`: the budget, and the probability of each candidate; all codes and
            `None` where the policy has not been trained, and `None` where a threshold decides.

        Raises:
            `ValueError`: for a cost bias that is not finite.
        """
        logits = torch.tensor([encoded.budget_logits], device=self.codec.model.device)
        if self.is_tatok:
            return self.codec.model.chosen_budgets(AdaTokEncoderOutput(budget_logits=logits)).item(), None
        (row,) = self.codec.model.budget_distribution(logits, cost_bias).tolist()
        if not self.config.is_policy_trained:
            return self.config.num_latent_tokens, None
        policy = dict(zip(self.config.budgets, row))
        return max(policy, key=policy.get), policy

    def look(self, encoded: EncodedPicture, budgets: Sequence[int]) -> list[tuple[Reconstruction, Result]]:
        """
        Decodes a picture at some budgets and measures what comes out.

        Args:
            encoded ([`EncodedPicture`]): The picture.
            budgets (`Sequence[int]`): In `least_budget .. num_latent_tokens`.

        Raises:
            `ValueError`: for a budget out of range.
        """
        for budget in budgets:
            if not self.least_budget <= budget <= self.config.num_latent_tokens:
                raise ValueError(
                    f"A budget is {self.least_budget} to {self.config.num_latent_tokens} tokens; got {budget}."
                )
        pictures = self.codec.decode([encoded.codes[:budget] for budget in budgets])
        seen = [Reconstruction(budget, picture) for budget, picture in zip(budgets, pictures)]
        _, results = measure(encoded.name, encoded.original, seen, self.config, self.lpips)
        return list(zip(seen, results))

    def in_words(self, result: Result) -> str:
        """What a budget costs, as in `"46 of 128 tokens, 75 bytes, 0.037 bits per pixel"`."""
        size = whole_bytes(result.budget, self.config)
        return (
            f"{result.budget} of {self.config.num_latent_tokens} tokens, {size} byte{'s' * (size != 1)}, "
            f"{result.bits_per_pixel:.2g} bits per pixel"
        )

    def facts(self, encoded: EncodedPicture, result: Result, cost_bias: float | None = None) -> dict:
        """
        All that there is to say about a picture at a budget, for JSON.

        Args:
            encoded ([`EncodedPicture`]): The picture.
            result ([`Result`]): As [`look`] measured it.
            cost_bias (`float`, *optional*): Of the policy, whose choice and probabilities are said too.

        Returns:
            `dict`: what is in the result, `num_latent_tokens`, `bytes`, `image_codes` inside the budget, and where
            there is a policy, `chosen_budget` and `policy`.
        """
        chosen, policy = self.choose(encoded, cost_bias)
        facts = result.to_dict() | {
            "num_latent_tokens": self.config.num_latent_tokens,
            "bytes": whole_bytes(result.budget, self.config),
            "image_codes": encoded.codes[: result.budget],
        }
        if policy is not None:
            facts |= {"chosen_budget": chosen, "policy": {str(budget): share for budget, share in policy.items()}}
        return facts

    def to_file(self, pictures: Sequence[EncodedPicture], budgets: Sequence[int]) -> ImageCodes:
        """The leading codes of pictures for a file, as many of each as its budget says."""
        rows = [encoded.codes for encoded in pictures]
        codes, kept = torch.tensor(rows), torch.tensor(budgets)
        hidden = torch.arange(codes.shape[1]) >= kept[:, None]
        return ImageCodes(
            image_codes=codes.masked_fill(hidden, self.config.codebook_size),
            budgets=kept,
            original_sizes=torch.tensor([encoded.size for encoded in pictures]),
            file_names=[encoded.name for encoded in pictures],
            model=self.model_name,
            model_hash=self.fingerprint,
            image_size=self.config.image_size,
            codebook_size=self.config.codebook_size,
        )

    def from_file(self, codes: ImageCodes, max_budget: int | None = None) -> list[Reconstruction]:
        """
        Decodes the codes of a file.

        Args:
            codes ([`ImageCodes`]): What the file held.
            max_budget (`int`, *optional*): Uses at most so many codes of each picture.

        Raises:
            `ValueError`: if another model made the codes, or they do not fit this one.
        """
        if codes.model_hash != self.fingerprint:
            raise ValueError(
                f"These codes were made by another model, {codes.model!r}; only that one can decode them, this one is "
                f"{self.model_name!r}."
            )
        limit = self.config.num_latent_tokens if max_budget is None else int(max_budget)
        kept = codes.budgets.clamp(max=limit).tolist()
        pictures = self.codec.decode([row[:budget] for row, budget in zip(codes.image_codes.tolist(), kept)])
        return list(map(Reconstruction, kept, pictures))


def _open(picture: str | Path | Image.Image, name: str) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else load_image(picture, name)


def _file_bytes(picture: str | Path | Image.Image) -> int | None:
    return None if isinstance(picture, Image.Image) else Path(picture).stat().st_size


__all__ = ["EncodedPicture", "Explorer"]
