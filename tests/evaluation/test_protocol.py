"""The preset of the papers: its crop, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from adatok_hf import AdaTokImageProcessor
from adatok_hf.evaluation.protocol import IMAGENET_50K, adm_center_crop, find_protocol


@pytest.fixture
def noise():
    """A random picture of a width and a height."""

    def make(width: int, height: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


def test_a_large_picture_is_halved_by_box_until_below_twice_the_size(noise):
    picture = noise(40, 32)  # 32 -> 16 -> 8 = twice 4 -> 4, no further
    expected = picture
    for size in ((20, 16), (10, 8), (5, 4)):
        expected = expected.resize(size, Image.Resampling.BOX)
    assert np.array_equal(adm_center_crop(picture, 4), np.asarray(expected)[:, :4])


def test_the_rest_is_bicubic_and_the_middle_is_kept(noise):
    picture = noise(31, 15)  # below twice 8: no halving; 15 -> 8 scales 31 to 17
    expected = np.asarray(picture.resize((17, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(adm_center_crop(picture, 8), expected[:, 4:12])
    assert np.array_equal(adm_center_crop(picture.transpose(Image.Transpose.TRANSPOSE), 8).size, (8, 8))


def test_a_small_picture_is_enlarged(noise):
    expected = noise(5, 6).resize((10, 12), Image.Resampling.BICUBIC).crop((0, 1, 10, 11))
    assert np.array_equal(adm_center_crop(noise(5, 6), 10), expected)


def test_a_crop_is_neither_turned_nor_resized_again(noise, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    noise(300, 280).save(tmp_path / "turned.png", exif=exif)
    crop = IMAGENET_50K.prepare(Image.open(tmp_path / "turned.png"))
    processor = AdaTokImageProcessor()
    pixels = processor(crop, return_tensors="pt")["pixel_values"]
    assert np.array_equal(processor.post_process(pixels)[0], crop)
    assert np.array_equal(crop, adm_center_crop(noise(300, 280), 256))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_are_cropped_as_rgb(mode):
    assert adm_center_crop(Image.new(mode, (30, 20)), 8).mode == "RGB"


def test_models_of_another_size_and_other_numbers_of_images_are_refused():
    IMAGENET_50K.check_model(256)
    IMAGENET_50K.check_images(50_000)
    with pytest.raises(ValueError, match="imagenet-50k is for models of 256 px; this one has 64 px"):
        IMAGENET_50K.check_model(64)
    with pytest.raises(ValueError, match="needs exactly 50,000 images; got 49,999"):
        IMAGENET_50K.check_images(49_999)


def test_the_protocol_says_what_it_does():
    text = IMAGENET_50K.describe()
    for word in ("50,000", "ADM", "256 x 256", "2015-12-05", "torch-fidelity", "validation"):
        assert word in text


def test_protocols_are_found_by_name():
    assert find_protocol("imagenet-50k") is IMAGENET_50K and find_protocol(None) is None
    with pytest.raises(ValueError, match="--protocol must be imagenet-50k, or left out; got 'coco'"):
        find_protocol("coco")
