"""The law of the budgets, the adversarial losses and the critic."""

import pytest
import torch

from adatok_hf.training.discriminator import PatchDiscriminator
from adatok_hf.training.losses import LeCamRegularizer, crop_together, draw_budgets, hinge_discriminator_loss


CANDIDATES = [4, 8, 16]


def test_budgets_are_half_candidates_and_half_uniform():
    torch.manual_seed(0)
    counts = torch.bincount(draw_budgets(48_000, CANDIDATES), minlength=17)
    for budget in range(1, 17):
        expected = 48_000 * (0.5 / 16 + (0.5 / 3 if budget in CANDIDATES else 0))
        # Five standard deviations of a binomial count: chance alone never leaves them.
        assert abs(counts[budget].item() - expected) < 5 * expected**0.5, budget
    assert counts[0] == 0 and len(counts) == 17


def test_a_share_of_the_images_keeps_all_codes():
    torch.manual_seed(0)
    full = (draw_budgets(48_000, CANDIDATES, full_share=0.4) == 16).float().mean().item()
    expected = 0.4 + 0.6 * (0.5 / 16 + 0.5 / 3)
    assert abs(full - expected) < 5 * (expected * (1 - expected) / 48_000) ** 0.5
    assert (draw_budgets(100, CANDIDATES, full_share=1.0) == 16).all()


def test_budgets_include_one_and_the_full_budget():
    torch.manual_seed(0)
    budgets = draw_budgets(2_000, [3, 7])
    assert (budgets.min().item(), budgets.max().item()) == (1, 7)


def test_budgets_are_drawn_per_image():
    torch.manual_seed(0)
    budgets = draw_budgets(64, CANDIDATES)
    assert budgets.shape == (64,) and budgets.dtype == torch.long
    assert len(budgets.unique()) > 5


def test_budgets_are_reproducible_by_seed():
    torch.manual_seed(1)
    first = draw_budgets(64, CANDIDATES)
    second = draw_budgets(64, CANDIDATES)
    torch.manual_seed(1)
    assert torch.equal(draw_budgets(64, CANDIDATES), first)
    assert not torch.equal(first, second)


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.0, 1.0])
    # Real: (0.5 + 0) / 2, fake: (0 + 1 + 2) / 3.
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 1.0))


def test_lecam_by_hand():
    lecam = LeCamRegularizer(decay=0.9)
    assert lecam(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0])).item() == pytest.approx(2.2**2 + 2.2**2)
    assert lecam.real_average.item() == pytest.approx(0.2)
    assert lecam.fake_average.item() == pytest.approx(-0.2)
    # The averages become 0.28 and -0.28.
    assert lecam(torch.tensor([1.0]), torch.tensor([-1.0])).item() == pytest.approx(1.28**2 + 1.28**2)
    # Real logits below the fakes' average, and fakes above that of the real ones, cost nothing.
    assert lecam(torch.tensor([-5.0]), torch.tensor([5.0])).item() == pytest.approx(0.0)


def test_lecam_gradient_reaches_the_logits_only():
    real, fake = torch.tensor([2.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    lecam = LeCamRegularizer(decay=0.5)
    lecam(real, fake).backward()
    assert real.grad.item() == pytest.approx(2 * 3.0) and fake.grad.item() == pytest.approx(-2 * 3.0)
    assert not lecam.real_average.requires_grad and not lecam.fake_average.requires_grad


@pytest.mark.parametrize(("size", "num_layers", "expected"), [(32, 3, 4), (64, 3, 8), (64, 2, 16)])
def test_critic_judges_patches(size, num_layers, expected):
    critic = PatchDiscriminator(hidden_size=8, num_layers=num_layers)
    assert critic(torch.zeros(2, 3, size, size)).shape == (2, 1, expected, expected)


def test_both_images_are_cut_at_the_same_place():
    torch.manual_seed(0)
    places = torch.arange(64.0).view(1, 1, 8, 8)
    corners = set()
    for _ in range(200):
        one, other = crop_together([places, places + 100], size=6)
        assert one.shape == (1, 1, 6, 6) and torch.equal(one + 100, other)
        corners.add(one[0, 0, 0, 0].item())
    assert corners == {0, 1, 2, 8, 9, 10, 16, 17, 18}
    assert torch.equal(crop_together([places], size=8)[0], places)
