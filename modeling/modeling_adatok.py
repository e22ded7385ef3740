"""AdaTok: an image tokenizer that orders its tokens by importance and decides how many an image deserves."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.output_capturing import capture_outputs

from .backbone import (
    AdaTokDecoder,
    AdaTokVisionEncoder,
    AdaTokVisionModel,
    is_integer,
    pad_codes,
    resolve_counts,
)
from .blocks import AdaTokHeadedLinear, AdaTokVectorQuantizer, init_heads
from .configuration_adatok import AdaTokConfig
from .pixel_decoder import AdaTokPixelDecoder  # noqa: F401, diffusers copies no file that is not named here


logger = logging.get_logger(__name__)

MASKED_GROUP_SIZE = 8  # images; below it the matrices of a group are too small for a CPU


@dataclass
class AdaTokEncoderOutput(ModelOutput):
    r"""
    Args:
        image_codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`):
            Ids in `0 .. codebook_size - 1`, most important first; the pad code `codebook_size` beyond the budget.
        budgets (`torch.LongTensor` of shape `(batch,)`):
            How many leading codes are kept, in `1 .. num_latent_tokens`.
        code_mask (`torch.BoolTensor` of shape `(batch, num_latent_tokens)`):
            True where a code is inside the budget.
        budget_logits (`torch.FloatTensor` of shape `(batch, len(config.budgets))`):
            Scores of the policy over the candidate budgets, before any cost bias.
        policy_features (`torch.FloatTensor` of shape `(batch, 2 * hidden_size)`, *optional*, returned with
            `return_policy_features=True`): What the policy sees of each image.
    """

    image_codes: torch.LongTensor | None = None
    budgets: torch.LongTensor | None = None
    code_mask: torch.BoolTensor | None = None
    budget_logits: torch.FloatTensor | None = None
    policy_features: torch.FloatTensor | None = None

    def to_list(self) -> list[list[int]]:
        """The codes inside the budget of each image, which `AdaTokModel.decode` takes back."""
        return [codes[:budget] for codes, budget in zip(self.image_codes.tolist(), self.budgets.tolist())]


@dataclass
class AdaTokDecoderOutput(ModelOutput):
    r"""
    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
            The reconstruction, nominally in [-1, 1] but not clipped: `AdaTokImageProcessor.post_process` does that.
    """

    pixel_values: torch.FloatTensor | None = None


@dataclass
class AdaTokOutput(ModelOutput):
    r"""
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `return_loss=True`):
            Mean squared error of the pixels plus the quantization loss.
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
            The reconstruction, nominally in [-1, 1] but not clipped.
        image_codes, budgets, code_mask, budget_logits:
            As in [`AdaTokEncoderOutput`].
        quantization_loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `return_loss=True`):
            Codebook and commitment terms.
        latents (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_dim)`, *optional*, returned with
            `return_loss=True`): What is quantized, from which dead codes are revived; unit vectors with
            `config.normalize_codes`.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, tokens, hidden_size)`, *optional*, returned
            with `output_hidden_states=True`): The encoder's states before its first block and after each; `tokens` are
            the class token, the patches and the latent tokens.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, tokens, tokens)`, *optional*, returned with
            `output_attentions=True`): The encoder's attention weights, of each block; empty unless the attention
            implementation is `"eager"`.
    """

    loss: torch.FloatTensor | None = None
    pixel_values: torch.FloatTensor | None = None
    image_codes: torch.LongTensor | None = None
    budgets: torch.LongTensor | None = None
    code_mask: torch.BoolTensor | None = None
    budget_logits: torch.FloatTensor | None = None
    quantization_loss: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class AdaTokEncoder(AdaTokVisionEncoder):
    """A ViT whose sequence is the class token, the patches and the latent tokens; the latter become the codes."""

    def __init__(self, config: AdaTokConfig):
        super().__init__(config, config.num_latent_tokens)
        self.interleave_latents = config.interleave_latents
        self.latent_projection = nn.Linear(config.hidden_size, config.codebook_dim)

    def forward(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns latents `(batch, num_latent_tokens, codebook_dim)` and policy features `(batch, 2 * width)`."""
        image_states, latent_states = self.states(pixel_values, **kwargs)
        features = torch.cat([image_states.mean(dim=1), latent_states.mean(dim=1)], dim=-1)
        if self.interleave_latents:  # (batch, N, width) read as (batch, width, N)
            latent_states = latent_states.reshape(*latent_states.shape[::2], -1).transpose(1, 2)
        return self.latent_projection(latent_states), features


class AdaTokPolicy(nn.Module):
    """Scores the candidate budgets from pooled encoder features."""

    def __init__(self, config: AdaTokConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(2 * config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(2 * config.hidden_size, config.policy_hidden_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.policy_hidden_size, len(config.budgets))

    def init_weights(self, std: float):
        """Scores near zero: no candidate budget is preferred before training."""
        init.normal_(self.fc2.weight, std=std)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(self.layernorm(features))))


class AdaTokPreTrainedModel(AdaTokVisionModel):
    config: AdaTokConfig
    base_model_prefix = "adatok"
    _own_keywords = "budgets and cost_bias"
    # One by one, as the counter of the batch normalisation is to stay an integer.
    _keep_in_fp32_modules_strict = [
        "quantizer.codebook",
        "quantizer.latent_norm.running_mean",
        "quantizer.latent_norm.running_var",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, AdaTokModel):
            init.copy_(module.candidate_budgets, torch.tensor(self.config.budgets))
            # In remote code, modules without tensors of their own are passed over, so these are called here.
            module.policy.init_weights(self.config.initializer_range)
            init_heads(module.decoder)


class AdaTokModel(AdaTokPreTrainedModel):
    r"""
    The adaptive image tokenizer of huggingface.co/papers/2606.07185: `encode` turns an image into codes ordered by
    importance and chooses how many to keep, `decode` turns any prefix of them back into an image.

    Args:
        config ([`AdaTokConfig`]): The architecture.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokModel, default_checkpoint

    >>> model = AdaTokModel.from_pretrained(default_checkpoint()).eval()
    >>> pixel_values = torch.rand(2, 3, model.config.image_size, model.config.image_size) * 2 - 1
    >>> with torch.no_grad():
    ...     encoded = model.encode(pixel_values, budgets=torch.tensor([4, 20]))
    ...     decoded = model.decode(encoded.image_codes)
    >>> encoded.code_mask.sum(dim=1).tolist(), decoded.pixel_values.shape == pixel_values.shape
    ([4, 20], True)

    ```

    An adapter of one's own goes on top; it trains alone, and the heads survive its merging:

    ```python
    >>> from peft import LoraConfig, get_peft_model

    >>> on_top = get_peft_model(model, LoraConfig(r=4, target_modules=["qkv_proj", "fc1"]))
    >>> {name.split(".")[-2] for name, parameter in on_top.named_parameters() if parameter.requires_grad}
    {'default'}
    >>> model = on_top.merge_and_unload()
    >>> list(model.decoder.layers[0].mlp.fc1.lora_A)[:2]
    ['budget_0008', 'budget_0016']

    ```"""

    def __init__(self, config: AdaTokConfig):
        super().__init__(config)
        self.encoder = AdaTokEncoder(config)
        self.quantizer = AdaTokVectorQuantizer(
            config.num_latent_tokens,
            config.codebook_size,
            config.codebook_dim,
            commitment_cost=config.commitment_cost,
            normalize_codes=config.normalize_codes,
            batch_norm=config.latent_batch_norm,
        )
        self.decoder = AdaTokDecoder(config, config.num_latent_tokens)
        self.policy = AdaTokPolicy(config)
        self.register_buffer("candidate_budgets", torch.tensor(config.budgets), persistent=False)
        self._inject_heads()
        self.post_init()

    def _inject_heads(self):
        """Adds one LoRA adapter per candidate budget to both MLP linears of every decoder block."""
        lora_config = LoraConfig(
            r=self.config.lora_rank, lora_alpha=self.config.lora_alpha, target_modules=["fc1", "fc2"]
        )
        lora_config._register_custom_module({nn.Linear: AdaTokHeadedLinear})  # PEFT's documented way
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Already found a `peft_config`"
            )  # several adapters are the point
            for budget in self.config.budgets:
                inject_adapter_in_model(lora_config, self.decoder, adapter_name=f"budget_{budget:04d}")
        for layer in self.decoder.modules():
            if isinstance(layer, AdaTokHeadedLinear):
                layer.num_heads = len(self.config.budgets)
        # PEFT freezes the base and all but one adapter; here everything trains until a trainer says otherwise.
        self.decoder.requires_grad_(True)

    def __setattr__(self, name: str, value):
        super().__setattr__(name, value)
        if name == "peft_config":  # PEFT sets it once a user's adapter is in place
            self._refuse_heads(value)
            self._freeze_all_but(value)

    def _freeze_all_but(self, adapters: dict[str, PeftConfig]):
        # PEFT freezes a model under its first adapter only; for that it takes a head, and leaves all else trainable.
        biases = {getattr(config, "bias", "none") for config in adapters.values()}
        endings = tuple(".bias" if bias == "all" else ".base_layer.bias" for bias in biases - {"none"})
        for name, parameter in self.named_parameters():
            is_adapter = any(f".{adapter}." in f"{name}." for adapter in adapters)
            if not is_adapter and not name.endswith(endings):
                parameter.requires_grad_(False)

    def _refuse_heads(self, adapters: dict[str, PeftConfig]):
        """Takes the adapters out and raises `ValueError` where one is of the decoder alone, as exported heads are."""
        homes = {name: (config.auto_mapping or {}).get("base_model_class") for name, config in adapters.items()}
        heads = [name for name, home in homes.items() if home == type(self.decoder).__name__]
        if not heads:
            return
        for path, layer in list(self.named_modules()):
            if isinstance(layer, AdaTokHeadedLinear):
                layer.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
            elif isinstance(layer, BaseTunerLayer):
                self.set_submodule(path, layer.get_base_layer())
        del self.peft_config
        raise ValueError(
            f"The adapter to be loaded as {heads[0]!r} is an exported head, of the decoder alone; it is read by "
            "adatok_hf.conversion.heads.import_heads(model, folder)."
        )

    def get_adapter_state_dict(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """As in transformers, without the heads, which belong to the model."""
        heads = tuple(f".{name}.weight" for name in self.decoder.peft_config)
        state = super().get_adapter_state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if not name.endswith(heads)}

    @staticmethod
    def _load_pretrained_model(model: "AdaTokModel", *args, **kwargs):
        """As in transformers, which in `load_adapter` takes the heads for missing and draws them anew: they stay."""
        heads = {}
        if model._hf_peft_config_loaded:
            heads = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".lora_" in name}
        loading_info, offload_index = AdaTokPreTrainedModel._load_pretrained_model(model, *args, **kwargs)
        heads = {name: heads[name] for name in loading_info.missing_keys & heads.keys()}
        model.load_state_dict(heads, strict=False)
        loading_info.missing_keys -= heads.keys()
        return loading_info, offload_index

    def encode(
        self,
        pixel_values: torch.FloatTensor,
        budgets: int | Sequence[int] | torch.Tensor | None = None,
        cost_bias: float | None = None,
        return_policy_features: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AdaTokEncoderOutput:
        r"""
        Turns images into codes, most important first, and decides how many of them to keep. Latents are normalised by
        the running statistics, in `train()` mode too.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
                Images in [-1, 1], as `AdaTokImageProcessor` gives them.
            budgets (`int`, or `(batch,)` integers, *optional*):
                Forced budgets in `1 .. num_latent_tokens`. Without them the policy chooses.
            cost_bias (`float`, *optional*):
                Shifts the policy's choice: positive is cheaper, negative finer, 0 the policy as trained. The logit
                of candidate budget b falls by `cost_bias * b / num_latent_tokens`. Unset, `config.cost_bias`.
            return_policy_features (`bool`, *optional*, defaults to `False`):
                Whether to return `policy_features` too.
            kwargs (*optional*): `TransformersKwargs`, for the attention implementation.

        Returns:
            [`AdaTokEncoderOutput`]

        Raises:
            `ValueError`: for pixel values of a wrong shape or not finite, for budgets out of range, for a cost bias
                that is not finite, and for a cost bias beside budgets.
            `TypeError`: for a keyword that does not exist.
        """
        self._check_keywords(kwargs)
        self._check_pixel_values(pixel_values)
        self._check_choice(budgets, cost_bias)
        latents, features = self.encoder(pixel_values.to(self.dtype), **kwargs)
        _, _, image_codes, _ = self.quantizer(latents)
        budget_logits = self.policy(features)
        budgets = self._choose_budgets(budget_logits, budgets, cost_bias)
        code_mask = self._code_mask(budgets, image_codes.shape[1])
        return AdaTokEncoderOutput(
            image_codes=image_codes.masked_fill(~code_mask, self.config.pad_code_id),
            budgets=budgets,
            code_mask=code_mask,
            budget_logits=budget_logits,
            policy_features=features if return_policy_features else None,
        )

    def chosen_budgets(self, encoded: AdaTokEncoderOutput, cost_bias: float | None = None) -> torch.LongTensor:
        r"""
        The budgets that `encode` chooses, whatever budget the images were encoded with.

        Args:
            encoded ([`AdaTokEncoderOutput`]): What `encode` returned.
            cost_bias (`float`, *optional*):
                As in [`~AdaTokModel.encode`].

        Returns:
            `torch.LongTensor` of shape `(batch,)`: candidate budgets, the full one if the policy is not trained.

        Raises:
            `ValueError`: for a cost bias that is not finite.
        """
        return self._choose_budgets(encoded.budget_logits, None, cost_bias)

    def budget_distribution(self, budget_logits: torch.FloatTensor, cost_bias: float | None = None) -> torch.Tensor:
        r"""
        What the policy thinks of each candidate budget, the cost included. `encode` chooses the most probable one.

        Args:
            budget_logits (`torch.FloatTensor` of shape `(batch, len(config.budgets))`):
                As `encode` gives them.
            cost_bias (`float`, *optional*):
                As in [`~AdaTokModel.encode`].

        Returns:
            `torch.FloatTensor` of shape `(batch, len(config.budgets))`: probabilities, which add up to 1.

        Raises:
            `ValueError`: for a cost bias that is not finite.
        """
        return self._shift_logits(budget_logits, cost_bias).softmax(dim=-1)

    def decode(
        self,
        image_codes: torch.LongTensor | AdaTokEncoderOutput | Sequence[Sequence[int]],
        budgets: int | Sequence[int] | torch.Tensor | None = None,
        group_by_budget: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AdaTokDecoderOutput:
        r"""
        Reconstructs images from the leading `budgets` codes; codes beyond them have no influence.

        Args:
            image_codes (`torch.LongTensor` of shape `(batch, codes)`):
                Codes as `encode` gives them. May be cut off anywhere beyond the largest budget. Lists of lists may
                differ in length; what `encode` returned brings its budgets along, as `decode(**encoded)` does too.
            budgets (`int`, or `(batch,)` integers, *optional*):
                How many leading codes to use, in `1 .. num_latent_tokens`; unset, all before the first pad code.
                The next larger candidate budget's head serves each image.
            group_by_budget (`bool`, *optional*):
                Whether to decode images of one budget together, with truncated sequences, or the whole batch at once
                under a mask. Both give the same pixels; unset, the one that is faster on the device is taken.
            kwargs (*optional*): `TransformersKwargs`, for the attention implementation.

        Returns:
            [`AdaTokDecoderOutput`]

        Raises:
            `ValueError`: for codes out of range, pad codes inside a prefix, and budgets out of range.
        """
        for name in ("code_mask", "budget_logits", "policy_features"):  # of `decode(**encoded)`
            kwargs.pop(name, None)
        self._check_keywords(kwargs)
        if isinstance(image_codes, AdaTokEncoderOutput):
            budgets = image_codes.budgets if budgets is None else budgets
            image_codes = image_codes.image_codes
        if not isinstance(image_codes, torch.Tensor):
            image_codes = pad_codes(image_codes, self.config.pad_code_id, self.device)
        if image_codes.ndim != 2 or not is_integer(image_codes):
            raise ValueError(
                f"image_codes must be integers of shape (batch, codes); got {image_codes.dtype} of shape "
                f"{tuple(image_codes.shape)}."
            )
        if len(image_codes) == 0 or image_codes.shape[1] > self.config.num_latent_tokens:
            raise ValueError(
                f"image_codes must hold at least one image of at most {self.config.num_latent_tokens} codes; got "
                f"shape {tuple(image_codes.shape)}."
            )
        image_codes = image_codes.long()
        if budgets is None:
            budgets = (image_codes == self.config.pad_code_id).int().cumsum(dim=1).eq(0).sum(dim=1)
        budgets = self._resolve_budgets(budgets, image_codes.shape[0], image_codes.device)
        code_mask = self._code_mask(budgets, image_codes.shape[1])
        self._check_image_codes(image_codes, budgets, code_mask)
        quantized = self.quantizer.lookup(image_codes.masked_fill(~code_mask, 0))
        if group_by_budget is None:
            group_by_budget = quantized.device.type == "cpu" and not torch.compiler.is_compiling()
        decode = self._decode_grouped if group_by_budget else self._decode_masked
        return AdaTokDecoderOutput(pixel_values=decode(quantized, budgets, code_mask, **kwargs))

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        budgets: int | Sequence[int] | torch.Tensor | None = None,
        cost_bias: float | None = None,
        return_loss: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AdaTokOutput:
        r"""
        The round trip: encodes, keeps a prefix, decodes. Gradients pass the quantizer straight through. With
        `return_loss=True` in `train()` mode, latents are normalised by the statistics of the batch; an image alone has
        none and takes the running ones, as does a model under an adapter.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
                Images in [-1, 1].
            budgets, cost_bias:
                As in [`~AdaTokModel.encode`].
            return_loss (`bool`, *optional*, defaults to `False`):
                Whether to return `loss`, `quantization_loss` and `latents` too. A plain [`~transformers.Trainer`]
                trains on batches that say so: `data_collator=lambda rows: default_data_collator(rows) |
                {"return_loss": True}`.
            kwargs (*optional*): `output_hidden_states`, `output_attentions`, `return_dict`, and what else
                `TransformersKwargs` has for the attention implementation.

        Returns:
            [`AdaTokOutput`], or a tuple of what it holds with `return_dict=False`.

        Raises:
            `ValueError`, `TypeError`: as [`~AdaTokModel.encode`].
        """
        self._check_keywords(kwargs, of_forward=True)
        self._check_pixel_values(pixel_values)
        self._check_choice(budgets, cost_bias)
        pixel_values = pixel_values.to(self.dtype)
        latents, features = self.encoder(pixel_values, **kwargs)
        quantized, latents, image_codes, quantization_loss = self.quantizer(
            latents, self._takes_batch_statistics(pixel_values, return_loss)
        )
        budget_logits = self.policy(features)
        budgets = self._choose_budgets(budget_logits, budgets, cost_bias)
        code_mask = self._code_mask(budgets, image_codes.shape[1])
        reconstruction = self._decode_masked(quantized, budgets, code_mask, **kwargs)
        output = AdaTokOutput(
            pixel_values=reconstruction,
            image_codes=image_codes.masked_fill(~code_mask, self.config.pad_code_id),
            budgets=budgets,
            code_mask=code_mask,
            budget_logits=budget_logits,
        )
        if return_loss:
            output.loss = nn.functional.mse_loss(reconstruction, pixel_values) + quantization_loss
            output.quantization_loss = quantization_loss
            output.latents = latents
        return output

    def _decode_masked(
        self, quantized: torch.Tensor, budgets: torch.LongTensor, code_mask: torch.BoolTensor, **kwargs
    ) -> torch.Tensor:
        head_indices = self._head_indices(budgets)
        # By hooks PEFT tells its layers which adapter serves which image, in the order in which they came.
        layers = (layer for layer in self.decoder.modules() if isinstance(layer, BaseTunerLayer))
        keeps_order = any(layer._forward_pre_hooks for layer in layers)
        if keeps_order or quantized.device.type != "cpu" or torch.compiler.is_compiling():
            return self.decoder(quantized, code_mask, head_indices, **kwargs)
        # Small groups of similar budgets, each cut off behind its largest: a fifth less to compute.
        order = budgets.argsort(stable=True)
        groups = [
            self.decoder.patch_states(quantized[rows, :limit], code_mask[rows, :limit], head_indices[rows], **kwargs)
            for rows in order.split(MASKED_GROUP_SIZE)
            for limit in [int(budgets[rows[-1]])]
        ]
        return self.decoder.to_pixels(torch.cat(groups)[order.argsort()])

    def _decode_grouped(
        self, quantized: torch.Tensor, budgets: torch.LongTensor, code_mask: torch.BoolTensor, **kwargs
    ) -> torch.Tensor:
        order = budgets.argsort(stable=True)
        distinct, counts = budgets[order].unique_consecutive(return_counts=True)
        groups = [
            self.decoder.patch_states(quantized[rows, :budget], head_indices=head_index, **kwargs)
            for rows, budget, head_index in zip(
                order.split(counts.tolist()), distinct.tolist(), self._head_indices(distinct).tolist()
            )
        ]
        return self.decoder.to_pixels(torch.cat(groups)[order.argsort()])

    def _head_indices(self, budgets: torch.LongTensor) -> torch.LongTensor:
        """Index of the smallest candidate budget that is no smaller than each budget."""
        return torch.searchsorted(self.candidate_budgets, budgets)

    def _code_mask(self, budgets: torch.LongTensor, num_codes: int) -> torch.BoolTensor:
        return torch.arange(num_codes, device=budgets.device) < budgets[:, None]

    def _choose_budgets(
        self, budget_logits: torch.Tensor, budgets: int | Sequence[int] | torch.Tensor | None, cost_bias: float | None
    ) -> torch.LongTensor:
        batch_size, device = budget_logits.shape[0], budget_logits.device
        if budgets is not None:
            return self._resolve_budgets(budgets, batch_size, device)
        if not self.config.is_policy_trained:
            logger.warning_once(
                "The policy of this checkpoint has not been trained: every image gets the full budget of "
                f"{self.config.num_latent_tokens} codes. Pass budgets=... to choose yourself."
            )
            return self._resolve_budgets(self.config.num_latent_tokens, batch_size, device)
        return self.candidate_budgets[self._shift_logits(budget_logits, cost_bias).argmax(dim=-1)]

    def _shift_logits(self, budget_logits: torch.Tensor, cost_bias: float | None) -> torch.Tensor:
        if cost_bias is None:
            cost_bias = self.config.cost_bias
        self._check_cost_bias(cost_bias)
        return budget_logits - cost_bias * self.candidate_budgets / self.config.num_latent_tokens

    def _resolve_budgets(
        self, budgets: int | Sequence[int] | torch.Tensor, batch_size: int, device: torch.device
    ) -> torch.LongTensor:
        return resolve_counts("budgets", budgets, batch_size, (1, self.config.num_latent_tokens), device)

    def _check_choice(self, budgets: int | Sequence[int] | torch.Tensor | None, cost_bias: float | None):
        if cost_bias is None:
            return
        self._check_cost_bias(cost_bias)
        if budgets is not None:
            raise ValueError(
                f"cost_bias shifts the choice of the policy, and budgets leave it none; got cost_bias={cost_bias} and "
                f"budgets={budgets}. Give one of the two."
            )

    def _check_cost_bias(self, cost_bias: float):
        try:
            is_finite = math.isfinite(cost_bias)
        except (TypeError, ValueError, RuntimeError):  # a text, a list, a tensor of several numbers
            is_finite = False
        if not is_finite:
            raise ValueError(f"cost_bias must be a finite number, 0 for the policy as trained; got {cost_bias}.")

    def _check_image_codes(self, image_codes: torch.Tensor, budgets: torch.Tensor, code_mask: torch.Tensor):
        if torch.compiler.is_compiling():
            return
        if budgets.numel() and budgets.max() > image_codes.shape[1]:
            raise ValueError(f"A budget of {budgets.max()} needs as many codes; got {image_codes.shape[1]} per image.")
        bad_codes = image_codes[code_mask & ((image_codes < 0) | (image_codes >= self.config.codebook_size))]
        if bad_codes.numel():
            reason = "the pad code, which may only stand beyond it" if bad_codes[0] == self.config.pad_code_id else ""
            raise ValueError(
                f"Codes inside the budget must lie between 0 and {self.config.codebook_size - 1}; got {bad_codes[0]}"
                + (f", {reason}." if reason else ".")
            )


__all__ = ["AdaTokDecoderOutput", "AdaTokEncoderOutput", "AdaTokModel", "AdaTokOutput", "AdaTokPreTrainedModel"]
