"""PSNR, SSIM and LPIPS per image: as torchmetrics and lpips have them."""

import lpips
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from adatok_hf.metrics.images import to_images
from adatok_hf.metrics.pairs import PairMetrics, perceptual_distance, psnr, ssim
from adatok_hf.metrics.perceptual import load_lpips


@pytest.fixture(scope="module")
def network(weights_dir):
    return load_lpips("alex", weights_dir)


def test_psnr_equals_torchmetrics(pairs):
    images, noisy = pairs
    for value, image, other in zip(psnr(images, noisy), images, noisy):
        library = peak_signal_noise_ratio(other / 255, image / 255, data_range=1.0)
        assert value.item() == pytest.approx(library.item(), abs=1e-4) and 15 < value < 45


def test_ssim_equals_torchmetrics(pairs):
    images, noisy = pairs
    for value, image, other in zip(ssim(images, noisy), images, noisy):
        first, second = other[None].double() / 255, image[None].double() / 255
        library = structural_similarity_index_measure(first, second, data_range=1.0)
        assert value.item() == pytest.approx(library.item(), abs=1e-12) and 0.1 < value < 0.999
        in_single_precision = structural_similarity_index_measure(first.float(), second.float(), data_range=1.0)
        assert value.item() == pytest.approx(in_single_precision.item(), abs=1e-4)


def test_lpips_equals_the_library(pairs, network):
    images, noisy = pairs
    with torch.no_grad():
        for value, image, other in zip(perceptual_distance(network, images, noisy), images, noisy):
            tensors = (lpips.im2tensor(picture.permute(1, 2, 0).numpy()) for picture in (image, other))
            assert value.item() == pytest.approx(network(*tensors).item(), abs=1e-6) and value > 1e-4


def test_equal_images(pairs, network):
    values = PairMetrics(network).measure(pairs[0], pairs[0])
    assert values["psnr"].isinf().all()
    assert torch.equal(values["ssim"], torch.ones(7, dtype=torch.float64))
    assert torch.equal(values["lpips"], torch.zeros(7))


def test_only_what_is_wanted_is_measured(pairs, network):
    assert list(PairMetrics(network, ["lpips"]).measure(*pairs)) == ["lpips"]
    tiny = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)  # too small for the window of SSIM
    assert list(PairMetrics(names=["psnr"]).measure(tiny, tiny)) == ["psnr"]
    assert PairMetrics(names=[]).measure(*pairs) == {}


def test_equal_flat_images_are_similar_exactly():
    white = torch.full((1, 3, 64, 64), 250, dtype=torch.uint8)
    white[..., 20:40, 20:40] = 100
    assert ssim(white, white).item() == pytest.approx(1, abs=1e-12)


def test_one_number_per_image_whatever_its_batch(pairs, network):
    whole = PairMetrics(network).measure(*pairs)
    assert list(whole) == ["psnr", "ssim", "lpips"] and list(PairMetrics().measure(*pairs)) == ["psnr", "ssim"]
    for index in range(7):
        alone = PairMetrics(network).measure(*(images[index : index + 1] for images in pairs))
        assert alone["psnr"][0] == pytest.approx(whole["psnr"][index].item(), abs=1e-9)
        assert alone["ssim"][0] == whole["ssim"][index]
        assert alone["lpips"][0] == pytest.approx(whole["lpips"][index].item(), abs=1e-6)


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda images: images[:, :, :39], ("(7, 3, 40, 32)", "(7, 3, 39, 32)")),
        (lambda images: images[:6], ("(7, 3, 40, 32)", "(6, 3, 40, 32)")),
        (lambda images: images / 255, ("uint8", "torch.float32", "round")),
        (lambda images: images * float("nan"), ("uint8", "torch.float32", "round")),
        (lambda images: images[:0], ("no images", "(0, 3, 40, 32)")),
        (lambda images: images[:, :1], ("three channels", "(7, 1, 40, 32)")),
        (lambda images: images[0], ("four dimensions", "(3, 40, 32)")),
    ],
)
def test_reconstructions_that_are_no_images_of_that_size(pairs, one_sentence, change, parts):
    with one_sentence(*parts):
        PairMetrics().measure(pairs[0], change(pairs[1]))
    if "four" not in parts[0]:
        with one_sentence(*parts[1:2]):
            PairMetrics().measure(change(pairs[0]), pairs[1])


def test_images_smaller_than_the_window(network, one_sentence):
    small = torch.zeros(1, 3, 10, 31, dtype=torch.uint8)
    with one_sentence("11 x 11", "(10, 31)"):
        ssim(small, small)
    small = torch.zeros(1, 3, 40, 30, dtype=torch.uint8)
    with one_sentence("31 pixels", "30"):
        perceptual_distance(network, small, small)


def test_a_network_that_gives_nan(pairs, one_sentence):
    with one_sentence("NaN", "weights"):
        perceptual_distance(lambda first, second: (first - second).mean(dim=(1, 2, 3)) * float("nan"), *pairs)


def test_arrays_tensors_and_pictures_are_the_same_images(pairs):
    channels_last = pairs[0].permute(0, 2, 3, 1)
    array = channels_last.numpy()
    for images in (channels_last, array, list(array), [Image.fromarray(image) for image in array]):
        assert torch.equal(to_images(images), pairs[0])
