"""LPIPS from a folder, and the sentence when there are no weights."""

import lpips
import pytest
import torch
from fresh_process import FreshProcess
from safetensors.torch import save_file

from adatok_hf.metrics.perceptual import BACKBONE_FILES, MIN_SIZES, has_lpips, load_lpips


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equals_the_library_with_the_same_backbone(net, tmp_path, backbone_features, monkeypatch):
    features = backbone_features(net)
    save_file(features, tmp_path / BACKBONE_FILES[net])
    network = load_lpips(net, tmp_path)

    torchvision_models = lpips.pretrained_networks.tv
    name = {"alex": "alexnet", "vgg": "vgg16"}[net]
    make = getattr(torchvision_models, name)

    def downloaded(pretrained):
        backbone = make(weights=None)
        backbone.load_state_dict({key: value.float() for key, value in features.items()}, strict=False)
        return backbone

    monkeypatch.setattr(torchvision_models, name, downloaded)
    reference = lpips.LPIPS(net=net, verbose=False).eval()
    one, other = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    with torch.no_grad():
        distances = network(one, other)
        assert torch.equal(distances, reference(one, other))
    assert distances.shape == (2, 1, 1, 1) and (distances > 0).all()


def test_is_frozen_and_in_evaluation_mode(weights_dir):
    network = load_lpips("alex", weights_dir)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_too_small_images_are_one_sentence(net, tmp_path, backbone_features, one_sentence):
    save_file(backbone_features(net), tmp_path / BACKBONE_FILES[net])
    network, size = load_lpips(net, tmp_path), MIN_SIZES[net]
    assert network(*torch.zeros(2, 1, 3, size, size)).isfinite().all()
    with one_sentence(f"at least {size} pixels", f"have {size - 1}"):
        network(*torch.zeros(2, 1, 3, size, size - 1))


def test_folder_is_read_from_the_environment(weights_dir, monkeypatch):
    monkeypatch.setenv("ADATOK_WEIGHTS_DIR", str(weights_dir))
    images = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(load_lpips("alex")(*images), load_lpips("alex", weights_dir)(*images))


def test_a_network_is_at_hand_where_its_file_is(weights_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ADATOK_WEIGHTS_DIR", str(tmp_path))
    assert not has_lpips() and has_lpips(weights_dir=weights_dir)
    monkeypatch.setenv("ADATOK_WEIGHTS_DIR", str(weights_dir))
    assert has_lpips() and not has_lpips("vgg")


def test_unknown_backbone(weights_dir, one_sentence):
    with one_sentence("'squeeze'", "alex", "vgg"):
        load_lpips("squeeze", weights_dir)


def test_folder_without_the_file(tmp_path, one_sentence):
    with one_sentence(str(tmp_path / BACKBONE_FILES["vgg"]), "ADATOK_WEIGHTS_DIR"):
        load_lpips("vgg", tmp_path)


def test_file_that_is_no_backbone(tmp_path, one_sentence):
    save_file({"classifier.weight": torch.zeros(2, 2)}, tmp_path / BACKBONE_FILES["alex"])
    with one_sentence(BACKBONE_FILES["alex"]):
        load_lpips("alex", tmp_path)


def test_damaged_file(tmp_path, one_sentence):
    (tmp_path / BACKBONE_FILES["alex"]).write_bytes(b"not safetensors")
    with one_sentence(BACKBONE_FILES["alex"]):
        load_lpips("alex", tmp_path)


def test_offline_without_a_folder(tmp_path):
    with FreshProcess(tmp_path, [], TORCH_HOME=str(tmp_path / "torch")) as process:
        error = process.fail("""
            import os, socket
            os.environ.pop("ADATOK_WEIGHTS_DIR", None)
            def refuse(*args, **kwargs):
                raise OSError("no network")
            socket.getaddrinfo = socket.create_connection = refuse
            from adatok_hf.metrics.perceptual import load_lpips
            load_lpips("alex")
        """)
    assert error.startswith("ValueError: ") and BACKBONE_FILES["alex"] in error and "ADATOK_WEIGHTS_DIR" in error
    assert "\n" not in error and error.endswith(".")
