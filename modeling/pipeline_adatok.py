"""From class labels to pictures: a language model writes image codes, a tokenizer decodes them."""

import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from transformers.dynamic_module_utils import get_relative_import_files

from .sampling_adatok import CodeSampler
from .vocabulary_adatok import ImageVocabulary


# From the Hub diffusers fetches, beside weights, one file of code for each component, and what the pipeline
# imports from its own folder and below. It reads imports as text, so those of a string are imports too. The
# imports of a file that it so finds it looks for at the top, whatever folder the file is in.
IMPORTS_AS_TEXT = '\n\nFETCHED_FROM_THE_HUB = """\n{imports}\n"""\n'


@dataclass
class AdaTokPipelineOutput(BaseOutput):
    """
    Generated images.

    Args:
        images (`list[PIL.Image.Image]` or `torch.FloatTensor` of shape `(images, 3, image_size, image_size)`):
            RGB pictures; or pixel values, nominally in [-1, 1].
        budgets (`torch.LongTensor` of shape `(images,)`): How many codes each image has.
        image_codes (`torch.LongTensor` of shape `(images, num_latent_tokens)`): The pad code beyond the budget.
    """

    images: list[PIL.Image.Image] | torch.Tensor
    budgets: torch.LongTensor
    image_codes: torch.LongTensor


class AdaTokPipeline(DiffusionPipeline):
    r"""
    Generates images of given classes, each with as many codes as it deserves.

    Args:
        image_tokenizer ([`AdaTokModel`]): Decodes the codes.
        image_processor ([`AdaTokImageProcessor`]): Makes pictures from pixel values.
        transformer ([`~transformers.LlamaForCausalLM`]): Writes the codes; its configuration has a vocabulary.

    Raises:
        `ValueError`: if the transformer has no vocabulary, or one of other codes or budgets than the tokenizer's.

    Example:

    ```python
    >>> import torch
    >>> from transformers import LlamaForCausalLM
    >>> from adatok_hf import default_checkpoint
    >>> from adatok_hf.checkpoint import load_checkpoint
    >>> from adatok_hf.modeling.pipeline_adatok import AdaTokPipeline
    >>> from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary

    >>> tokenizer, processor = load_checkpoint(default_checkpoint())
    >>> vocabulary = ImageVocabulary(tokenizer.config.codebook_size, tokenizer.config.budgets, ["cat", "owl"])
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    >>> untrained = LlamaForCausalLM(vocabulary.model_config(**sizes)).eval()
    >>> pipe = AdaTokPipeline(tokenizer, processor, untrained)
    >>> pipe.set_progress_bar_config(disable=True)
    >>> output = pipe("owl", budget=8, num_images_per_label=2, generator=torch.Generator().manual_seed(0))
    >>> output.images[0].size, output.budgets.tolist()
    ((64, 64), [8, 8])

    ```"""

    model_cpu_offload_seq = "transformer"
    _exclude_from_cpu_offload = ["image_tokenizer"]  # small; and accelerate hooks on to `forward`, not to `decode`

    def __init__(self, image_tokenizer, image_processor, transformer):
        super().__init__()
        vocabulary, config = ImageVocabulary.from_config(transformer.config), image_tokenizer.config
        for name, found, expected in (
            ("codes", vocabulary.codebook_size, config.codebook_size),
            ("candidate budgets", list(vocabulary.budgets), list(config.budgets)),
        ):
            if found != expected:
                raise ValueError(
                    f"The generator and the tokenizer do not belong together: {name} are {found} and {expected}."
                )
        self.register_modules(
            image_tokenizer=image_tokenizer, image_processor=image_processor, transformer=transformer
        )

    @property
    def vocabulary(self) -> ImageVocabulary:
        return ImageVocabulary.from_config(self.transformer.config)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.vocabulary.class_names

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | None | Sequence[int | str | None],
        budget: int | Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        num_images_per_label: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_schedule: str = "constant",
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> AdaTokPipelineOutput | tuple:
        r"""
        Generates images, those of one label next to each other.

        Args:
            class_labels (`int`, `str`, `None` or a list of them): Classes by number or name, `None` for any.
            budget (`int` or `list[int]`, *optional*): A candidate budget for all, or one per image. Each image's own,
                drawn by the model, if not given.
            guidance_scale (`float`, *optional*, defaults to 1.0): At least 0; above 1 the class shows more, and every
                code costs twice as much.
            num_images_per_label (`int`, *optional*, defaults to 1): At least 1.
            generator (`torch.Generator` or a list of them, *optional*): One for all, or one per image: then an image
                depends on nothing but its generator.
            temperature, top_k, top_p, guidance_schedule: See [`CodeSampler`].
            batch_size (`int`, *optional*, defaults to 64): Images written and decoded together.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pt"` for pixel values.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return more than a tuple.

        Returns:
            [`AdaTokPipelineOutput`], or a tuple of the same.

        Raises:
            `ValueError`: as [`CodeSampler`], and for fewer than one image per label or another output type.
        """
        if output_type not in ("pil", "pt"):
            raise ValueError(f"output_type must be pil or pt; got {output_type!r}.")
        if num_images_per_label < 1:
            raise ValueError(f"num_images_per_label must be at least 1; got {num_images_per_label}.")
        if class_labels is None or isinstance(class_labels, Integral | str):
            class_labels = [class_labels]
        labels = [label for label in class_labels for _ in range(num_images_per_label)]
        sample = CodeSampler(
            self.transformer,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
        )
        with self.progress_bar(total=len(labels)) as progress:
            codes = sample(labels, budget, generator, batch_size, progress.update)
        pixel_values = self.decode(codes.image_codes, codes.budgets, batch_size)
        images = pixel_values if output_type == "pt" else self.image_processor.post_process(pixel_values)
        self.maybe_free_model_hooks()
        output = AdaTokPipelineOutput(images=images, budgets=codes.budgets, image_codes=codes.image_codes)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def decode(
        self, image_codes: torch.LongTensor, budgets: torch.LongTensor, batch_size: int = 64
    ) -> torch.FloatTensor:
        """Pixel values of shape `(images, 3, image_size, image_size)`, nominally in [-1, 1], of codes."""
        device = self._execution_device
        parts = [
            self.image_tokenizer.decode(codes.to(device), budgets=kept.to(device)).pixel_values
            for codes, kept in zip(image_codes.split(batch_size), budgets.split(batch_size))
        ]
        return torch.cat(parts)

    def save_pretrained(self, save_directory: str | Path, **kwargs):
        """
        Saves all components, the index and the code, so that
        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads it anywhere.

        Args:
            save_directory (`str` or `Path`): Where to; made if need be.
            kwargs: As for [`~diffusers.DiffusionPipeline.save_pretrained`], but for `push_to_hub`.

        Raises:
            `ValueError`: with `push_to_hub`, for which there is a method.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("push_to_hub=True is not supported here; call pipe.push_to_hub(repo_id).")
        folder = Path(save_directory)
        super().save_pretrained(folder, **kwargs)
        self.image_processor.save_pretrained(folder / "image_tokenizer")  # which so becomes a checkpoint by itself
        index_path = folder / "model_index.json"
        index = json.loads(index_path.read_text(encoding="utf-8"))
        code = {name: code_files(type(getattr(self, name))) for name in ("image_tokenizer", "image_processor")}
        imports, at_the_top = [], {Path(inspect.getfile(kind)) for kind in (CodeSampler, ImageVocabulary)}
        for name, (main_file, *further_files) in code.items():
            index[name][0] = main_file.stem
            imports += [f"from .{name}.{file.stem} import *" for file in further_files]
            at_the_top.update(imported for file in further_files for imported in code_files(file)[1:])
        code["image_tokenizer"] += code["image_processor"]
        for name, files in (*code.items(), ("", at_the_top)):
            for file in files:
                copy_file(file, folder / name / file.name)
        pipeline = Path(inspect.getfile(type(self)))
        text = pipeline.read_text(encoding="utf-8").partition(IMPORTS_AS_TEXT.partition("{")[0])[0].rstrip()
        text += IMPORTS_AS_TEXT.format(imports="\n".join(imports))
        (folder / pipeline.name).write_text(text, encoding="utf-8")
        index["_class_name"] = [pipeline.stem, type(self).__name__]
        # Of the two image processors it takes the one that needs no torchvision; both make the same pictures.
        index["image_processor"][1] = "AdaTokImageProcessorPil"
        index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def code_files(source: type | Path) -> list[Path]:
    """A file, given by itself or by a class in it, and then those beside it that it imports."""
    file = source if isinstance(source, Path) else Path(inspect.getfile(source))
    return [file, *sorted(set(map(Path, get_relative_import_files(file))))]


def copy_file(source: Path, target: Path):
    """Copies a file, unless it is copied onto itself."""
    if not target.exists() or not target.samefile(source):
        shutil.copyfile(source, target)


__all__ = ["AdaTokPipeline", "AdaTokPipelineOutput"]
