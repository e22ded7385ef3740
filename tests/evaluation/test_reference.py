"""Statistics of real images: what is stored, and what is refused."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from adatok_hf import AdaTokImageProcessor
from adatok_hf.evaluation.protocol import IMAGENET_50K
from adatok_hf.evaluation.reference import Provenance, ReferenceStatistics, describe_preprocessing, hash_image_list
from adatok_hf.metrics.perceptual import find_weights


PROVENANCE = Provenance(
    data="photos",
    split="validation",
    num_images=5000,
    image_list_hash="0" * 64,
    image_size=64,
    preprocessing="centre crop",
    evaluator={"name": "Inception", "version": "1", "weights_sha256": "a" * 64},
)


@pytest.fixture
def statistics() -> ReferenceStatistics:
    torch.manual_seed(0)
    return ReferenceStatistics(torch.randn(6).double(), torch.randn(6, 6).double(), PROVENANCE)


def test_statistics_survive_a_file_bit_for_bit(statistics, tmp_path):
    statistics.save(tmp_path / "photos.safetensors")
    loaded = ReferenceStatistics.load(tmp_path / "photos.safetensors")
    assert torch.equal(loaded.mean, statistics.mean) and torch.equal(loaded.covariance, statistics.covariance)
    assert loaded.provenance == PROVENANCE and loaded.n == 5000
    loaded.check(64, "centre crop", PROVENANCE.evaluator)
    assert [path.name for path in tmp_path.iterdir()] == ["photos.safetensors"]


@pytest.mark.parametrize(
    "wanted, reason",
    [
        ({"image_size": 128}, "another image size: image_size is 64 there and 128 here"),
        ({"preprocessing": "squeezed"}, "another preprocessing"),
        ({"evaluator": PROVENANCE.evaluator | {"weights_sha256": "b" * 64}}, "another evaluator"),
        ({"evaluator": PROVENANCE.evaluator | {"version": "2"}}, "another evaluator"),
    ],
)
def test_statistics_of_something_else_are_refused(statistics, wanted, reason):
    fitting = {"image_size": 64, "preprocessing": "centre crop", "evaluator": PROVENANCE.evaluator}
    with pytest.raises(ValueError, match=re.escape(reason)):
        statistics.check(**fitting | wanted)


def test_files_that_hold_no_statistics_are_refused(statistics, tmp_path):
    with pytest.raises(ValueError, match="No reference statistics at"):
        ReferenceStatistics.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="must end in .safetensors"):
        statistics.save(tmp_path / "photos.npz")
    save_file({"mean": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no reference statistics"):
        ReferenceStatistics.load(tmp_path / "other.safetensors")
    statistics.save(tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="are damaged"):
        ReferenceStatistics.load(tmp_path / "cut.safetensors")


def test_statistics_without_meaning_are_refused(statistics):
    with pytest.raises(ValueError, match="needs a covariance of shape"):
        ReferenceStatistics(torch.zeros(2), torch.zeros(3, 3), PROVENANCE)
    with pytest.raises(ValueError, match="must be finite"):
        ReferenceStatistics(torch.tensor([torch.nan, 0]), torch.eye(2), PROVENANCE)
    with pytest.raises(ValueError, match="at least two images; these are of 1"):
        ReferenceStatistics(torch.zeros(2), torch.eye(2), replace(PROVENANCE, num_images=1))


def test_the_preprocessing_tells_sizes_and_crops_apart():
    sizes = [AdaTokImageProcessor(size={"shortest_edge": edge}).to_dict() for edge in (256, 300)]
    described = [describe_preprocessing(AdaTokImageProcessor(**values)) for values in sizes]
    described.append(describe_preprocessing(AdaTokImageProcessor(**sizes[0]), IMAGENET_50K))
    assert len(set(described)) == 3


def test_the_image_list_hash_knows_the_order():
    hashes = torch.arange(64, dtype=torch.uint8).view(2, 32)
    assert hash_image_list(hashes) != hash_image_list(hashes.flip(0))
    assert hash_image_list(hashes) == hash_image_list(hashes.clone())


def test_weights_are_looked_for_where_networks_take_them_from(tmp_path, monkeypatch):
    monkeypatch.delenv("ADATOK_WEIGHTS_DIR", raising=False)
    assert find_weights(None, "a.safetensors", "a.pth").name == "a.pth"
    monkeypatch.setenv("ADATOK_WEIGHTS_DIR", str(tmp_path))
    assert find_weights(None, "a.safetensors", "a.pth") == tmp_path / "a.safetensors"
    assert find_weights(tmp_path / "named", "a.safetensors", "a.pth") == tmp_path / "named" / "a.safetensors"
