"""
What a training at 256 px takes: FLOPs and bytes of one step of each recipe, counted on tensors without data; times and
prices computed from them for a GPU whose utilisation is assumed; and, scaled from one step that was measured, the
times of all steps where that was. Writes `docs/training_cost.json`, of which `make figures` makes the table of
docs/scale.md.

    python docs/training_cost.py                                      # what is counted and computed
    python docs/training_cost.py --measure small-256 --batch 2        # and measured here, on a GPU if there is one
    python docs/training_cost.py --measured small-256 --batch 32 --seconds 0.1 --device "one H100"       # or elsewhere
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.bench.instruments import count_flops, peak_memory, synchronize
from adatok_hf.extras import require
from adatok_hf.files import write_json
from adatok_hf.training.discriminator import PatchDiscriminator
from adatok_hf.training.recipe import parse_recipe
from adatok_hf.training.tokenizer_arguments import ARGUMENT_CLASSES, ReconstructionTrainingArguments
from adatok_hf.training.tokenizer_trainer import freeze
from adatok_hf.training.train_tokenizer import build_model


GPUS = {"small-256": 8, "base-256": 8, "large-256": 8, "one-d-piece-s-256-heads": 1}  # that each recipe is meant for
OUT = Path(__file__).parent / "training_cost.json"
# What `adatok convert --from one-d-piece` makes of One-D-Piece-S-256, from which the heads' recipe starts.
ONE_D_PIECE_S = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "normalize_codes": True,
    "latent_batch_norm": False,
    "interleave_latents": True,
    "pixel_decoder_config": {},
}


class Parts(NamedTuple):
    """What a step runs through: the model, LPIPS and the critic, with their arguments."""

    model: AdaTokModel
    lpips: nn.Module
    critic: nn.Module
    arguments: ReconstructionTrainingArguments


def load_parts(recipe: str, device: str) -> Parts:
    """The networks of a recipe with random weights, on which neither time nor FLOPs depend."""
    require("eval", "lpips")
    import lpips

    warnings.simplefilter("ignore")  # lpips calls torchvision in a way that is deprecated, and finds no data to fill
    overrides = ["--use_cpu", "--bf16", "false", "--tf32", "none"]
    architecture, _, arguments = parse_recipe("tokenizer", recipe, overrides, ARGUMENT_CLASSES)
    if architecture.init_from is None:
        model = build_model(architecture)[0]
    else:
        model = AdaTokModel(AdaTokConfig(**ONE_D_PIECE_S))
        model.set_attn_implementation(architecture.attn_implementation)
    freeze(model, arguments.train_only)
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    network = lpips.LPIPS(net=arguments.perceptual_net, pnet_rand=True, verbose=False).requires_grad_(False).eval()
    critic = PatchDiscriminator(model.config.num_channels, arguments.discriminator_hidden_size)
    return Parts(model.train().to(device), network.to(device), critic.to(device), arguments)


def make_step(parts: Parts, batch_size: int, perceptual: bool = True, adversarial: bool = True) -> Callable[[], None]:
    """A step as the trainer takes it, in bfloat16 where the recipe says so; gradients are made, not applied."""
    model, lpips, critic, _ = parts
    size = model.config.image_size
    pixel_values = torch.zeros(batch_size, model.config.num_channels, size, size, device=model.device)
    code_mask = torch.ones(batch_size, model.config.num_latent_tokens, dtype=torch.bool, device=model.device)
    head_indices = torch.zeros(batch_size, dtype=torch.long, device=model.device)

    @torch.enable_grad()
    def step():
        with torch.autocast(model.device.type, torch.bfloat16):
            # `model.forward` in parts: its checks of the input ask for data.
            latents, features = model.encoder(pixel_values)
            quantized, _, _, quantization_loss = model.quantizer(latents, use_batch_statistics=True)
            model.policy(features)
            reconstruction = model.decoder(quantized, code_mask, head_indices).float()
            loss = nn.functional.mse_loss(reconstruction, pixel_values) + quantization_loss.float()
            if perceptual:
                loss = loss + lpips(reconstruction, pixel_values).float().mean()
            if adversarial:
                critic.requires_grad_(False)
                loss = loss - critic(reconstruction).float().mean()
                critic.requires_grad_(True)
        loss.backward()
        if adversarial:
            with torch.autocast(model.device.type, torch.bfloat16):
                judged = critic(torch.cat([pixel_values, reconstruction.detach()])).float().mean()
            judged.backward()
        for module in (model, critic):
            module.zero_grad()

    return step


def place_on_cpu(module: nn.Module):
    """Gives a module of the meta device tensors of the CPU, which under `FakeTensorMode` have no data either."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype)
                part._parameters[name] = nn.Parameter(empty, requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def count(recipe: str) -> dict:
    """Counts parameters, FLOPs of an image and bytes of a process, without data."""
    with torch.device("meta"):
        parts = load_parts(recipe, "meta")
    model, lpips, critic, arguments = parts
    with FakeTensorMode():  # unlike tensors on the meta device, these know autocast
        for module in (model, lpips, critic):
            place_on_cpu(module)
        phases = {"reconstruction": (False, False), "perceptual": (True, False), "adversarial": (True, True)}
        flops = {name: count_flops(make_step(parts, 2, *phase)) / 2 for name, phase in phases.items()}
        batch_size = arguments.per_device_train_batch_size
        step_bytes = peak_memory(make_step(parts, batch_size), torch.device("cpu"))
    trained = sum(each.numel() for each in (*model.parameters(), *critic.parameters()) if each.requires_grad)
    model_bytes, *other_bytes = (
        sum(each.nbytes for each in (*module.parameters(), *module.buffers())) for module in (model, lpips, critic)
    )
    starts = [0, arguments.perceptual_start, max(arguments.perceptual_start, arguments.adversarial_start)]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], arguments.max_steps])]
    return {
        "recipe": recipe,
        "gpus": GPUS.get(recipe, 1),
        "parameters": model.num_parameters(),
        "trained_parameters": trained,
        "batch_size": batch_size * arguments.gradient_accumulation_steps,
        "steps": arguments.max_steps,
        "phase_steps": dict(zip(flops, lengths)),
        "flops_of_an_image": flops,
        "bytes": {
            "weights": model_bytes + sum(other_bytes),
            "averaged weights": model_bytes,
            "optimizer": 8 * trained,
            "gradients and activations": step_bytes,
        },
    }


def measure(recipe: str, batch_size: int, repeats: int) -> dict:
    """Times the last phase's step of a recipe here, the median after one that is not counted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step, seconds = make_step(load_parts(recipe, device.type), batch_size), []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"recipe": recipe, "batch_size": batch_size, "seconds": median(seconds[1:]), "device": name}


def add_times(rows: list[dict], gpu: dict, measured: dict | None):
    """Adds what a device takes, at the speed that is assumed and at the one that was measured."""
    assumed = gpu["peak_flops_per_second"] * gpu["utilisation"]
    if measured is not None:
        (point,) = (row for row in rows if row["recipe"] == measured["recipe"])
        work = measured["batch_size"] * point["flops_of_an_image"]["adversarial"]
        measured["flops_per_second"] = work / measured["seconds"]
    for row in rows:
        flops, images = row["flops_of_an_image"], row["batch_size"]
        run = sum(images * flops[phase] * steps for phase, steps in row["phase_steps"].items())
        row["gpu_step_seconds"] = images * flops["adversarial"] / assumed
        row["gpu_hours"] = run * row["gpus"] / assumed / 3600
        row["dollars"] = row["gpu_hours"] * gpu["dollars_an_hour"]
        if measured is not None:
            row["measured_step_seconds"] = images * flops["adversarial"] / measured["flops_per_second"]


def main():
    """Counts, measures if asked, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=list(GPUS), help="Recipe whose step is measured here.")
    parser.add_argument("--measured", choices=list(GPUS), help="Recipe whose step was measured elsewhere.")
    parser.add_argument("--seconds", type=float, help="Of the step that was measured elsewhere.")
    parser.add_argument("--device", help="Where that was.")
    parser.add_argument("--batch", type=int, default=2, help="Images in the measured step, from 2.")
    parser.add_argument("--repeats", type=int, default=5, help="Measured steps, of which the median is taken.")
    parser.add_argument("--gpu", default="H100", help="The GPU to compute for.")
    parser.add_argument("--peak", type=float, default=989.0, help="Its TFLOP/s in dense bfloat16, by its data sheet.")
    parser.add_argument(
        "--utilisation", type=float, default=0.3, help="Share of them that a training is assumed to get."
    )
    parser.add_argument("--dollars", type=float, default=3.0, help="Assumed price of its hour.")
    parser.add_argument("--out", type=Path, default=OUT, help="Where the result goes.")
    arguments = parser.parse_args()
    if arguments.batch < 2:
        parser.error("--batch must be at least 2, of which there are batch statistics")
    measured = None
    if arguments.measure:
        measured = measure(arguments.measure, arguments.batch, arguments.repeats)
    elif arguments.measured:
        if not (arguments.seconds and arguments.device):
            parser.error("--measured needs --seconds and --device")
        measured = {"recipe": arguments.measured, "batch_size": arguments.batch}
        measured |= {"seconds": arguments.seconds, "device": arguments.device}
    gpu = {
        "name": arguments.gpu,
        "peak_flops_per_second": 1e12 * arguments.peak,
        "utilisation": arguments.utilisation,
        "dollars_an_hour": arguments.dollars,
    }
    rows = [count(recipe) for recipe in GPUS]
    add_times(rows, gpu, measured)
    write_json(arguments.out, {"gpu": gpu, "measured": measured, "rows": rows})
    print(arguments.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
