"""Adversarial losses of stage 1, and the law of the budgets it trains."""

from collections.abc import Sequence

import torch
from torch import nn


def draw_budgets(
    batch_size: int,
    candidate_budgets: Sequence[int],
    device: torch.device | None = None,
    full_share: float = 0.0,
) -> torch.Tensor:
    """
    Nested tail masking: one budget per image, half from the candidates, half uniform over 1..B, where B is the
    last candidate, which is included. Few images keep the last tokens then, which learn slowly; with `full_share`
    some keep all B whatever was drawn.

    Args:
        batch_size (`int`): Number of images.
        candidate_budgets (`Sequence[int]`): Ascending; normally the model's candidates, so that the last one is N.
        device (`torch.device`, *optional*): Where the result goes; the draw itself is made on the CPU.
        full_share (`float`, *optional*, defaults to 0.0): Probability in [0, 1] that an image keeps all B.

    Returns:
        `torch.LongTensor` of shape `(batch_size,)`.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.training.losses import draw_budgets

    >>> _ = torch.manual_seed(0)
    >>> budgets = draw_budgets(1000, [8, 16, 32])
    >>> budgets.min().item(), budgets.max().item(), 0.5 < (budgets % 8 == 0).float().mean().item() < 0.65
    (1, 32, True)

    ```"""
    candidates = torch.tensor(candidate_budgets)
    from_candidates = candidates[torch.randint(len(candidates), (batch_size,))]
    uniform = torch.randint(1, int(candidates[-1]) + 1, (batch_size,))
    budgets = torch.where(torch.rand(batch_size) < 0.5, from_candidates, uniform)
    if full_share:
        budgets = torch.where(torch.rand(batch_size) < full_share, candidates[-1], budgets)
    return budgets.to(device)


def shift_together(images: list[torch.Tensor], max_shift: int = 8) -> list[torch.Tensor]:
    """
    Moves batches of images by the same random number of pixels, their edges reflected.

    A strided network such as the backbone of LPIPS rewards patterns that sit on its grid, and a decoder learns to
    paint them; on a grid that moves they do not pay.

    Args:
        images (`list[torch.Tensor]`): Of shape `(batch, channels, height, width)`.
        max_shift (`int`, *optional*, defaults to 8): Largest shift in pixels, at most the stride of the network.

    Returns:
        `list[torch.Tensor]`: of shape `(batch, channels, height + max_shift, width + max_shift)`.

    Source: huggingface.co/papers/1906.03973
    """
    top, left = torch.randint(0, max_shift + 1, (2,)).tolist()
    padding = (left, max_shift - left, top, max_shift - top)
    return [nn.functional.pad(image, padding, mode="reflect") for image in images]


def crop_together(images: list[torch.Tensor], size: int) -> list[torch.Tensor]:
    """
    Cuts the same random square out of batches of images. Like [`shift_together`] it moves the grid of a strided
    network, and it makes an expensive one cheaper.

    Args:
        images (`list[torch.Tensor]`): Of shape `(batch, channels, height, width)`.
        size (`int`): Side of the square in pixels, at most height and width.

    Returns:
        `list[torch.Tensor]`: of shape `(batch, channels, size, size)`.
    """
    height, width = images[0].shape[-2:]
    top = int(torch.randint(0, height - size + 1, ()))
    left = int(torch.randint(0, width - size + 1, ()))
    return [image[..., top : top + size, left : left + size] for image in images]


def hinge_discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Scalar hinge loss that pushes real logits above 1 and fake ones below -1 (huggingface.co/papers/1705.02894)."""
    return 0.5 * (nn.functional.relu(1 - real_logits).mean() + nn.functional.relu(1 + fake_logits).mean())


class LeCamRegularizer(nn.Module):
    """
    Holds the discriminator's mean logits near the moving average of the opposite side, which keeps it from winning on
    little data.

    Args:
        decay (`float`, *optional*, defaults to 0.999): Decay of the moving averages, in [0, 1).

    Source: huggingface.co/papers/2104.03310
    """

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("real_average", torch.zeros(()))
        self.register_buffer("fake_average", torch.zeros(()))

    def forward(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Scalar penalty; updates the averages."""
        real_mean, fake_mean = real_logits.float().mean(), fake_logits.float().mean()
        self.real_average.lerp_(real_mean.detach(), 1 - self.decay)
        self.fake_average.lerp_(fake_mean.detach(), 1 - self.decay)
        return (
            nn.functional.relu(real_mean - self.fake_average).square()
            + nn.functional.relu(self.real_average - fake_mean).square()
        )
