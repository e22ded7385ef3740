"""
Trains a tokenizer by another quantizer than that of the package. What is trained loads as any other, since only the
training differs:

    python docs/try_quantizers.py rotation train tokenizer --recipe pilot-64 --data pictures --output-dir out
"""

import sys

import torch
from torch import nn

from adatok_hf.cli.app import main
from adatok_hf.modeling import modeling_adatok
from adatok_hf.modeling.blocks import AdaTokVectorQuantizer


class RotationQuantizer(AdaTokVectorQuantizer):
    """
    Turns the gradient of a code as the latent is turned onto the code, in place of handing it on as it is.

    Source: huggingface.co/papers/2410.06424
    """

    def forward(self, latents: torch.Tensor, use_batch_statistics: bool = False) -> tuple[torch.Tensor, ...]:
        quantized, latents, codes, loss = super().forward(latents, use_batch_statistics)
        before, after = (nn.functional.normalize(each.detach(), dim=-1) for each in (latents, quantized))
        middle = nn.functional.normalize(before + after, dim=-1)
        turned = latents - 2 * (latents * middle).sum(-1, keepdim=True) * middle
        turned = turned + 2 * (latents * before).sum(-1, keepdim=True) * after
        turned = turned * (quantized.norm(dim=-1) / latents.norm(dim=-1)).detach()[..., None]
        return quantized.detach() + (turned - turned.detach()), latents, codes, loss


class AveragingQuantizer(AdaTokVectorQuantizer):
    """
    Makes each entry of the codebook the moving average of the latents that it stood for, in place of training it.

    Source: huggingface.co/papers/1711.00937, appendix A.1
    """

    decay = 0.99

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("counts", torch.zeros(self.codebook.num_embeddings), persistent=False)

    def forward(self, latents: torch.Tensor, use_batch_statistics: bool = False) -> tuple[torch.Tensor, ...]:
        quantized, latents, codes, _ = super().forward(latents, use_batch_statistics)
        if use_batch_statistics:
            self._follow(latents.detach().flatten(0, 1), codes.flatten())
        loss = self.commitment_cost * nn.functional.mse_loss(latents, quantized.detach())
        return quantized, latents, codes, loss

    @torch.no_grad()
    def _follow(self, latents: torch.Tensor, codes: torch.LongTensor):
        weight, used = self.codebook.weight, torch.bincount(codes, minlength=len(self.counts))
        sums = torch.zeros_like(weight).index_add_(0, codes, latents)
        new_counts = torch.lerp(used.float(), self.counts, self.decay)
        old_sums = self.counts[:, None] * self._normalize(weight)
        averages = self._normalize(torch.lerp(sums, old_sums, self.decay) / new_counts.clamp(min=1e-6)[:, None])
        weight.copy_(torch.where((used > 0)[:, None], averages, weight))
        self.counts.copy_(new_counts)


QUANTIZERS = {"rotation": RotationQuantizer, "averages": AveragingQuantizer}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in QUANTIZERS:
        sys.exit(f"The first word must be one of {', '.join(QUANTIZERS)}, then the words of adatok follow.")
    modeling_adatok.AdaTokVectorQuantizer = QUANTIZERS[sys.argv[1]]
    main(sys.argv[2:])
