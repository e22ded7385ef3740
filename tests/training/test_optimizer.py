"""Muon for the matrices of the layers beside AdamW for the rest."""

import copy

import pytest
import torch
from torch import nn

from adatok_hf.training.optimizer import MuonWithAdamW


@pytest.fixture
def make_optimizer():
    """Makes a small network and its optimizer, the same at each call."""

    def make(lr: float = 0.1) -> tuple[nn.Linear, MuonWithAdamW]:
        torch.manual_seed(0)
        network = nn.Linear(6, 4)
        return network, MuonWithAdamW([network.weight], [network.bias], lr=lr)

    return make


def take_step(network: nn.Linear, optimizer: MuonWithAdamW):
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    network(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_an_update_of_a_matrix_is_nearly_orthogonal(make_optimizer):
    network, optimizer = make_optimizer()
    before = network.weight.detach().clone()
    take_step(network, optimizer)
    singular_values = torch.linalg.svdvals(before - network.weight.detach())
    assert singular_values.min() > 0.5 * singular_values.max() > 0


def test_matrix_and_vector_move_by_similar_amounts(make_optimizer):
    network, optimizer = make_optimizer()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    take_step(network, optimizer)
    matrix, vector = ((old - new.detach()).square().mean().sqrt() for old, new in zip(before, network.parameters()))
    assert 0.1 < matrix / vector < 1


def test_adamw_can_have_a_rate_of_its_own(make_optimizer):
    network, _ = make_optimizer()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    take_step(network, MuonWithAdamW([network.weight], [network.bias], lr=0.1, adamw_lr=0.0))
    matrix_moved, vector_moved = (
        not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)
    )
    assert matrix_moved and not vector_moved


def test_a_scheduler_moves_the_learning_rate_of_both(make_optimizer):
    network, optimizer = make_optimizer()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    take_step(network, optimizer)
    scheduler.step()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    take_step(network, optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters()))


def test_a_restored_optimizer_goes_on_alike(make_optimizer):
    network, optimizer = make_optimizer()
    take_step(network, optimizer)
    other_network, other = make_optimizer(lr=0.7)
    other_network.load_state_dict(network.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((network, optimizer), (other_network, other)):
        take_step(*pair)
    assert torch.equal(network.weight, other_network.weight) and torch.equal(network.bias, other_network.bias)
    other.param_groups[0]["lr"] = 0.0
    before = other_network.weight.detach().clone()
    take_step(other_network, other)
    assert torch.equal(before, other_network.weight)


def test_what_has_no_two_dimensions_is_refused():
    with pytest.raises(ValueError, match="2D"):
        MuonWithAdamW([nn.Parameter(torch.zeros(3))], [nn.Parameter(torch.zeros(3))], lr=0.1)
