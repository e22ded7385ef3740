"""Parts that image tokenizers are built of: attention, heads, MLP, layer, quantizer, positions, and their laws."""

from collections.abc import Callable

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs


PEFT_PREFIX = "base_model.model."  # of the names of a model's tensors inside a `PeftModel`


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class AdaTokAttention(nn.Module):
    """Multi-head self-attention by whichever implementation the configuration names."""

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns states of the shape of the input and, where the implementation has them, the attention weights."""
        # (batch, tokens, 3 * hidden) -> three of (batch, heads, tokens, head_dim)
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projected in self.qkv_proj(hidden_states).chunk(3, dim=-1)
        )
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attention_interface(
            self, query, key, value, attention_mask, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attended.flatten(-2)), weights


class AdaTokHeadedLinear(lora.Linear):
    """
    A linear layer with the heads, as LoRA adapters of which the first `num_heads` are the heads. PEFT adds adapters of
    a user behind them; merging and unloading concerns those alone.
    """

    num_heads = 0  # before all heads are there, which `AdaTokModel` sees to, no adapter is guarded

    @property
    def head_names(self) -> list[str]:
        return list(self.lora_A)[: self.num_heads]

    @property
    def user_adapters(self) -> list[str]:
        """Names of the active adapters that are no heads."""
        heads = self.head_names
        return [name for name in self.active_adapters if name in self.lora_A and name not in heads]

    def state_dict(self, *args, prefix: str = "", **kwargs) -> dict[str, torch.Tensor]:
        """As of any module, but inside a `PeftModel` without the heads: PEFT saves what is in it as the adapter."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for key in self._heads_in_peft_model(prefix):
            state.pop(key)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args):
        state_dict.update(self._heads_in_peft_model(prefix))  # a copy, which the adapters below read as well
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _heads_in_peft_model(self, prefix: str) -> dict[str, torch.Tensor]:
        if not prefix.startswith(PEFT_PREFIX):
            return {}
        parts = {"lora_A": self.lora_A, "lora_B": self.lora_B}
        return {
            f"{prefix}{part}.{name}.weight": adapters[name].weight
            for part, adapters in parts.items()
            for name in self.head_names
        }

    def update_layer(self, adapter_name: str, *args, **kwargs):
        if adapter_name in self.head_names:
            raise ValueError(
                f"{adapter_name!r} is a head of this model; give your adapter another name, or replace the head by "
                "adatok_hf.conversion.heads.import_heads."
            )
        super().update_layer(adapter_name, *args, **kwargs)

    def set_adapter(self, adapter_names: str | list[str], *args, **kwargs):
        super().set_adapter(adapter_names, *args, **kwargs)
        for name in self.head_names:  # one that is active for want of another is not trained for that
            if name in self.active_adapters:
                self.lora_A[name].requires_grad_(False)
                self.lora_B[name].requires_grad_(False)

    def delete_adapter(self, adapter_name: str):
        """As PEFT's, but where the active one goes, another one of the user takes its place rather than a head."""
        if self.active_adapters == [adapter_name]:
            others = [name for name in list(self.lora_A)[self.num_heads :] if name != adapter_name]
            self.set_adapter(others[:1] or self.head_names[-1:])
        super().delete_adapter(adapter_name)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> "AdaTokHeadedLinear":
        """What PEFT calls to get rid of its layer: this one stays, without the user's adapters."""
        if merge:
            names = self.user_adapters if adapter_names is None else adapter_names
            names = [name for name in names if name not in self.head_names]
            if names:
                self.merge(safe_merge=safe_merge, adapter_names=names)
        self.merged_adapters = []
        self._active_adapter = self.head_names[-1:]
        for name in list(self.lora_A)[self.num_heads :]:
            self.delete_adapter(name)
        self._disable_adapters = False
        return self


def multi_head_linear(
    layer: nn.Linear | lora.LoraLayer, hidden_states: torch.Tensor, head_indices: torch.Tensor | int | None
) -> torch.Tensor:
    """
    Applies a linear layer with one LoRA head per sample, and the adapters that a user has put on top.

    Args:
        layer: A plain linear layer, or one that PEFT has wrapped.
        hidden_states (`torch.Tensor` of shape `(batch, tokens, in_features)`): The input.
        head_indices (`torch.LongTensor` of shape `(batch,)`, or `int`, *optional*):
            Which adapter serves each sample, or all of them. `None` leaves the choice to PEFT (its active adapter, or
            its `adapter_names`).
    """
    if head_indices is None or not isinstance(layer, BaseTunerLayer):
        return layer(hidden_states)
    if not isinstance(layer, AdaTokHeadedLinear):
        raise ValueError(
            f"A {type(layer).__name__} of PEFT hides the heads of the decoder's fc1 and fc2; on these put LoRA, or "
            "name other target_modules."
        )
    downs = [layer.lora_A[name].weight for name in layer.head_names]
    ups = [layer.lora_B[name].weight for name in layer.head_names]
    scaling = layer.scaling[layer.head_names[0]]
    base = layer if layer.user_adapters else layer.base_layer
    if isinstance(head_indices, int):
        down, up = downs[head_indices], ups[head_indices]
        num_tokens, (out_features, in_features) = hidden_states[..., 0].numel(), layer.base_layer.weight.shape
        if base is layer.base_layer and num_tokens * (in_features + out_features) > in_features * out_features:
            # Merging the head costs less than two more products for every token.
            weight = torch.addmm(base.weight, up, down, alpha=scaling)
            return nn.functional.linear(hidden_states, weight, base.bias)
    else:
        down = torch.stack(downs)[head_indices]  # (batch, rank, in_features)
        up = torch.stack(ups)[head_indices]  # (batch, out_features, rank)
    return base(hidden_states) + scaling * (hidden_states @ down.mT @ up.mT)


class AdaTokMLP(nn.Module):
    def __init__(self, config: PreTrainedConfig, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, head_indices: torch.Tensor | int | None = None) -> torch.Tensor:
        hidden_states = self.activation_fn(multi_head_linear(self.fc1, hidden_states, head_indices))
        return multi_head_linear(self.fc2, hidden_states, head_indices)


class AdaTokLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block, the same in encoder and decoder."""

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_attention_heads: int, intermediate_size: int):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = AdaTokAttention(config, hidden_size, num_attention_heads)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = AdaTokMLP(config, hidden_size, intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        head_indices: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layernorm_after(hidden_states), head_indices)


class AdaTokVectorQuantizer(nn.Module):
    """
    Nearest neighbour, on the unit sphere where codes are normalised. The batch normalisation, of each latent token by
    itself, removes what the token says of every image alike: without it the codes hardly differ between images early
    in training, and the decoder learns to ignore them. Outside of training it is a fixed affine map.

    It holds float32 and computes in float32, whatever the rest of a model does, autocast included: half precision
    would merge neighbouring entries of a large codebook.

    Args:
        num_tokens (`int`): Latent tokens of an image.
        codebook_size (`int`): Entries of the codebook.
        codebook_dim (`int`): Width of an entry.
        commitment_cost (`float`): Weight of the commitment term against the codebook term.
        normalize_codes (`bool`): Whether latents and entries are scaled to unit vectors.
        batch_norm (`bool`): Whether latents are normalised over the images.
    """

    def __init__(
        self,
        num_tokens: int,
        codebook_size: int,
        codebook_dim: int,
        *,
        commitment_cost: float = 0.25,
        normalize_codes: bool = True,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.commitment_cost = commitment_cost
        self.normalize_codes = normalize_codes
        self.latent_norm = nn.Identity()
        if batch_norm:
            self.latent_norm = nn.BatchNorm1d(
                num_tokens * codebook_dim, affine=False, momentum=0.05, dtype=torch.float32
            )
        self.codebook = nn.Embedding(codebook_size, codebook_dim, dtype=torch.float32)

    def _apply(self, fn: Callable, recurse: bool = True):
        # `model.to(dtype)`, `model.half()` and the like pass here: the tensors follow to the device alone.
        def follow(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(follow, recurse)

    def forward(
        self, latents: torch.Tensor, use_batch_statistics: bool = False
    ) -> tuple[torch.Tensor, torch.LongTensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            latents (`torch.Tensor` of shape `(batch, tokens, codebook_dim)`): What the encoder gives, of any dtype.
            use_batch_statistics (`bool`, *optional*, defaults to `False`):
                Whether to normalise by the statistics of this batch, and move the running ones, as training does.
                Takes effect where `latent_norm` is in training mode.

        Returns:
            Quantized vectors with a straight-through gradient and the normalised latents, both float32 of the shape of
            `latents`; codes of shape `(batch, tokens)`; the scalar quantization loss.
        """
        with torch.autocast(device_type=latents.device.type, enabled=False):
            latents = self._standardize(latents.float().flatten(1), use_batch_statistics).view(latents.shape)
            latents = self._normalize(latents)
            codebook = self._normalize(self.codebook.weight.float())
            nearness = latents.detach() @ codebook.detach().T  # on the sphere, nearest = largest cosine
            if not self.normalize_codes:
                nearness = nearness - codebook.detach().square().sum(dim=-1) / 2
            codes = nearness.argmax(dim=-1)
            quantized = nn.functional.embedding(codes, codebook)
            loss = nn.functional.mse_loss(quantized, latents.detach())
            loss = loss + self.commitment_cost * nn.functional.mse_loss(latents, quantized.detach())
            # The added difference is exactly zero: it carries the gradient and leaves the value bit-identical.
            quantized = quantized.detach() + (latents - latents.detach())
        return quantized, latents, codes, loss

    def lookup(self, codes: torch.LongTensor) -> torch.Tensor:
        """What codes `(batch, tokens)` stand for: float32 vectors of shape `(batch, tokens, codebook_dim)`."""
        return self._normalize(self.codebook(codes).float())

    def _standardize(self, latents: torch.Tensor, use_batch_statistics: bool) -> torch.Tensor:
        norm = self.latent_norm
        if use_batch_statistics or isinstance(norm, nn.Identity):
            return norm(latents)
        return nn.functional.batch_norm(latents, norm.running_mean, norm.running_var, eps=norm.eps)

    def _normalize(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors, dim=-1) if self.normalize_codes else vectors


def sincos_positions(width: int, grid_size: int, amplitude: float = 0.7) -> torch.Tensor:
    """2-D sine-cosine positions of shape `(grid_size**2 + 1, width)`, the class token's row first and zero."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(grid_size, dtype=torch.float32)[:, None] * frequencies  # (grid, width / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    rows = axis[:, None].expand(-1, grid_size, -1)
    columns = axis[None].expand(grid_size, -1, -1)
    positions = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return amplitude * torch.cat([torch.zeros(1, width), positions])


def init_linear(module: nn.Linear):
    """Xavier weights and no bias, with which the decoder reads the codes from the start."""
    init.xavier_uniform_(module.weight)
    if module.bias is not None:
        init.zeros_(module.bias)


def init_heads(module: nn.Module):
    """PEFT's law, for all heads inside a module: heads that change nothing yet."""
    for layer in module.modules():
        if isinstance(layer, AdaTokHeadedLinear):
            for name in layer.head_names:
                init.kaiming_uniform_(layer.lora_A[name].weight, a=5**0.5)
                init.zeros_(layer.lora_B[name].weight)
