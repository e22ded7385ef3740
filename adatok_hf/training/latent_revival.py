"""Waking latent tokens that the decoder has learned to ignore."""

import torch
from accelerate.utils import broadcast, reduce

from ..modeling import AdaTokModel


@torch.no_grad()
def latent_influence(model: AdaTokModel, image_codes: torch.Tensor) -> torch.Tensor:
    """
    Measures how much each code changes the picture: the mean squared change of the pixels, at the full budget, when
    that code alone is exchanged for the one of another image.

    Args:
        model ([`AdaTokModel`]): The model.
        image_codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): Without pad codes; at least two images.

    Returns:
        `torch.FloatTensor` of shape `(num_latent_tokens,)`.
    """
    full_budget = image_codes.shape[1]
    pixels = model.decode(image_codes, budgets=full_budget).pixel_values
    influence = []
    for position in range(full_budget):
        exchanged = image_codes.clone()
        exchanged[:, position] = image_codes[:, position].roll(1)
        change = model.decode(exchanged, budgets=full_budget).pixel_values - pixels
        influence.append(change.float().square().mean())
    return torch.stack(influence)


@torch.no_grad()
def revive_latents(model: AdaTokModel, pixel_values: torch.Tensor, threshold: float = 0.05, noise: float = 0.5) -> int:
    """
    Restarts latent tokens without influence as noisy copies of those with the most, which the decoder already reads;
    from there they grow apart. All processes make the same copies.

    Args:
        model ([`AdaTokModel`]): The model, changed in place.
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`): Images in [-1, 1].
        threshold (`float`, *optional*, defaults to 0.05): A token is dead below this share of the mean influence.
        noise (`float`, *optional*, defaults to 0.5): Noise on a copy, in standard deviations of the original.

    Returns:
        `int`: how many tokens were restarted.
    """
    was_training = model.training
    model.eval()
    full_budget = model.config.num_latent_tokens
    influence = reduce(latent_influence(model, model.encode(pixel_values, budgets=full_budget).image_codes), "mean")
    model.train(was_training)
    dead = (influence < threshold * influence.mean()).nonzero().flatten().tolist()
    alive = influence.argsort(descending=True)[: full_budget - len(dead)].tolist()
    norm = model.quantizer.latent_norm
    statistics = [value.view(full_budget, -1) for value in filter(torch.is_floating_point, norm.buffers())]
    for index, position in enumerate(dead):
        source = alive[index % len(alive)]
        for embedding in (model.encoder.latent_tokens[0], model.decoder.latent_position_embedding[0]):
            original = embedding[source]
            copy = original + noise * original.std() * torch.randn(original.shape).to(original)
            embedding[position] = broadcast(copy)
        for statistic in statistics:
            statistic[position] = statistic[source]
    return len(dead)
