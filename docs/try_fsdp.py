"""
What of a training works when `fully_shard` splits a small model over two processes of a CPU, and what does not:

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 docs/try_fsdp.py
"""

import copy
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.training.latent_revival import revive_latents


STEPS = 20
BUDGETS = [4, 8, 16]


def make_model() -> AdaTokModel:
    """With fixed batch statistics, which each process would else have of its own part."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64, "codebook_size": 64}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "lora_rank": 2, "attn_implementation": "eager"}
    model = AdaTokModel(AdaTokConfig(**sizes, **layers, num_latent_tokens=BUDGETS[-1], budgets=BUDGETS)).train()
    model.policy.requires_grad_(False)
    model.quantizer.latent_norm.eval()
    return model


def shard(model: AdaTokModel):
    """Each layer, then what is left."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model.encoder.layers, *model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def train_beside(model: AdaTokModel, whole: AdaTokModel, images: torch.Tensor) -> str:
    """Trains the sharded model on its part of a batch and the whole one on all of it."""
    rank, size = dist.get_rank(), len(images) // dist.get_world_size()
    budgets = torch.tensor(BUDGETS).repeat(len(images))[: len(images)]
    optimizers = [
        torch.optim.AdamW((each for each in one.parameters() if each.requires_grad), 1e-3) for one in (model, whole)
    ]
    largest = 0.0
    for _ in range(STEPS):
        losses = []
        for one, optimizer, rows in zip(
            (model, whole), optimizers, (slice(rank * size, (rank + 1) * size), slice(None))
        ):
            outputs = one(pixel_values=images[rows], budgets=budgets[rows], return_loss=True)
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(outputs.loss.detach())
        dist.all_reduce(losses[0])
        largest = max(largest, abs(losses[0].item() / dist.get_world_size() - losses[1].item()))
    return f"{STEPS} steps, largest difference of the losses {largest:.2g}"


@torch.no_grad()
def write_codebook(model: AdaTokModel):
    """As the revival of unused codes does."""
    codebook = model.quantizer.codebook.weight
    codebook.copy_(torch.where(torch.zeros(len(codebook), 1, dtype=torch.bool), torch.randn(codebook.shape), codebook))


def main():
    """Tries one thing after another and says how each ended."""
    dist.init_process_group("gloo")
    model = make_model()
    whole = copy.deepcopy(model)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole_weights = StateDictOptions(full_state_dict=True, cpu_offload=True)
    tried: dict[str, Callable[[], object]] = {
        "fully_shard": lambda: shard(model),
        "training": lambda: train_beside(model, whole, images),
        "whole weights": lambda: f"{len(get_model_state_dict(model, options=whole_weights))} tensors",
        "averages": lambda: AveragedModel(model),
        "revival of codes": lambda: write_codebook(model),
        "revival of latent tokens": lambda: revive_latents(model, images),
        "encode": lambda: model.encode(images, budgets=BUDGETS[-1]),
        "decode": lambda: model.decode(torch.zeros(2, BUDGETS[-1], dtype=torch.long), budgets=BUDGETS[-1]),
    }
    for name, attempt in tried.items():
        try:
            result = attempt()
            said = result if isinstance(result, str) else "works"
        except (AssertionError, RuntimeError) as error:
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if dist.get_rank() == 0:
            print(f"{name}: {said}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
