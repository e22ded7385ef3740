"""Options that commands share, and the only parser of lists and budgets."""

import math
from pathlib import Path
from typing import Annotated

import typer


ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMG",
        help="Pictures, folders with pictures, parquet or tar files, or such at addresses.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_REPO", help="Folder or Hub id of the model; the embedded one if not given."),
]
WeightsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder with the LPIPS weights; else ADATOK_WEIGHTS_DIR.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the GPU, if any, if not given.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="float32, bfloat16, float16, or auto: the fastest that the device has, float32 for codes of a file; the "
        "model's own if not given.",
    ),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images at once.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Take IMG for a dataset, as --data elsewhere, and read this split of it.")
]
CostBiasOption = Annotated[
    float | None,
    typer.Option(help="Shifts the policy: positive is cheaper, negative finer; the model's own if not given."),
]
DataOption = Annotated[str, typer.Option(help="Image folder, parquet or tar files, or Hub dataset.")]
MaxImagesOption = Annotated[int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")]
RecipeOption = Annotated[
    str, typer.Option(metavar="NAME_OR_PATH", help="A recipe of the package for this stage, or a YAML file.")
]
GeneratorOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH_OR_REPO",
        help="A pipeline, or a generator of `adatok train generator`; the embedded one if not given.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_REPO", help="Tokenizer of a generator; the embedded one if not given."),
]
GuidanceScaleOption = Annotated[float, typer.Option(help="Above 1 the class shows more; 1 is none.")]
GuidanceScheduleOption = Annotated[str, typer.Option(metavar="constant|linear", help="Linear begins at 1.")]
TemperatureOption = Annotated[float, typer.Option(help="Less is less varied; 0 takes the likeliest.")]
TopKOption = Annotated[int, typer.Option(help="Draw among so many likeliest codes; 0 for all.")]
TopPOption = Annotated[float, typer.Option(help="Draw among codes of that probability together.")]

AUTO = "auto"


def parse_names(text: str) -> list[str]:
    """Reads names with commas between them, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_numbers(text: str, option: str) -> list[int]:
    """Reads whole numbers from 1 with commas between them; raises `ValueError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(_is_number(part) and int(part) for part in parts):
        raise ValueError(f"{option} must be whole numbers from 1 with commas between them, as 1,8,32; got {text!r}.")
    return [int(part) for part in parts]


def parse_reals(text: str, option: str) -> list[float]:
    """Reads numbers with commas between them; raises `ValueError` for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, as 1,2.5; got {text!r}.") from None


def parse_budgets(text: str, config) -> list[int | str]:
    """
    Reads budgets with commas between them; `all` stands for the candidates, `auto` for the policy's choice.

    Args:
        text (`str`): As in `"all,10,auto"`.
        config ([`AdaTokConfig`]): The architecture.

    Returns:
        `list[int | str]`: in the order given, none twice.

    Raises:
        `ValueError`: if a budget is no whole number in `1 .. num_latent_tokens`.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.cli.options import parse_budgets

    >>> parse_budgets("all,10,auto", AdaTokConfig(budgets=[64, 256]))
    [64, 256, 10, 'auto']

    ```"""
    budgets = []
    for part in (part.strip() for part in text.split(",")):
        if part == "all":
            budgets += config.budgets
        elif part == AUTO:
            budgets.append(AUTO)
        elif _is_number(part) and 1 <= int(part) <= config.num_latent_tokens:
            budgets.append(int(part))
        else:
            raise ValueError(
                f"--budgets must be auto, all or whole numbers from 1 to {config.num_latent_tokens}; got {part!r}."
            )
    return list(dict.fromkeys(budgets))


def parse_budget(text: str, config) -> int | None:
    """Reads `auto` (as `None`) or one budget; raises `ValueError` for anything else."""
    budgets = parse_budgets(text, config)
    if text == "all" or len(budgets) > 1:
        raise ValueError(f"--budgets must be auto or a single number here; got {text!r}.")
    return None if budgets == [AUTO] else budgets[0]


def check_cost_bias(cost_bias: float | None, budgets: str):
    """Raises `ValueError` for a bias that is not finite, or that has no choice to shift because budgets are forced."""
    if cost_bias is None:
        return
    if not math.isfinite(cost_bias):
        raise ValueError(f"--cost-bias must be a finite number; got {cost_bias}.")
    if AUTO not in parse_names(budgets):
        raise ValueError(
            f"--cost-bias shifts the policy's choice, but --budgets {budgets} leaves it none; give one of the two."
        )


def check_policy(config):
    """Raises `ValueError` for a model without a policy that a cost bias could shift."""
    if config.model_type != "adatok":
        raise ValueError(
            f"--cost-bias shifts AdaTok's policy, and a model of type {config.model_type!r} has none; make a copy "
            "with another threshold by adatok calibrate."
        )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
