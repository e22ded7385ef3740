"""The two graphs of a model, traced with a batch of any size."""

import torch
from torch import nn

from ..modeling import AdaTokModel


ENCODER, DECODER = "encoder_model", "decoder_model"  # what the files of a graph are called on the Hub
INPUTS = {ENCODER: ["pixel_values"], DECODER: ["image_codes", "budgets"]}
OUTPUTS = {ENCODER: ["image_codes", "budget_logits"], DECODER: ["pixel_values"]}
DYNAMIC_SHAPES = {name: {tensor: {0: torch.export.Dim("batch", min=1)} for tensor in INPUTS[name]} for name in INPUTS}


class EncoderGraph(nn.Module):
    """
    All of `AdaTokModel.encode` but the choice, which is an `argmax` that every caller can make with a cost of its own.

    Args:
        model ([`AdaTokModel`]): The model, whose modules are used as they are.
    """

    def __init__(self, model: AdaTokModel):
        super().__init__()
        self.encoder, self.quantizer, self.policy = model.encoder, model.quantizer, model.policy

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.LongTensor, torch.Tensor]:
        """
        Pixel values `(batch, num_channels, image_size, image_size)` in [-1, 1] to all codes of each image,
        `(batch, num_latent_tokens)`, and the scores of the candidate budgets, `(batch, len(config.budgets))`.
        """
        latents, features = self.encoder(pixel_values)
        _, _, image_codes, _ = self.quantizer(latents)
        return image_codes, self.policy(features)


class DecoderGraph(nn.Module):
    """
    `AdaTokModel.decode` of any mix of budgets, under a mask.

    Args:
        model ([`AdaTokModel`]): The model, whose modules are used as they are.
    """

    def __init__(self, model: AdaTokModel):
        super().__init__()
        self.quantizer, self.decoder = model.quantizer, model.decoder
        self.register_buffer("candidate_budgets", model.candidate_budgets, persistent=False)

    def forward(self, image_codes: torch.LongTensor, budgets: torch.LongTensor) -> torch.Tensor:
        """
        Codes `(batch, num_latent_tokens)`, of which anything may stand beyond the budget, and budgets `(batch,)` in
        `1 .. num_latent_tokens` to pixel values `(batch, num_channels, image_size, image_size)`, nominally in [-1, 1].
        """
        code_mask = torch.arange(image_codes.shape[1], device=budgets.device) < budgets[:, None]
        # The smallest candidate that is no smaller than the budget; ONNX has no `searchsorted`.
        head_indices = (self.candidate_budgets < budgets[:, None]).sum(dim=1)
        quantized = self.quantizer.lookup(image_codes.masked_fill(~code_mask, 0))
        return self.decoder(quantized, code_mask, head_indices)


def trace_graphs(model: AdaTokModel) -> dict[str, torch.export.ExportedProgram]:
    """
    Traces both graphs of a model.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.

    Returns:
        `dict[str, torch.export.ExportedProgram]`: of `encoder_model` and `decoder_model`, each for batches from 1 on.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.export.graphs import trace_graphs

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> decoder = trace_graphs(AdaTokModel(config).eval())["decoder_model"].module()
    >>> decoder(torch.zeros(3, 256, dtype=torch.long), torch.tensor([1, 64, 200])).shape
    torch.Size([3, 3, 32, 32])

    ```"""
    config = model.config
    pixel_values = torch.zeros(2, config.num_channels, config.image_size, config.image_size, device=model.device)
    image_codes = torch.zeros(2, config.num_latent_tokens, dtype=torch.long, device=model.device)
    budgets = torch.tensor([1, config.num_latent_tokens], device=model.device)
    calls = {ENCODER: (EncoderGraph(model), (pixel_values,)), DECODER: (DecoderGraph(model), (image_codes, budgets))}
    with torch.no_grad():
        return {
            name: torch.export.export(graph.eval(), inputs, dynamic_shapes=DYNAMIC_SHAPES[name])
            for name, (graph, inputs) in calls.items()
        }
