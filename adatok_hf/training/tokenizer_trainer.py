"""The Trainer of stage 1: prioritized representation learning."""

from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.utils import ModelOutput

from ..checkpoint import save_checkpoint
from ..files import remove_left_overs, whole_file
from ..metrics.images import to_pixel_values, to_uint8
from ..metrics.pairs import psnr_of_error
from ..metrics.perceptual import load_lpips
from ..model_card import read_license
from ..modeling import AdaTokModel
from ..modeling.blocks import AdaTokVectorQuantizer
from .discriminator import FeatureDiscriminator, PatchDiscriminator
from .even_pixels import even_out_pixels
from .latent_revival import revive_latents
from .losses import LeCamRegularizer, crop_together, draw_budgets, hinge_discriminator_loss, shift_together
from .optimizer import MuonTrainer
from .streaming_trainer import StreamingTrainer
from .tokenizer_arguments import ReconstructionTrainingArguments


def freeze(model: AdaTokModel, train_only: str | None = None):
    """
    Takes the gradient from all that stage 1 does not train: always the policy.

    Args:
        model ([`AdaTokModel`]): The model, changed in place. Nothing gets a gradient that had none.
        train_only (`str`, *optional*):
            `"heads"` leaves only the LoRA heads, `"decoder"` the decoder with them. No gradient then reaches the
            encoder, so it runs without keeping its activations.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.training.tokenizer_trainer import freeze

    >>> model = AdaTokModel(AdaTokConfig(hidden_size=32, num_hidden_layers=1))
    >>> freeze(model, "heads")
    >>> all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    True

    ```"""
    model.policy.requires_grad_(False)
    if train_only is not None:
        model.encoder.requires_grad_(False)
        model.quantizer.requires_grad_(False)
    if train_only == "heads":
        for name, parameter in model.decoder.named_parameters():
            if "lora_" not in name:
                parameter.requires_grad_(False)


def check_budgets(budgets: list[int], num_latent_tokens: int) -> list[int]:
    """Gives the budgets to train back; `ValueError` unless they ascend strictly within `1 .. num_latent_tokens`."""
    if sorted(set(budgets)) != list(budgets) or budgets[0] < 1 or budgets[-1] > num_latent_tokens:
        raise ValueError(
            f"training_budgets must ascend strictly and lie between 1 and {num_latent_tokens}; got {budgets}."
        )
    return list(budgets)


class ReconstructionTrainer(MuonTrainer, StreamingTrainer):
    """
    Trains encoder, quantizer, decoder and heads so that every prefix of the codes decodes.

    Each image of a batch gets a budget of its own from `draw_budgets`. The loss is reconstruction, LPIPS and
    quantization, and from a given step on a hinge GAN with LeCam. Averaged weights are kept and exported, unused codes
    are revived, and evaluation measures PSNR and LPIPS at every candidate budget. The policy stays as it is, and so
    does everything outside the part that `args.train_only` names.

    Args:
        model ([`AdaTokModel`]): The model; what needs no gradient already is not trained either.
        args ([`ReconstructionTrainingArguments`]): The arguments.
        kwargs: As for [`~transformers.Trainer`]; `processing_class` is the image processor.

    Raises:
        `ValueError`: if `args.training_budgets` do not ascend strictly within `1 .. num_latent_tokens`, or
            `args.perceptual_crop` is larger than the images, or `args.even_pixels` is asked of a model without a pixel
            decoder.

    Source: huggingface.co/papers/2606.07185
    """

    model_class = AdaTokModel
    state_name = "reconstruction_state.pt"
    args: ReconstructionTrainingArguments
    model: AdaTokModel

    def __init__(self, model: AdaTokModel, args: ReconstructionTrainingArguments, **kwargs):
        self.training_budgets = self._find_budgets(model, args)
        if args.perceptual_crop is not None and not 0 < args.perceptual_crop <= model.config.image_size:
            raise ValueError(
                f"perceptual_crop must lie between 1 and image_size={model.config.image_size}; got "
                f"{args.perceptual_crop}."
            )
        if args.even_pixels and model.config.pixel_decoder_config is None:
            raise ValueError("even_pixels needs a model with a pixel decoder; this one has no pixel_decoder_config.")
        self._freeze(model, args)
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = False
        device = args.device
        self.lpips = self.eval_lpips = None
        if args.perceptual_weight > 0:
            # Channels last, convolutions on a CPU are a sixth faster.
            self.lpips = load_lpips(args.perceptual_net, args.weights_dir).to(
                device, memory_format=torch.channels_last
            )
            same = args.eval_perceptual_net == args.perceptual_net
            self.eval_lpips = self.lpips if same else load_lpips(args.eval_perceptual_net, args.weights_dir).to(device)
        self._trained_names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.ema = AveragedModel(model, device=device, multi_avg_fn=self._average)
        self.lecam = LeCamRegularizer().to(device)
        num_codes = sum(quantizer.codebook.num_embeddings for quantizer in self._quantizers(model))
        self.code_counts = torch.zeros(num_codes, dtype=torch.long, device=device)
        self.discriminator = None
        if args.adversarial_weight > 0:
            if args.discriminator_features:
                discriminator = FeatureDiscriminator(
                    self.lpips.chns, model.config.num_channels, args.discriminator_hidden_size
                )
                # One map of each level: first of the reconstructions, then of the originals.
                self._features = deque(maxlen=2 * self.lpips.L)
                for part in self.lpips.net.children():
                    part.register_forward_hook(lambda part, inputs, output: self._features.append(output))
            else:
                discriminator = PatchDiscriminator(model.config.num_channels, args.discriminator_hidden_size)
            optimizer = torch.optim.AdamW(
                discriminator.parameters(), lr=args.discriminator_learning_rate, betas=(0.5, 0.99), weight_decay=0.0
            )
            self.discriminator, self.discriminator_optimizer = self.accelerator.prepare(discriminator, optimizer)
        self.codebook_use = 0.0
        self.add_callback(_AfterOptimizerStep(self))

    def _find_budgets(self, model: AdaTokModel, args: ReconstructionTrainingArguments) -> list[int]:
        return check_budgets(args.training_budgets or model.config.budgets, model.config.num_latent_tokens)

    def _freeze(self, model: AdaTokModel, args: ReconstructionTrainingArguments):
        freeze(model, args.train_only)

    def _quantizers(self, model: AdaTokModel) -> list[AdaTokVectorQuantizer]:
        return [model.quantizer]

    @torch.no_grad()
    def _average(self, averages: list[torch.Tensor], values: list[torch.Tensor], num_averaged: torch.Tensor):
        # Early on the average would remember nothing but the random start, so its memory grows with the steps.
        decay = min(self.args.ema_decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        torch._foreach_lerp_(averages, values, 1 - decay)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ):
        args, step = self.args, self.state.global_step
        frozen_from = 0 if args.train_only is not None else args.freeze_latent_norm_step
        if frozen_from is not None and step >= frozen_from:
            for quantizer in self._quantizers(self.model):
                quantizer.latent_norm.eval()
        pixel_values = inputs["pixel_values"]
        batch_size, rank = len(pixel_values), args.process_index
        # Every process has the same random state: drawing for all of them and taking its part, each has its own.
        mirrored = (torch.rand(args.world_size, batch_size) < 0.5)[rank]
        pixel_values = torch.where(
            mirrored.to(pixel_values.device)[:, None, None, None], pixel_values.flip(-1), pixel_values
        )
        outputs = model(pixel_values=pixel_values, return_loss=True, **self._draw_choice(batch_size))
        reconstruction = outputs.pixel_values.float()
        components = {
            "reconstruction": nn.functional.mse_loss(reconstruction, pixel_values),
            "quantization": outputs.quantization_loss.float(),
        }
        loss = args.reconstruction_weight * components["reconstruction"]
        loss = loss + args.quantization_weight * components["quantization"]
        loss = loss + self._further_loss(outputs, components)
        if self.lpips is not None and step >= args.perceptual_start:
            with self.accelerator.autocast():
                views = self._perceptual_views(reconstruction, pixel_values)
                components["perceptual"] = self.lpips(*views).float().mean()
            loss = loss + args.perceptual_weight * components["perceptual"]
        if self.discriminator is not None and step >= args.critic_start:
            fake, real = [reconstruction], [pixel_values]
            if args.discriminator_features:
                maps = list(self._features)
                fake, real = fake + maps[: self.lpips.L], real + maps[self.lpips.L :]
            self._judged = [each.detach() for each in real], [each.detach() for each in fake]
            if step >= args.adversarial_start:
                components["adversarial"] = -self._judge(fake).mean()
                loss = loss + args.adversarial_weight * components["adversarial"]
        self._latents = self._take_codes(outputs)
        self._images = pixel_values
        self.add_measures(components)
        return (loss, outputs) if return_outputs else loss

    def _draw_choice(self, batch_size: int) -> dict[str, torch.Tensor]:
        """What each image of a batch keeps, as keywords of the model."""
        args = self.args
        budgets = draw_budgets(
            args.world_size * batch_size, self.training_budgets, args.device, full_share=args.full_budget_share
        )
        return {"budgets": budgets.view(args.world_size, batch_size)[args.process_index]}

    def _further_loss(self, outputs: ModelOutput, components: dict[str, torch.Tensor]) -> torch.Tensor | float:
        """What a model has beyond reconstruction and quantization; puts each part into the components too."""
        return 0.0

    def _take_codes(self, outputs: ModelOutput) -> list[torch.Tensor]:
        """Counts the codes of a batch, and gives for each codebook the latents that its dead codes may move onto."""
        self._count_codes([outputs.image_codes[outputs.code_mask]])
        return [outputs.latents.detach()]

    def _perceptual_views(self, *images: torch.Tensor) -> list[torch.Tensor]:
        if self.args.perceptual_crop is not None:
            return crop_together(list(images), self.args.perceptual_crop)
        return shift_together(list(images))

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: int | None = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.discriminator is not None and self.state.global_step >= self.args.critic_start:
            self.add_measures({"discriminator": self._train_discriminator(*self._judged)})
        return loss

    def _judge(self, fake: Sequence[torch.Tensor]) -> torch.Tensor:
        """The critic's logits, with gradient to what it sees alone."""
        critic = self.accelerator.unwrap_model(self.discriminator).requires_grad_(False)
        with self.accelerator.autocast():
            logits = critic(*fake)
        critic.requires_grad_(True)
        return logits.float()

    def _train_discriminator(self, real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
        logits = self.discriminator(*[torch.cat(pair) for pair in zip(real, fake)])
        real_logits, fake_logits = logits.float().chunk(2)
        loss = hinge_discriminator_loss(real_logits, fake_logits)
        penalty = self.args.lecam_weight * self.lecam(real_logits, fake_logits)
        for average in self.lecam.buffers():
            average.copy_(self.accelerator.reduce(average, "mean"))
        self.accelerator.backward((loss + penalty) / self.current_gradient_accumulation_steps)
        if self.accelerator.sync_gradients:
            schedule = self.optimizer.param_groups[0]  # a critic that keeps its rate while the other's falls wins
            share = schedule["lr"] / schedule["initial_lr"] if schedule["initial_lr"] else 1.0
            for group in self.discriminator_optimizer.param_groups:
                group["lr"] = share * self.args.discriminator_learning_rate
            self.discriminator_optimizer.step()
            self.discriminator_optimizer.zero_grad()
        return loss.detach()

    def _count_codes(self, codes: list[torch.Tensor], counts: torch.Tensor | None = None):
        """Adds codes, of each codebook in turn, to the counts of all codebooks behind one another."""
        counts = self.code_counts if counts is None else counts
        sizes = [quantizer.codebook.num_embeddings for quantizer in self._quantizers(self.model)]
        for part, used in zip(counts.split(sizes), codes):
            part += torch.bincount(used.flatten(), minlength=len(part))

    def _after_optimizer_step(self):
        model, step, args = self.accelerator.unwrap_model(self.model), self.state.global_step, self.args
        for quantizer in self._quantizers(model):
            if quantizer.latent_norm.training:  # fixed statistics are alike in all processes already
                for statistic in filter(torch.is_floating_point, quantizer.latent_norm.buffers()):
                    statistic.copy_(self.accelerator.reduce(statistic, "mean"))
        if args.even_pixels:
            even_out_pixels(model.decoder.pixel_decoder.conv_out, model.config.num_channels)
        self.ema.update_parameters(model)
        if args.revive_steps and step % args.revive_steps == 0:
            counts = self._take_code_counts()
            if args.train_only is None and step <= args.revive_until * self.state.max_steps:
                self._revive_dead_codes(counts)
        if args.train_only is None and step in args.revive_latents_steps:
            revived = torch.tensor(revive_latents(model, self._images), dtype=torch.float32, device=args.device)
            self.add_measures({"revived_latents": revived})  # a log of its own would stand in for that of the step

    def _take_code_counts(self) -> torch.Tensor:
        """How often each code has been used since the last call, by all processes."""
        counts = self.accelerator.reduce(self.code_counts)
        self.codebook_use = (counts > 0).float().mean().item()
        self.code_counts.zero_()
        return counts

    @torch.no_grad()
    def _revive_dead_codes(self, counts: torch.Tensor):
        """Moves the codes that no image has used onto random latents, the same ones in every process."""
        codebooks = [each.codebook.weight for each in self._quantizers(self.accelerator.unwrap_model(self.model))]
        for codebook, latents, used in zip(codebooks, self._latents, counts.split([len(each) for each in codebooks])):
            latents = latents.flatten(0, 1).to(codebook.dtype)
            picks = torch.randint(len(latents), (len(codebook),)).to(latents.device)
            replacement = broadcast(latents[picks] + 0.02 * torch.randn_like(codebook))
            codebook.copy_(torch.where((used == 0)[:, None], replacement, codebook))

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            if not self.args.revive_steps:
                self._take_code_counts()
            if self.codebook_use:  # known from the first revival on
                logs["codebook_use"] = self.codebook_use
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Measures the averaged weights at every candidate budget, or at `args.training_budgets` where they are given,
        and saves a picture grid. Reconstructions are clipped and rounded to 8 bits first, as everywhere else.

        Returns:
            `dict[str, float]`: `{prefix}_psnr_{budget}` in dB, `{prefix}_lpips_{budget}` where LPIPS is trained with,
            and `{prefix}_codebook_use`, the share of the codebook that the full codes of these images use.
        """
        model = self.ema.module.eval()
        psnr, lpips, used = defaultdict(list), defaultdict(list), torch.zeros_like(self.code_counts)
        rows = []
        for batch in self.get_eval_dataloader(eval_dataset):
            pixel_values = self._prepare_inputs(batch)["pixel_values"]
            codes, reconstructions = self._reconstruct_at_budgets(model, pixel_values)
            self._count_codes([self.accelerator.gather_for_metrics(each) for each in codes], used)
            column = [pixel_values]
            for budget, reconstruction in zip(self.training_budgets, reconstructions):
                reconstruction = to_pixel_values(to_uint8(reconstruction))
                error = (reconstruction - pixel_values).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
                psnr[budget].append(self.accelerator.gather_for_metrics(psnr_of_error(error, data_range=2)))
                if self.eval_lpips is not None:
                    distance = self.eval_lpips(reconstruction, pixel_values).flatten()
                    lpips[budget].append(self.accelerator.gather_for_metrics(distance))
                column.append(reconstruction)
            if sum(map(len, rows)) < self.args.grid_images:
                rows.append(torch.stack(column, dim=1)[: self.args.grid_images])
        metrics = {f"{metric_key_prefix}_psnr_{b}": torch.cat(v).mean().item() for b, v in psnr.items()}
        metrics |= {f"{metric_key_prefix}_lpips_{b}": torch.cat(v).mean().item() for b, v in lpips.items()}
        metrics[f"{metric_key_prefix}_codebook_use"] = (used > 0).float().mean().item()
        if rows and self.is_world_process_zero():
            self._save_grid(torch.cat(rows)[: self.args.grid_images])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _reconstruct_at_budgets(
        self, model: AdaTokModel, pixel_values: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """All codes of some images, of each codebook, and their pixels at each of the budgets."""
        codes = model.encode(pixel_values, budgets=model.config.num_latent_tokens).image_codes
        return [codes], [model.decode(codes, budgets=budget).pixel_values for budget in self.training_budgets]

    def _save_grid(self, pictures: torch.Tensor):
        """Writes pictures of shape `(rows, columns, 3, height, width)` as one image, each row original first."""
        folder = Path(self.args.output_dir) / "grids"
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_overs(folder)
        sheet = torch.cat(list(torch.cat(list(pictures.unbind(1)), dim=-1)), dim=-2)
        (sheet,) = self.processing_class.post_process(sheet[None])
        with whole_file(folder / f"step-{self.state.global_step:07d}.png") as path:
            sheet.save(path)

    def export(self, output_dir: str, metrics: dict):
        """
        Writes a complete checkpoint: averaged weights, configuration, code, image processor, metrics and model card.

        Args:
            output_dir (`str`): The folder, see [`~adatok_hf.checkpoint.save_checkpoint`].
            metrics (`dict`): See [`~adatok_hf.model_card.model_card`].

        Raises:
            `ValueError`: if a weight is not finite, so that nothing is written over what is there.
        """
        weights = self.ema.module.state_dict()
        if self.args.train_only is not None:  # the rest stays bit-identical, where averages lose the sign of a zero
            model = self.model.state_dict()
            weights |= {name: value for name, value in model.items() if name not in self._trained_names}
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ValueError(
                f"The training has diverged: weights are not finite after {self.state.global_step} steps, and "
                f"{output_dir} is left as it is. Start anew with a lower learning rate."
            )
        if self.args.export_half_precision:
            weights = {name: self._in_half_precision(name, value) for name, value in weights.items()}
        base = self.model.name_or_path  # folder of the weights that training started from, if any
        license = self.args.license or (read_license(Path(base)) if base else None)
        save_checkpoint(
            output_dir, self.ema.module, self.processing_class, metrics=metrics, license=license, state_dict=weights
        )

    def _in_half_precision(self, name: str, value: torch.Tensor) -> torch.Tensor:
        rounded = value.half() if value.is_floating_point() else value
        trained = self.args.train_only is None or name in self._trained_names
        # Of a model that is trained in part, the rest must load bit-identical, wherever it came from.
        return rounded if trained or torch.equal(rounded.to(value.dtype), value) else value

    def load_extra_state(self, state: dict):
        super().load_extra_state(state)
        self.ema.load_state_dict(state["ema"])
        self.lecam.load_state_dict(state["lecam"])
        self.code_counts.zero_()
        if self.is_world_process_zero():  # the sum over the processes, of which each has its part
            self.code_counts.copy_(state["code_counts"])
        self.codebook_use = state["codebook_use"]
        if self.discriminator is not None and "discriminator" in state:  # an earlier leg may have had no critic
            self.accelerator.unwrap_model(self.discriminator).load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def extra_state(self) -> dict:
        state = super().extra_state() | {
            "ema": self.ema.state_dict(),
            "lecam": self.lecam.state_dict(),
            "code_counts": self.accelerator.reduce(self.code_counts),
            "codebook_use": self.codebook_use,
        }
        if self.discriminator is not None:
            state["discriminator"] = self.accelerator.unwrap_model(self.discriminator).state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state


class _AfterOptimizerStep(TrainerCallback):
    def __init__(self, trainer: ReconstructionTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer._after_optimizer_step()
