"""Every recorded original, and one of each kind."""

import pytest
from originals import WEIGHTS, Original, read_original


@pytest.fixture(scope="session", params=list(WEIGHTS))
def variant(request) -> Original:
    """Every variant of which results are recorded."""
    return read_original(request.param)


@pytest.fixture
def two_stage() -> Original:
    """A variant with a pixel decoder."""
    return read_original("titok_s128")


@pytest.fixture
def one_stage() -> Original:
    """A variant without."""
    return read_original("titok_sl256_vq8k")


@pytest.fixture
def one_d_piece() -> Original:
    return read_original("one-d-piece_s256")
