"""
What the embedded checkpoints are measured by, and how a trained model becomes one of them. Everything goes through the
commands of the package, each of which goes on where it was cut off; `docs/figures.py` writes down what they found.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from adatok_hf import AdaTokConfig, TaTokConfig, default_checkpoint
from adatok_hf.checkpoint import ANY_MODEL, copy_checkpoint, load_checkpoint, read_metrics
from adatok_hf.files import parse_yaml, read_json, write_json
from adatok_hf.generation.load_pipeline import load_pipeline
from adatok_hf.model_card import CARD_NAME, model_card, read_license
from adatok_hf.study.fixed_study import NAMES, RANKS, measured_file
from adatok_hf.training.recipe import find_recipe
from blocks import pictures, sources
from blocks.sources import BENCH, CHECKPOINTS, EXPORT, GENERATION, GENERATION_LENGTHS, ROOT, STUDY


PILOT = {
    "max_steps": 500,
    "perceptual_start": 300,
    "lr_scheduler_kwargs": '{"num_decay_steps": 160}',
    "eval_strategy": "no",  # but at the end
    "bf16": "false",  # so that one processor can go on where another began
}
PILOTS = {
    "the recipe": {},
    "another seed": {"seed": 1},
    "AdamW alone": {"muon": "false", "learning_rate": 7e-4, "adamw_learning_rate": "none"},
    "one linear layer a patch": {"pixel_decoder_config": "none"},
    "patches of 16 pixels": {
        "patch_size": 16,
        "pixel_decoder_config": '{"codebook_size": null, "places_per_patch": 4, "hidden_sizes": [128, 64], '
        '"layers_per_block": 1, "norm_num_groups": 8}',
    },
    "64 latent tokens": {"num_latent_tokens": 64, "budgets": [4, 8, 16, 24, 32, 48, 64]},
    "LPIPS from the start": {"perceptual_start": 0},
    "gradient by rotation": {"quantizer": "rotation"},
    "codebook by moving averages": {"quantizer": "averages"},
}
CARD_FIGURES = ("budget", "mean_budget", "rfid", "kid", "lpips", "psnr", "ssim")


def run(*command: str | int | Path, processes: int = 1, quantizer: str | None = None):
    """
    Runs a command of the package at the root of the repository; its own sentence says what went wrong. `quantizer` is
    one of `docs/try_quantizers.py` to train by.
    """
    words = [str(word) for word in command]
    program = ["-m", "adatok_hf.cli"] if quantizer is None else ["docs/try_quantizers.py", quantizer]
    print("$ adatok" if quantizer is None else f"$ python {' '.join(program)}", *words, flush=True)
    start = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    finished = subprocess.run([sys.executable, *start, *program, *words], cwd=ROOT)
    if finished.returncode:
        sys.exit(finished.returncode)


def measure_tokenizer(
    tokenizer: Path, data: str, work: Path, recipe: str, train_split: str, heads_steps: int, processes: int
):
    """
    Trains the policy of a tokenizer, studies and evaluates it, and puts it among the embedded checkpoints. What has
    been measured into `work` is not measured again.
    """
    config = AdaTokConfig.from_pretrained(tokenizer)
    step = config.budgets[0] // 2
    between = ",".join(str(budget) for budget in range(step, config.num_latent_tokens + 1, step))
    train, validation, mirrored = (work / "tables" / name for name in ("train", "validation", "mirrored"))
    adaptive = work / tokenizer.name
    for split, table, options in (
        (train_split, train, []),
        ("validation", validation, ["--budgets", between]),
        ("validation", mirrored, ["--mirrored"]),
    ):
        images = ["--data", data, "--split", split]
        run("reward-table", "--model", tokenizer, *images, *options, "--out", table, processes=processes)
    if not (adaptive / "metrics.json").is_file():
        start = ["--recipe", recipe, "--init_from", tokenizer]
        run("train", "policy", *start, "--reward_table", train, "--output_dir", adaptive)
    images = ["--data", data, "--split", "validation", "--codecs", "jpeg,webp,avif"]
    run("evaluate", "--model", adaptive, *images, "--out", work / "evaluation", processes=processes)
    evaluation = read_json(work / "evaluation" / "results.json")
    embed_tokenizer(adaptive, evaluation, CHECKPOINTS / adaptive.name / "image_tokenizer")
    shutil.copyfile(work / "evaluation" / "quality.png", ROOT / "docs" / "quality.png")
    run("bench", "--model", adaptive, "--out", BENCH)
    with tempfile.TemporaryDirectory() as exported:
        run("export", "--int8", "--out", exported)
        shutil.copyfile(Path(exported) / "export.json", EXPORT)
    draw_pictures()
    model = evaluation["model_hash"]
    if read_json(STUDY / "study.json")["model_hash"] != model:
        tables = ["--reward-table", train, "--eval-reward-table", validation, "--mirrored-reward-table", mirrored]
        run("study", "policy", "--model", adaptive, *tables, "--recipe", recipe, "--out", STUDY)
    if read_json(STUDY / "heads.json")["settings"]["checkpoint"] != model:
        images = ["--train-data", data, "--eval-data", data, "--steps", heads_steps]
        run("study", "heads", "--model", adaptive, *images, "--out", STUDY)


def embed_tokenizer(checkpoint: Path, evaluation: dict, folder: Path):
    """Copies a checkpoint among the embedded ones, with the figures of its evaluation in metrics and card."""
    model, processor = load_checkpoint(checkpoint, kinds=ANY_MODEL)
    rows = [{name: row[name] for name in CARD_FIGURES} for row in evaluation["rows"]]
    for row in rows:
        if row["budget"] != "auto":
            del row["mean_budget"]  # every image's
    metrics = {**read_metrics(checkpoint), "rows": rows}
    metrics["training"]["quality measured on"] = (
        f"{evaluation['num_images']:,} validation images, by `adatok evaluate`"
    )
    card = model_card(model.config, checkpoint.name, metrics, license=read_license(checkpoint))
    copy_checkpoint(checkpoint, folder, model, processor, metrics=metrics, card=card)


def measure_tatok(data: str, work: Path, recipe: str, mean_tokens: int, entropy: str):
    """
    Trains a TaTok, and an AdaTok on as many images, with decoders of one size; calibrates, evaluates and studies the
    first beside the second, and embeds it. What has been made in `work` is not made again.
    """
    tatok, twin, calibrated = work / "trained", work / "adatok-as-long", work / f"tatok-{recipe}"
    images = ["--data", data, "--eval-data", data]
    for stage, folder, overrides in (("tatok", tatok, []), ("tokenizer", twin, as_long(recipe))):
        if not (folder / "metrics.json").is_file():
            run("train", stage, "--recipe", recipe, *images, *overrides, "--output-dir", folder)
    if not calibrated.is_dir():
        choice = ["--mean-budget", mean_tokens, "--entropy", entropy, "--max-images", 4096]
        run("calibrate", *choice, "--data", data, "--model", tatok, "--out", calibrated)
    config = TaTokConfig.from_pretrained(calibrated)
    budgets = [config.num_global_tokens, config.num_latent_tokens // 3, config.num_latent_tokens]
    images = ["--data", data, "--split", "validation"]
    every = ",".join(map(str, ("auto", *budgets)))
    run("evaluate", "--model", calibrated, *images, "--budgets", every, "--out", work / "evaluation")
    embed_tokenizer(calibrated, read_json(work / "evaluation" / "results.json"), CHECKPOINTS / calibrated.name)
    models = ["--model", calibrated, "--adatok", twin, "--tokens", mean_tokens]
    run("study", "tatok", *models, *images, "--max-images", 1024, "--out", STUDY)
    samples = pictures.sample_files(pictures.GRID_SAMPLES)
    draw_grid("tatok", "reconstruct", *samples, *pictures.tatok_grid_command()[3:-2])


def as_long(recipe: str) -> list[str]:
    """What gives the AdaTok of a recipe the decoder, the optimizer and the training of the TaTok of that name."""
    tatok, adatok = (parse_yaml(find_recipe(stage, recipe).read_text(), recipe) for stage in ("tatok", "tokenizer"))
    return [word for key in tatok.keys() & adatok.keys() for word in (f"--{key}", str(tatok[key]))]


def draw_pictures():
    """The pictures of README, each the grid of the command that stands under it."""
    forced = pictures.grid_command(sources.shipped_config())[4]
    for name, samples, budgets in (
        ("grid", pictures.GRID_SAMPLES, forced),
        ("policy", pictures.POLICY_SAMPLES, "auto"),
    ):
        draw_grid(name, "reconstruct", *pictures.sample_files(samples), "--budgets", budgets)


def draw_grid(name: str, *command: str | Path):
    """A picture of README: the grid that a command of the package draws."""
    with tempfile.TemporaryDirectory() as out:
        run(*command, "--out", out)
        shutil.copyfile(Path(out) / "grid.png", ROOT / "docs" / f"{name}.png")


def measure_generator(data: str, work: Path, recipe: str, variants: int, init_from: Path | None):
    """
    Trains a generator for the embedded tokenizer on codes of the images, measures and embeds it. One that starts from
    random weights is compared with another, trained as long on codes at full budget. What has been made in `work` is
    not made again.
    """
    lengths = {"adaptive": "auto"}
    if init_from is None:
        lengths["fixed"] = sources.shipped_config().num_latent_tokens
    reports = {}
    for name, budgets in lengths.items():
        codes, generator = work / name / "codes", work / name / "generator"
        for split, rows in (("train", variants), ("validation", 1)):
            images = ["--data", data, "--split", split, "--variants", rows]
            run("tokenize-dataset", *images, "--budgets", budgets, "--out", codes / split)
        if not (generator / "metrics.json").is_file():
            sequences = ["--train_data", codes / "train", "--eval_data", codes / "validation"]
            start = [] if init_from is None else ["--init_from", init_from]
            run("train", "generator", "--recipe", recipe, *start, *sequences, "--output_dir", generator)
        images = ["--data", data, "--split", "validation", "--out", work / name / "quality"]
        images += ["--guidance-scale", "1,2.5"]
        run("evaluate-generation", "--generator", generator, *images, "--budgets", budgets)
        reports[name] = read_json(work / name / "quality" / "results.json")
    write_json(GENERATION, reports["adaptive"])
    if len(reports) > 1:
        write_json(GENERATION_LENGTHS, reports)
    embed_generator(work / "adaptive" / "generator", Path(default_checkpoint()))
    draw_grid("generated", *pictures.generate_command()[1:-2])


def embed_generator(generator: Path, tokenizer: Path):
    """Makes a pipeline of the folder that the embedded tokenizer lies in: each keeps the files that it has."""
    pipeline = load_pipeline(generator, tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        pipeline.save_pretrained(temporary)
        for name, source in (("transformer", generator), ("image_tokenizer", tokenizer)):
            home = Path(temporary) / name
            shutil.rmtree(home)
            shutil.copytree(source, home, ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
        card = ModelCard.load(Path(temporary) / "transformer" / CARD_NAME)
        card.data.license = read_license(tokenizer)  # whose codes it writes
        card.text = card.text.replace(f"# {generator.name}", f"# Generator of {tokenizer.parent.name}")
        card.text = card.text.replace(f" --generator {generator.name} --model TOKENIZER", "")
        card.save(Path(temporary) / "transformer" / CARD_NAME)
        shutil.copytree(temporary, tokenizer.parent, ignore=shutil.ignore_patterns("*.py"), dirs_exist_ok=True)


def measure_pilots(data: str, work: Path, names: list[str] | None):
    """
    Short trainings that differ in one thing each, by the recipe `pilot-64` cut to 500 steps. What
    `docs/pilots.json` has is not trained again; one that was cut off begins anew, since its time counts.
    """

    def known() -> dict[str, dict]:
        return read_json(sources.PILOTS) if sources.PILOTS.is_file() else {}

    for name in names or PILOTS:
        overrides = PILOT | PILOTS[name]
        if known().get(name, {}).get("overrides") == overrides:
            continue
        folder = work / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        words = ["--data", data, "--eval-data", data, "--max-eval-images", 512, "--output-dir", folder]
        for key, value in overrides.items():
            if key != "quantizer":
                words += [f"--{key}", *(value if isinstance(value, list) else [value])]
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("train", "tokenizer", "--recipe", "pilot-64", *words, quantizer=overrides.get("quantizer"))
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
        pilot = {"overrides": overrides, "cpu_seconds": seconds, "rows": read_metrics(folder)["rows"]}
        pilots = known() | {name: pilot}
        write_json(sources.PILOTS, {name: pilots[name] for name in PILOTS if name in pilots})


def measure_fixed(data: str, work: Path, recipe: str, fixed_budget: int, seeds: int, arms: str | None):
    """
    Trains the arms of the study of fixed lengths and compares them, with those of other ranks that were trained when
    they were named. What has been made in `work` stays; what was measured of an arm is kept in `docs/study/fixed` too,
    and is enough where its weights are gone.
    """
    kept = STUDY / "fixed"
    for folder in (work, kept):
        folder.mkdir(parents=True, exist_ok=True)
    for path in kept.iterdir():
        shutil.copyfile(path, work / path.name)
    images = ["--train-data", data, "--eval-data", data]
    settings = ["--recipe", recipe, *images, "--fixed-budget", fixed_budget, "--seeds", seeds, "--rfid"]
    ranks = [arm for arm in RANKS if all(measured_file(work, arm, seed).is_file() for seed in range(seeds))]
    run("study", "fixed", *settings, "--arms", arms or ",".join([*NAMES, *ranks]), "--out", work)
    for path in (work / "settings.json", *work.glob("*.safetensors")):
        shutil.copyfile(path, kept / path.name)
    if not arms:
        shutil.copyfile(work / "fixed.json", STUDY / "fixed.json")


def main():
    """Measures what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Images with a train and a validation split.")
    commands = parser.add_subparsers(required=True)

    def add_part(name: str, measure: Callable, work: str, help: str) -> argparse.ArgumentParser:
        part = commands.add_parser(name, help=help)
        part.add_argument("--work", type=Path, default=Path(work), help="Where all is kept.")
        part.set_defaults(measure=measure)
        return part

    tokenizer = add_part(
        "tokenizer", measure_tokenizer, "outputs/figures", "A trained tokenizer, its policy and its embedding."
    )
    tokenizer.add_argument("tokenizer", type=Path, help="Its folder.")
    tokenizer.add_argument("--recipe", default="tiny-64", help="Recipe of the policy.")
    tokenizer.add_argument("--train_split", default="train", help="What the policy learns from.")
    tokenizer.add_argument("--heads_steps", type=int, default=300, help="Steps of each arm of the study of the heads.")
    tokenizer.add_argument("--processes", type=int, default=1, help="That measure together, a CPU core or GPU each.")
    generator = add_part(
        "generator", measure_generator, "outputs/generator", "A generator for the embedded tokenizer."
    )
    generator.add_argument("--recipe", default="tiny-64", help="Its recipe.")
    generator.add_argument("--variants", type=int, default=4, help="Crops of each image that they learn from.")
    generator.add_argument("--init_from", type=Path, help="One of an earlier tokenizer to start from.")
    tatok = add_part("tatok", measure_tatok, "outputs/tatok", "A TaTok, beside an AdaTok that is trained as long.")
    tatok.add_argument("--recipe", default="tiny-64", help="Recipe of both.")
    tatok.add_argument("--mean_tokens", type=int, default=14, help="That the filter keeps on average.")
    tatok.add_argument("--entropy", default="surprisal", help="What it filters by, chosen on training images.")
    pilots = add_part("pilots", measure_pilots, "outputs/pilots", "Short trainings that differ in one thing each.")
    pilots.add_argument(
        "--names", nargs="*", choices=PILOTS, help="Some of them, for a process beside others; all if not given."
    )
    fixed = add_part("fixed", measure_fixed, "outputs/fixed", "Adaptive tokenizers beside such of fixed length.")
    fixed.add_argument("--recipe", default="pilot-64", help="Recipe of all arms.")
    fixed.add_argument("--fixed_budget", type=int, default=16, help="The fixed length, and the mean of all arms.")
    fixed.add_argument("--seeds", type=int, default=2, help="Trainings of each arm.")
    fixed.add_argument(
        "--arms", help="Some of the arms, for a process beside others; all, and the result, if not given."
    )
    arguments = vars(parser.parse_args())
    arguments.pop("measure")(**arguments)


if __name__ == "__main__":
    main()
