"""The `adatok` command: pictures to codes and back, from the terminal."""

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer


BATCH_SIZE = 32
GRID_ROWS = 64  # beyond that a picture is too tall to look at

app = typer.Typer(
    name="adatok",
    help="An image tokenizer that decides how many tokens an image deserves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a model from a recipe.", no_args_is_help=True)
app.add_typer(train_app, name="train")

ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMG", help="Pictures, or folders with pictures.", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_REPO", help="Folder or Hub id of the model; the embedded one if not given."),
]
WeightsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder with the LPIPS weights; else ADATOK_WEIGHTS_DIR.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the GPU, if any, if not given.")]


def main(arguments: list[str] | None = None):
    """
    Console entry point. Exit codes: 0 all well, 1 some pictures were skipped, 2 bad input.

    Args:
        arguments (`list[str]`, *optional*): The command line without the program's name; `sys.argv` if not given.
    """
    try:
        app(arguments, prog_name="adatok")
    except (ValueError, OSError, ImportError) as error:
        _say(f"error: {_sentence(error)}")
        sys.exit(2)


@app.command(name="reconstruct")
def reconstruct_command(
    images: ImagesArgument,
    budget: Annotated[
        str, typer.Option(metavar="auto|all|N,N...", help="The policy's choice, all candidates, or budgets.")
    ] = "auto",
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where grid.png and results.json go.")] = Path(
        "reconstructions"
    ),
    weights_dir: WeightsOption = None,
    lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS even if its network must be fetched.")] = False,
    device: DeviceOption = None,
):
    """Encode and decode pictures, and show what each budget costs and keeps."""
    from .codes_file import whole_file
    from .reconstruction import draw_grid, format_table, mean_results, measure, reconstruct

    prepare_folder(out)
    network, model_id, processor = _load_model(model, device)
    budgets = parse_budgets(budget, network.config)
    lpips, reason = _load_lpips(weights_dir, lpips, network.device)
    batches = ImageBatches(images, processor)
    results, rows = [], []
    for names, _, pixel_values in batches:
        originals = processor.post_process(pixel_values)
        reconstructions = reconstruct(network, processor, pixel_values.to(network.device), budgets)
        for name, original, cells in zip(names, originals, reconstructions):
            row, measured = measure(name, original, cells, network.config, lpips)
            results += measured
            rows += [row] * (len(rows) < GRID_ROWS)
    means = mean_results(results, by_budget=budgets is not None)
    with whole_file(out / "grid.png") as path:
        draw_grid(rows).save(path)
    report = {"model": model_id, "rows": [r.to_dict() for r in results], "means": [r.to_dict() for r in means]}
    with whole_file(out / "results.json") as path:
        path.write_text(json.dumps(_finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    typer.echo(format_table(results + means))
    if reason:
        _say(f"LPIPS is left out: {reason}")
    if len(batches.files) - batches.skipped_files > GRID_ROWS:
        _say(f"grid.png shows the first {GRID_ROWS} pictures.")
    batches.exit_if_skipped()


@app.command()
def encode(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The codes file: .safetensors or .parquet.")],
    budget: Annotated[str, typer.Option(metavar="auto|N", help="The policy's choice, or one for all.")] = "auto",
    cost_bias: Annotated[
        float | None,
        typer.Option(help="Shifts the policy: positive is cheaper, negative finer; the model's own if not given."),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """Turn pictures into a file of image codes."""
    import torch

    from .codes_file import ImageCodes, check_codes_path, model_hash
    from .reconstruction import bits_per_pixel

    check_codes_path(out)
    if out.is_dir():
        raise ValueError(f"--out must name a file; {out} is a folder.")
    if cost_bias is not None and not math.isfinite(cost_bias):
        raise ValueError(f"--cost-bias must be a finite number; got {cost_bias}.")
    prepare_folder(out.parent)
    network, model_id, processor = _load_model(model, device)
    forced = parse_budget(budget, network.config)
    batches = ImageBatches(images, processor)
    names, sizes, parts = [], [], []
    with torch.inference_mode():
        for batch_names, batch_sizes, pixel_values in batches:
            parts.append(network.encode(pixel_values.to(network.device), budgets=forced, cost_bias=cost_bias))
            names += batch_names
            sizes += batch_sizes
    codes = ImageCodes(
        image_codes=torch.cat([part.image_codes for part in parts]).cpu(),
        budgets=torch.cat([part.budgets for part in parts]).cpu(),
        original_sizes=torch.tensor(sizes),
        file_names=names,
        model=model_id,
        model_hash=model_hash(network),
        image_size=network.config.image_size,
        codebook_size=network.config.codebook_size,
    )
    codes.save(out)
    rate = sum(bits_per_pixel(kept, network.config) for kept in codes.budgets.tolist()) / len(codes)
    mean = codes.budgets.float().mean().item()
    typer.echo(f"{len(codes)} images, mean budget {mean:.1f}, {rate:.4f} bits per pixel, written to {out}")
    batches.exit_if_skipped()


@app.command()
def decode(
    codes_file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `adatok encode` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNG files go.")],
    budget: Annotated[
        str, typer.Option(metavar="auto|N", help="Every image's own, or at most N of its codes.")
    ] = "auto",
    model: ModelOption = None,
    device: DeviceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Decode even what another model has encoded.")] = False,
):
    """Turn a file of image codes back into pictures."""
    import torch
    from tqdm import tqdm

    from .codes_file import ImageCodes, model_hash, whole_file

    codes = ImageCodes.load(codes_file)
    prepare_folder(out)
    network, model_id, processor = _load_model(model, device)
    if not force and codes.model_hash != model_hash(network):
        raise ValueError(
            f"{codes_file} was made by {codes.model!r}, whose weights are not those of {model_id!r}; name the right "
            "model with --model, or insist with --force."
        )
    budgets = codes.budgets
    limit = parse_budget(budget, network.config)
    if limit is not None:
        budgets = budgets.clamp(max=limit)
    names = png_names(codes.file_names)
    with torch.inference_mode():
        for start in tqdm(range(0, len(codes), BATCH_SIZE), desc="Decoding", unit="batch", disable=None):
            batch = slice(start, start + BATCH_SIZE)
            image_codes = codes.image_codes[batch].to(network.device)
            decoded = network.decode(image_codes, budgets=budgets[batch].to(network.device))
            for name, picture in zip(names[batch], processor.post_process(decoded.pixel_values)):
                with whole_file(out / name) as path:
                    picture.save(path)
    typer.echo(f"{len(codes)} images written to {out}")


@app.command()
def push(
    checkpoint: Annotated[str, typer.Argument(help="Folder with the model and its processor.")],
    repo_id: Annotated[str, typer.Argument(help="Hub repository, for example someone/adatok-small.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only you see.")] = False,
):
    """Send a checkpoint to the Hugging Face Hub, code and model card included."""
    from .hub import push as push_checkpoint

    typer.echo(push_checkpoint(checkpoint, repo_id, private=private))


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.json, plots and finished parts go.")],
    model: ModelOption = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    budgets: Annotated[
        str, typer.Option(metavar="auto,all,N...", help="The policy's choice, all candidates, any budgets.")
    ] = "auto,all",
    metrics: Annotated[
        str, typer.Option(metavar="NAME,...", help="Out of rfid, kid, lpips, psnr and ssim.")
    ] = "rfid,kid,lpips,psnr,ssim",
    codecs: Annotated[str, typer.Option(metavar="NAME,...", help="Baselines out of jpeg, webp and avif.")] = "",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="imagenet-50k: exactly what the papers do.")] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Statistics of real images for rFID; else those of the data.")
    ] = None,
    save_reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the statistics of the data's images here.")
    ] = None,
    kid_subset_size: Annotated[int, typer.Option(min=2, help="Images of a subset in KID.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 16,
    weights_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with Inception and AlexNet; else ADATOK_WEIGHTS_DIR.")
    ] = None,
    device: DeviceOption = None,
):
    """
    Measure a model: rFID, KID, LPIPS, PSNR and SSIM against bits per pixel, at any budgets and at the policy's. A run
    that was cut off goes on where it stopped. The last line of the output is one JSON object.
    """
    from .evaluation.evaluate import EvaluationSettings, parse_budgets, start_processes
    from .evaluation.protocol import find_protocol
    from .evaluation.quality import evaluate_checkpoint, format_table, last_line
    from .training.data import load_image_dataset

    prepare_folder(out)
    if save_reference is not None:
        prepare_folder(save_reference.absolute().parent)
    network, model_id, processor = _load_model(model, start_processes(device))
    settings = EvaluationSettings(
        budgets=parse_budgets(budgets, network.config),
        metrics=_names(metrics),
        codecs=_names(codecs),
        batch_size=batch_size,
        kid_subset_size=kid_subset_size,
        protocol=find_protocol(protocol),
    )
    report = evaluate_checkpoint(
        network,
        processor,
        load_image_dataset(data, split, max_images),
        out,
        settings,
        weights_dir=weights_dir,
        reference=reference,
        save_reference=save_reference,
        say=typer.echo,
        facts={"model": model_id, "data": data, "split": split, "command": shlex.join(["adatok", *sys.argv[1:]])},
    )
    if report is not None:  # in the first process
        typer.echo(format_table(report))
        typer.echo(last_line(report))


@app.command()
def bench(
    model: ModelOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 5,
    sweep: Annotated[str, typer.Option(metavar="N,N...", help="Batch sizes of the sweep.")] = "1,8,32",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME...", help="float32, bfloat16, float16; the first two if not given."),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Measure torch.compile too; takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result here, as JSON.")] = None,
    device: DeviceOption = None,
):
    """
    Time encoding and decoding, beside a plain ViT, a search for budgets and the speed of a matmul. The last line of
    the output is one JSON object.
    """
    from .codes_file import whole_file
    from .evaluation.benchmark import format_table, parse_sizes, run_benchmark

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    sizes = parse_sizes(sweep)
    dtypes = [name.strip() for name in dtype.split(",")] if dtype is not None else None
    network, model_id, processor = _load_model(model, device)
    pictures = _sample_pixel_values(processor) if network.config.is_policy_trained else None
    measured = run_benchmark(
        network, batch_size, repeats, pictures=pictures, sweep=sizes, dtypes=dtypes, compile=compile
    )
    result = {"model": model_id, **measured}
    line = json.dumps(result)
    if out is not None:
        with whole_file(out) as path:
            path.write_text(line + "\n", encoding="utf-8")
    typer.echo(format_table(result))
    typer.echo(line)


@app.command(name="reward-table")
def reward_table(
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the table goes; an unfinished one is continued.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    budget: Annotated[str, typer.Option(metavar="all|N,N...", help="All candidates, or budgets.")] = "all",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
    model: ModelOption = None,
    weights_dir: WeightsOption = None,
    device: DeviceOption = None,
):
    """Measure every image at every budget, once: what training and judging a policy needs."""
    from .allocation.reward_table import RewardTable, build_reward_table
    from .perceptual import load_lpips
    from .training.data import load_image_dataset

    prepare_folder(out)
    network, model_id, processor = _load_model(model, device)
    budgets = parse_budgets(budget, network.config)
    if budgets is None:
        raise ValueError("--budget must be all, or budgets with commas between them; the policy plays no part here.")
    lpips = load_lpips("alex", weights_dir).to(network.device)
    dataset = load_image_dataset(data, split, max_images)
    build_reward_table(
        network, processor, dataset, lpips, out, budgets=budgets, model_name=model_id, data_name=f"{data} ({split})"
    )
    table = RewardTable.load(out)
    typer.echo(f"{len(table)} images at {len(table.budgets)} budgets written to {out}")


@app.command()
def calibrate(
    mean_budget: Annotated[float, typer.Option(help="The wanted mean budget, in codes per image.")],
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the calibrated copy of the model goes.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """Make a copy of a model whose policy spends a wanted mean budget, measured on calibration images."""
    from . import default_checkpoint
    from .allocation.calibrate import check_empty, save_calibrated, score_images
    from .allocation.calibration import calibrate_cost_bias, check_mean_budget, choose_columns
    from .hub import find_folder
    from .training.data import load_image_dataset

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, processor = _load_model(model, device)
    candidates = network.config.budgets
    if not network.config.is_policy_trained:
        raise ValueError(f"The policy of {model_id} has not been trained; train it first: adatok train policy.")
    check_mean_budget(mean_budget, candidates)
    logits = score_images(network, processor, load_image_dataset(data, split, max_images))
    cost_bias = calibrate_cost_bias(logits, candidates, mean_budget)
    save_calibrated(find_folder(model or default_checkpoint()), out, network, processor, cost_bias)
    counts = choose_columns(logits, candidates, cost_bias).bincount(minlength=len(candidates)).tolist()
    mean = sum(budget * count for budget, count in zip(candidates, counts)) / len(logits)
    histogram = ", ".join(f"{budget}: {count}" for budget, count in zip(candidates, counts))
    typer.echo(
        f"{len(logits)} images, cost bias {cost_bias:.4g}, mean budget {mean:.2f} (images per budget {histogram}), "
        f"written to {out}"
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def study(
    context: typer.Context,
    train_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table the policies learn from.")],
    eval_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table of held-out images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where study.json, study.md and the plots go.")],
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="How the policies are trained.")],
    mean_budget: Annotated[
        float | None, typer.Option(help="Common mean of all arms in codes; the policy's own if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each network is trained.")] = 3,
    model: ModelOption = None,
):
    """
    Is choosing the budget per image worth something? Policy, controls and ablations on held-out images. Any further
    `--key value` overrides the recipe. The last line of the output is one JSON object.
    """
    from .allocation.reward_table import RewardTable
    from .evaluation.plots import plot_study
    from .evaluation.report import format_study_table, last_line, write_report
    from .evaluation.study import run_study
    from .training.policy import PolicyDataArguments, PolicyTrainingArguments
    from .training.recipe import parse_recipe

    prepare_folder(out)
    network, _, _ = _load_model(model, "cpu")
    quiet = ["--save_strategy", "no", "--disable_tqdm", "true", "--log_level", "error", "--output_dir", str(out)]
    _, arguments = parse_recipe(recipe, [*context.args, *quiet], [PolicyDataArguments, PolicyTrainingArguments])
    result = run_study(
        RewardTable.load(train_table, network),
        RewardTable.load(eval_table, network),
        network.config,
        arguments,
        out,
        policy=network.policy if network.config.is_policy_trained else None,
        seeds=seeds,
        mean_budget=mean_budget,
    )
    plot_study(result, out)
    report = write_report(out)
    typer.echo(format_study_table(result))
    typer.echo(f"The report is {report}.")
    typer.echo(last_line(result))


@train_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tokenizer(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="A recipe of the package, or a YAML file.")],
    data: Annotated[str | None, typer.Option(help="What to train on; the recipe's data if not given.")] = None,
):
    """Train the tokenizer (stage 1). Any further `--key value` overrides the recipe."""
    from .training.tokenizer import main as train

    train(["--recipe", recipe, *(["--train_data", data] if data is not None else []), *context.args])


@train_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def policy(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="A recipe of the package, or a YAML file.")],
    data: Annotated[str | None, typer.Option(help="Images to make the reward table of, if it is not there.")] = None,
):
    """Train the policy that chooses budgets (stage 2). Any further `--key value` overrides the recipe."""
    from .training.policy import main as train

    train(["--recipe", recipe, *(["--train_data", data] if data is not None else []), *context.args])


class ImageBatches:
    """
    Reads pictures in batches; what cannot be read is reported and skipped.

    Args:
        paths (`list[Path]`): Pictures, or folders with pictures.
        processor ([`AdaTokImageProcessor`]): Makes the pixel values.

    Yields names, sizes as `(height, width)`, and pixel values `(batch, 3, image_size, image_size)` in [-1, 1].

    Raises:
        `ValueError`: if the only path given cannot be read, or if none of many can.
    """

    def __init__(self, paths: list[Path], processor):
        from .images import ImageFileError, find_images

        self.processor = processor
        self.files: dict[Path, str] = {}  # and the names to report; a file given twice counts once
        self.skipped_files = self.skipped_paths = 0
        for path in paths:
            try:
                found = find_images([path])
            except ImageFileError as error:
                if len(paths) == 1:
                    raise
                self.skipped_paths += 1
                _say(f"skipped {_sentence(error)}")
                continue
            for file in found:
                self.files.setdefault(file, path.name if file == path else file.relative_to(path).as_posix())

    def __iter__(self) -> Iterator[tuple[list[str], list[tuple[int, int]], "torch.Tensor"]]:  # noqa: F821
        import torch
        from tqdm import tqdm

        batch = []
        for file, name in tqdm(self.files.items(), desc="Images", unit="image", disable=None):
            try:
                batch.append((name, *self._read(file)))
            except ValueError as error:
                if len(self.files) == 1 and not self.skipped_paths:
                    raise
                self.skipped_files += 1
                _say(f"skipped {_sentence(error)}")
            if len(batch) == BATCH_SIZE:
                names, sizes, pixel_values = zip(*batch)
                yield list(names), list(sizes), torch.cat(pixel_values)
                batch = []
        if batch:
            names, sizes, pixel_values = zip(*batch)
            yield list(names), list(sizes), torch.cat(pixel_values)
        if self.skipped_files == len(self.files):
            raise ValueError(f"None of the {len(self.files) + self.skipped_paths} pictures could be read.")

    def _read(self, file: Path) -> tuple[tuple[int, int], "torch.Tensor"]:  # noqa: F821
        from PIL import ImageOps

        from .images import load_image

        image = load_image(file)
        try:
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        upright = ImageOps.exif_transpose(image)  # the size that a viewer shows, as the processor turns it too
        return (upright.height, upright.width), pixel_values

    def exit_if_skipped(self):
        """Ends the command with exit code 1 if anything was skipped."""
        if self.skipped_files or self.skipped_paths:
            raise typer.Exit(1)


def parse_budget(text: str, config) -> int | None:
    """Reads `auto` (as `None`) or one budget; raises `ValueError` for anything else."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= config.num_latent_tokens:
        raise ValueError(
            f"A budget must be a whole number between 1 and {config.num_latent_tokens}, or auto; got {text!r}."
        )
    return int(text)


def parse_budgets(text: str, config) -> list[int] | None:
    """Reads `auto` (as `None`), `all`, or budgets with commas between them; raises `ValueError` for anything else."""
    if text == "all":
        return list(config.budgets)
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if "auto" in parts or "all" in parts:
        raise ValueError(f"auto and all stand alone in --budget; got {text!r}.")
    return list(dict.fromkeys(parse_budget(part, config) for part in parts))


def png_names(file_names: list[str]) -> list[str]:
    """
    Names of the decoded files: each source's own without its folder and ending, numbered where two would collide.

    Example:

    ```python
    >>> from adatok_hf.cli import png_names

    >>> png_names(["a/cat.jpg", "b/cat.png", "../dog.webp"])
    ['cat.png', 'cat-2.png', 'dog.png']

    ```"""
    names, taken = [], set()
    for file_name in file_names:
        stem = PurePosixPath(file_name.replace("\\", "/").replace("\0", "")).stem.strip(".") or "image"
        name, number = f"{stem}.png", 1
        while name.lower() in taken:  # some file systems do not tell cases apart
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name.lower())
        names.append(name)
    return names


def prepare_folder(path: Path):
    """Makes the folder and proves that it can be written to, before any work is done."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"The output folder {path} is a file; name a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ValueError(f"Cannot write to the output folder {path}: {error.strerror}.") from error


def _load_model(model: str | None, device: str | None):
    """Loads a checkpoint for inference: the model on its device, the name to report, the processor."""
    import torch
    from transformers.utils import logging

    from . import default_checkpoint
    from .hub import load_checkpoint

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown and for absent devices
        raise ValueError(f"--device must be cpu, or a GPU that this machine has; got {device!r}.") from error
    logging.disable_progress_bar()  # loading is quick, and standard error is for what went wrong
    path = model or default_checkpoint()
    network, processor = load_checkpoint(path)
    return network.eval().to(device), model or Path(path).name, processor


def _sample_pixel_values(processor) -> "torch.Tensor":  # noqa: F821
    """The pictures that come with the package, as `(pictures, 3, image_size, image_size)` in [-1, 1]."""
    from .images import find_images, load_image

    files = find_images([Path(__file__).parent / "samples"])
    return processor([load_image(file) for file in files], return_tensors="pt")["pixel_values"]


def _load_lpips(weights_dir: Path | None, download: bool, device):
    """Loads the LPIPS network; where it is not at hand and nobody asked for it, `None` and the reason."""
    from .perceptual import has_lpips, load_lpips

    if download or has_lpips("alex", weights_dir):
        return load_lpips("alex", weights_dir).to(device), None
    return None, "its network is not on this machine; name its folder by --weights-dir, or download it by --lpips."


def _names(text: str) -> list[str]:
    """Reads names with commas between them, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _finite(value):
    """Replaces the infinite PSNR of a perfect picture by null: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


def _say(text: str):
    from tqdm import tqdm

    tqdm.write(f"adatok: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
