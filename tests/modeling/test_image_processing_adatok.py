"""The image processor: any picture in, pixel values in [-1, 1] out, and back, with torchvision or without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from adatok_hf import AdaTokImageProcessor, AdaTokImageProcessorPil
from adatok_hf.modeling.image_processing_adatok import MAX_ASPECT_RATIO


SAMPLES = Path(__file__).parents[2] / "adatok_hf" / "samples"
SIZES = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
WITHOUT_PACKAGES = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {hidden}:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


@pytest.fixture(params=[AdaTokImageProcessor, AdaTokImageProcessorPil])
def processor(request):
    return request.param(**SIZES)


@pytest.fixture
def pixels() -> np.ndarray:
    """32 x 32 RGB, uint8: neither resized nor cropped by `processor`, so that values can be compared exactly."""
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def levels(processor, image, **kwargs) -> np.ndarray:
    """Pixel values of one image as levels 0..255, `(height, width, 3)`."""
    pixel_values = processor(image, return_tensors="pt", **kwargs).pixel_values
    assert pixel_values.dtype == torch.float32 and pixel_values.shape == (1, 3, 32, 32)
    return ((pixel_values[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()


def run_fresh(code: str, hidden: set[str], folder: Path) -> dict:
    """Runs code in a new interpreter to which the hidden packages are not installed; gives what it prints as JSON."""
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGES.replace("{hidden}", repr(hidden)) + code, str(folder)]
    env = {**os.environ, "HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_defaults_give_256_pixels_in_minus_one_to_one():
    landscape = Image.open(SAMPLES / "13_landscape.webp").resize((700, 300))
    for processor in (AdaTokImageProcessor(), AdaTokImageProcessorPil()):
        pixel_values = processor([landscape, landscape], return_tensors="pt").pixel_values
        assert pixel_values.shape == (2, 3, 256, 256) and pixel_values.dtype == torch.float32
        assert pixel_values.min() >= -1 and pixel_values.max() <= 1


def test_bicubic_overshoot_stays_in_range(processor):
    edges = np.kron(np.indices((9, 9)).sum(axis=0) % 2, np.ones((5, 5))).astype(np.uint8) * 255
    pixel_values = processor(edges, return_tensors="pt").pixel_values
    assert pixel_values.min() == -1 and pixel_values.max() == 1


@pytest.mark.parametrize("size", [24, 64, 200, 256, 400])
def test_backends_agree_within_two_levels_on_real_pictures(size):
    arguments = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    for name in ("08_text.png", "15_foliage.webp"):
        picture = Image.open(SAMPLES / name).crop((0, 0, 256, 231))
        first, second = (
            cls(**arguments)(picture, return_tensors="pt").pixel_values
            for cls in (AdaTokImageProcessor, AdaTokImageProcessorPil)
        )
        assert (first - second).abs().max() * 127.5 <= 2.001


def test_the_middle_is_kept_and_the_aspect_ratio_too(processor):
    picture = np.zeros((32, 96, 3), dtype=np.uint8)
    picture[:, 32:64] = 255
    assert (levels(processor, picture) == 255).all()


def test_an_int_as_size_is_the_shortest_edge():
    processor = AdaTokImageProcessorPil(size=32, crop_size=32)
    assert dict(processor.size) == {"shortest_edge": 32} and dict(processor.crop_size) == {"height": 32, "width": 32}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_pil_mode_looks_as_pil_shows_it(processor, pixels, mode):
    picture = Image.fromarray(pixels).convert(mode)
    assert np.abs(levels(processor, picture) - np.asarray(picture.convert("RGB"))).max() <= 1


def test_transparent_pixels_are_laid_over_white(processor):
    quarter = Image.new("RGBA", (32, 32), (0, 0, 0, 64))
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = 1
    grey = Image.new("LA", (32, 32), (0, 0))
    keyed = Image.new("RGB", (32, 32), (9, 9, 9))
    keyed.info["transparency"] = (9, 9, 9)
    assert (levels(processor, quarter) == 191).all()
    for picture in (palette, grey, keyed):
        assert (levels(processor, picture) == 255).all()
    assert (levels(processor, np.asarray(quarter)) == 191).all()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_pictures_are_scaled_not_clipped(processor, mode):
    values = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    picture = Image.fromarray(values)
    picture = picture if mode == "I;16" else picture.convert("I")
    assert picture.mode == mode
    assert (levels(processor, picture)[..., 0] == np.rint(values / 257)).all()


def test_the_transparent_grey_of_sixteen_bits_is_white(processor):
    picture = Image.fromarray(np.full((32, 32), 300, dtype=np.uint16))
    picture.info["transparency"] = 300
    assert (levels(processor, picture) == 255).all()


def test_float_pictures_may_be_in_zero_to_one(processor, pixels):
    picture = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    assert picture.mode == "F" and (levels(processor, picture)[..., 1] == pixels[..., 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pictures_and_paths(processor, pixels, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)
    turns = [
        lambda p: p,
        lambda p: p[:, ::-1],
        lambda p: p[::-1, ::-1],
        lambda p: p[::-1],
        lambda p: p.transpose(1, 0, 2),
        lambda p: p.transpose(1, 0, 2)[:, ::-1],
        lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        lambda p: p.transpose(1, 0, 2)[::-1],
    ]
    upright = turns[orientation - 1](pixels)
    for image in (Image.open(path), path, str(path)):
        assert (levels(processor, image) == upright).all()


def test_a_path_is_read_like_the_picture_it_holds(processor, tmp_path):
    path = tmp_path / "glass.png"
    Image.new("RGBA", (32, 32), (0, 0, 0, 64)).save(path)
    assert (levels(processor, str(path)) == 191).all()


def arrays_of(pixels: np.ndarray) -> list:
    tensor = torch.from_numpy(pixels)
    ratio = pixels / 255
    return [
        pixels,
        pixels.transpose(2, 0, 1),
        np.dstack([pixels, np.full((32, 32), 255, np.uint8)]),
        pixels.astype(np.uint16) * 257,
        pixels.astype(">u2") * 257,
        ratio,
        ratio.astype(np.float32),
        ratio.astype(np.float16),
        tensor,
        tensor.permute(2, 0, 1),
        torch.from_numpy(pixels.astype(np.uint16) * 257),
        torch.from_numpy(ratio).permute(2, 0, 1),
        torch.from_numpy(ratio).permute(2, 0, 1).float().requires_grad_(),
        torch.from_numpy(ratio).half(),
    ]


@pytest.mark.parametrize("index", range(14))
def test_every_array_form_gives_the_same_levels(processor, pixels, index):
    assert (levels(processor, arrays_of(pixels)[index]) == pixels).all()


def test_bfloat16_tensors_are_read_to_their_precision(processor, pixels):
    ratio = torch.from_numpy(pixels / 255).to(torch.bfloat16)
    assert np.abs(levels(processor, ratio) - pixels).max() <= 1


def test_grey_arrays_fill_three_channels(processor, pixels):
    grey = pixels[..., 0]
    for image in (grey, grey[..., None], grey[None], torch.from_numpy(grey), torch.from_numpy(grey)[None] / 255):
        assert (levels(processor, image) == grey[..., None]).all()


def test_input_data_format_settles_where_the_channels_are(processor):
    array = np.random.default_rng(1).integers(0, 256, (3, 32, 3), dtype=np.uint8)
    small = {"size": {"shortest_edge": 3}, "crop_size": {"height": 3, "width": 3}}
    first = processor(array, input_data_format="channels_first", return_tensors="pt", **small).pixel_values
    last = processor(array, input_data_format="channels_last", return_tensors="pt", **small).pixel_values
    inferred = processor(array, return_tensors="pt", **small).pixel_values
    assert not torch.equal(first, last) and torch.equal(inferred, last)


def test_batches_lists_and_mixed_lists_are_flattened(processor, pixels):
    batch = np.stack([pixels, pixels])
    mixed = [Image.fromarray(pixels), pixels[..., 0], torch.from_numpy(batch).permute(0, 3, 1, 2), [pixels]]
    assert processor(batch, return_tensors="pt").pixel_values.shape == (2, 3, 32, 32)
    result = processor(mixed, return_tensors="pt").pixel_values
    assert result.shape == (5, 3, 32, 32)
    assert torch.equal(result[0], result[2]) and torch.equal(result[0], result[4])


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.full((32, 32, 3), 1.5), r"must lie in \[0, 1\]; got values in \[0.0, 1.5\]"),
        (np.full((32, 32, 3), 200.0, np.float32), r"must lie in \[0, 1\]; got values in \[0.0, 200.0\]"),
        (np.full((32, 32, 3), -0.1), r"got values in \[-0.1, 0.0\]"),
        (torch.full((3, 32, 32), float("inf")), r"got values in \[0.0, inf\]"),
        (np.full((32, 32, 3), np.nan), "must not contain NaN"),
        (torch.full((3, 32, 32), float("nan"), dtype=torch.float16), "must not contain NaN"),
        (Image.fromarray(np.full((32, 32), np.nan, np.float32)), "must not contain NaN"),
        (Image.fromarray(np.full((32, 32), -5, np.int32)), r"got values in \[-5, 0\]"),
        (Image.fromarray(np.full((32, 32), 70000, np.int32)), r"must lie in \[0, 65535\]"),
        (np.full((32, 32, 3), 7, np.int64), r"got int64 in \[7, 7\]"),
        (np.zeros((32, 32, 3), bool), "got bool"),
        (np.zeros((32, 32, 2), np.uint8), r"1, 3 or 4 channels, first or last; got shape \(32, 32, 2\)"),
        (np.zeros((32,), np.uint8), r"got shape \(32,\)"),
        (np.zeros((0, 32, 3), np.uint8), "must have pixels"),
        (np.zeros((2, 2 * MAX_ASPECT_RATIO + 1), np.uint8), "aspect ratio of at most 200; got 401x2"),
        (None, "got <class 'NoneType'>"),
        ([], "At least one image"),
        ("missing.png", "missing.png cannot be read as an image file"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(processor, image, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        processor(image, return_tensors="pt")
    assert "\n" not in str(refused.value)


def test_a_truncated_picture_is_refused(processor, pixels, tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    for image in (path, Image.open(path)):
        with pytest.raises(ValueError, match="cannot be (read|decoded)"):
            processor(image)


def test_rescaling_cannot_be_switched_off_alone(processor, pixels):
    with pytest.raises(ValueError, match="must stay True.*do_rescale=False"):
        processor(pixels, do_rescale=False)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3), ("P", 3), ("CMYK", 3), ("RGBA", 4)])
def test_without_conversion_to_rgb_the_channels_stay(processor, pixels, mode, channels):
    picture = Image.fromarray(pixels).convert(mode)
    kept = picture if mode in ("L", "RGB", "RGBA") else picture.convert("L" if channels == 1 else "RGB")
    array = np.asarray(kept).reshape(32, 32, channels)
    ranges = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    for image in (picture, array, torch.from_numpy(array.transpose(2, 0, 1).copy())):
        values = processor(image, do_convert_rgb=False, return_tensors="pt", **ranges).pixel_values
        assert values.shape == (1, channels, 32, 32)
        assert (((values[0] + 1) * 127.5).round().permute(1, 2, 0).numpy() == array).all()


def test_without_conversion_to_rgb_an_image_needs_a_mean_for_each_channel(processor, pixels):
    for image in (pixels[..., :1], np.dstack([pixels, pixels[..., :1]])):
        with pytest.raises(ValueError, match="image_mean.*got 3 values for [14] channels"):
            processor(image, do_convert_rgb=False)


def test_post_process_inverts_the_processor_exactly(processor, pixels):
    pixel_values = processor(pixels, return_tensors="pt").pixel_values
    (picture,) = processor.post_process(pixel_values)
    assert picture.mode == "RGB" and (np.asarray(picture) == pixels).all()


def test_post_process_rounds_and_clips(processor):
    values = torch.tensor([-3.0, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.999, 1.0, 9.0, float("inf")])
    (picture,) = processor.post_process(values.view(1, 1, 1, 8).expand(1, 3, 1, 8))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 1, 2, 255, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_post_process_takes_every_float_type_with_gradients(processor, dtype):
    pictures = processor.post_process(torch.ones(2, 3, 8, 6, dtype=dtype, requires_grad=True))
    assert [picture.size for picture in pictures] == [(6, 8)] * 2 and np.asarray(pictures[1]).min() == 255


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.full((1, 3, 8, 8), float("nan")), "contain NaN"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), r"got \(1, 1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        (np.zeros((1, 3, 8, 8), np.float32), "got <class 'numpy.ndarray'>"),
    ],
)
def test_post_process_refuses_anything_else(processor, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        processor.post_process(values)


def test_save_pretrained_names_both_backends_and_copies_the_code(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["image_processor_type"] == "AdaTokImageProcessor"
    assert config["auto_map"]["AutoImageProcessor"] == [
        "image_processing_adatok.AdaTokImageProcessorPil",
        "image_processing_adatok.AdaTokImageProcessor",
    ]
    assert (tmp_path / "image_processing_adatok.py").is_file()


def test_auto_image_processor_loads_either_backend_with_the_package(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for backend, cls in (("torchvision", AdaTokImageProcessor), ("pil", AdaTokImageProcessorPil)):
        loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert type(loaded) is cls and loaded.to_json_string() == cls.from_pretrained(tmp_path).to_json_string()


LOAD_AND_SAVE_AGAIN = """
import json
from transformers import AutoImageProcessor

folder = sys.argv[1]
names, arguments = [], {"trust_remote_code": True}
for backend in ARGUMENTS:
    processor = AutoImageProcessor.from_pretrained(folder + "/saved", **arguments, **backend)
    processor.save_pretrained(folder + "/again")
    again = AutoImageProcessor.from_pretrained(folder + "/again", **arguments, **backend)
    pixel_values = again(folder + "/picture.png", return_tensors="pt").pixel_values
    saved, resaved = (open(folder + f"/{name}/preprocessor_config.json").read() for name in ("saved", "again"))
    names.append([type(processor).__name__, type(again).__name__, saved == resaved, list(pixel_values.shape)])
print(json.dumps({"names": names, "modules": [name for name in ("adatok_hf", "torchvision") if name in sys.modules]}))
"""


def test_remote_code_loads_and_saves_again_without_the_package(pixels, tmp_path):
    AdaTokImageProcessorPil(**SIZES).save_pretrained(tmp_path / "saved")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    code = LOAD_AND_SAVE_AGAIN.replace("ARGUMENTS", '({}, {"backend": "torchvision"}, {"backend": "pil"})')
    answer = run_fresh(code, {"adatok_hf", "modeling"}, tmp_path)
    torchvision, pil = "AdaTokImageProcessor", "AdaTokImageProcessorPil"
    assert answer["names"] == [[name, name, True, [1, 3, 32, 32]] for name in (torchvision, torchvision, pil)]
    assert "adatok_hf" not in answer["modules"]


def test_remote_code_works_where_torchvision_is_not_installed(pixels, tmp_path):
    AdaTokImageProcessor(**SIZES).save_pretrained(tmp_path / "saved")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    code = LOAD_AND_SAVE_AGAIN.replace("ARGUMENTS", '({}, {"backend": "pil"})')
    answer = run_fresh(code, {"adatok_hf", "modeling", "torchvision"}, tmp_path)
    assert answer["names"] == [["AdaTokImageProcessorPil"] * 2 + [True, [1, 3, 32, 32]]] * 2
    assert answer["modules"] == []


def test_the_package_works_where_torchvision_is_not_installed(tmp_path):
    AdaTokImageProcessor(**SIZES).save_pretrained(tmp_path)
    code = """
import json
import adatok_hf
from transformers import AutoImageProcessor

try:
    adatok_hf.AdaTokImageProcessor()
except ImportError as error:
    message = str(error)
print(json.dumps([type(AutoImageProcessor.from_pretrained(sys.argv[1])).__name__, message]))
"""
    name, message = run_fresh(code, {"torchvision"}, tmp_path)
    assert name == "AdaTokImageProcessorPil" and "needs torchvision" in message
