"""`adatok generate`: pictures of given classes."""

from pathlib import Path
from typing import Annotated

import typer

from .common import find_device, load_generator, prepare_folder, say
from .options import (
    DeviceOption,
    GeneratorOption,
    GuidanceScaleOption,
    GuidanceScheduleOption,
    TemperatureOption,
    TokenizerOption,
    TopKOption,
    TopPOption,
)


ANY = "any"  # stands for the null class


def generate(
    label: Annotated[
        list[str] | None, typer.Option(help="A class by name or number, or any; may be given several times.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of each label.")] = 4,
    budget: Annotated[str, typer.Option(metavar="auto|N", help="Each picture's own, or one for all.")] = "auto",
    guidance_scale: GuidanceScaleOption = 1.0,
    guidance_schedule: GuidanceScheduleOption = "constant",
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: Annotated[int, typer.Option(help="Picture i gets seed + i.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures made together.")] = 64,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where grid.png and results.json go.")] = Path("generated"),
    generator: GeneratorOption = None,
    model: TokenizerOption = None,
    device: DeviceOption = None,
):
    """Generate pictures of classes, each with as many codes as it deserves."""
    import time

    import torch

    from ..files import whole_file, write_json
    from ..generation.sample_grid import draw_sample_grid

    device = find_device(device)
    prepare_folder(out)
    pipe, name = load_generator(generator, model, device)
    pipe.set_progress_bar_config(desc="Images", unit="image", disable=None)
    labels = read_labels(label or [], pipe.class_names)
    start = time.perf_counter()
    output = pipe(
        labels,
        budget=read_budget(budget),
        guidance_scale=guidance_scale,
        num_images_per_label=n,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(len(labels) * n)],
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance_schedule=guidance_schedule,
        batch_size=batch_size,
    )
    seconds = time.perf_counter() - start
    budgets = output.budgets.tolist()
    names = [ANY if label is None else str(label) for label in labels]
    pictures = list(zip(output.images, budgets))
    with whole_file(out / "grid.png") as path:
        draw_sample_grid([(name, pictures[i * n : (i + 1) * n]) for i, name in enumerate(names)]).save(path)
    rows = [
        {"label": names[index // n], "seed": seed + index, "budget": kept, "image_codes": codes[:kept]}
        for index, (kept, codes) in enumerate(zip(budgets, output.image_codes.tolist()))
    ]
    settings = {
        "guidance_scale": guidance_scale,
        "guidance_schedule": guidance_schedule,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    mean = sum(budgets) / len(budgets)
    report = {"generator": name, **settings, "mean_budget": mean, "rows": rows}
    write_json(out / "results.json", report)
    say(f"{len(rows) / seconds:.1f} images a second")
    typer.echo(f"{len(rows)} images, mean budget {mean:.1f}, written to {out / 'grid.png'}")


def read_labels(labels: list[str], class_names: tuple[str, ...]) -> list[int | str | None]:
    """Names and numbers of classes; without any, the null class where there are no classes, else a `ValueError`."""
    if not labels and class_names:
        raise ValueError(f"Give at least one --label: {', '.join(class_names[:3])} and so on, or {ANY}.")
    parsed = [label if label in class_names else int(label) if label.isdecimal() else label for label in labels]
    return [None if label == ANY else label for label in parsed] or [None]


def read_budget(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise ValueError(f"--budget must be auto or a number of codes; got {text!r}.")
    return int(text)
