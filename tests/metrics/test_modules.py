"""Every `evaluate` module: loads offline, streams, and gives what its library gives for the same images."""

import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import torch_fidelity
from fresh_process import FreshProcess
from PIL import Image
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from adatok_hf import AdaTokConfig
from adatok_hf.metrics import MODULES, metric_path
from adatok_hf.metrics.perceptual import load_lpips
from adatok_hf.metrics.rate import bits_per_pixel


def tiny_features(images: torch.Tensor) -> torch.Tensor:
    """Colours of a coarse grid instead of Inception's features: `(batch, 24)`."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, (4, 2)).flatten(1)


class TinyExtractor(FeatureExtractorBase):
    """`tiny_features` as torch-fidelity takes them."""

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)

    def forward(self, images):
        return (tiny_features(images),)

    @staticmethod
    def get_provided_features_list():
        return ("24",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "24"

    @staticmethod
    def can_be_compiled():
        return False


@pytest.fixture(scope="session", autouse=True)
def register_tiny_extractor():
    torch_fidelity.register_feature_extractor("tiny", TinyExtractor)


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of random images, uint8 `(90, 16, 16, 3)` and `(70, 16, 16, 3)`."""
    generator = np.random.default_rng(4)
    return (
        generator.integers(0, 256, (90, 16, 16, 3), dtype=np.uint8),
        generator.integers(40, 200, (70, 16, 16, 3), dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def set_folders(tmp_path_factory, sets) -> list[str]:
    folders = []
    for images in sets:
        folders.append(tmp_path_factory.mktemp("set"))
        for index, image in enumerate(images):
            Image.fromarray(image).save(folders[-1] / f"{index:03d}.png")
    return [str(folder) for folder in folders]


@pytest.fixture
def load(tmp_path):
    """Loads a module whose cache is a folder of this test."""

    def load(name: str, **options) -> evaluate.Metric:
        return evaluate.load(metric_path(name), cache_dir=str(tmp_path / "cache"), **options)

    return load


@pytest.fixture
def channels_last(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(images.permute(0, 2, 3, 1) for images in pairs)


def test_every_module_loads_offline_in_a_fresh_process(tmp_path):
    with FreshProcess(tmp_path, [], HF_EVALUATE_OFFLINE="1", HF_HUB_OFFLINE="1") as process:
        names = process.run("""
            import socket
            def refuse(*args, **kwargs):
                raise OSError("no network")
            socket.getaddrinfo = socket.create_connection = refuse
            import evaluate
            from adatok_hf.metrics import MODULES, metric_path
            result = [evaluate.load(metric_path(name)).name for name in MODULES]
        """)
    assert tuple(names) == MODULES and len(MODULES) == 7


def test_every_module_lies_in_a_folder_of_the_package():
    folders = {path.parent.name for path in Path(metric_path("fid")).parent.glob("*/*.py") if path.stem != "__init__"}
    assert folders == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_describes_itself_and_has_a_card(load, name):
    metric = load(name)
    assert metric.description and "@" in metric.citation and metric.info.reference_urls
    assert "predictions" in metric.features and ">>> " in metric.inputs_description
    card = (Path(metric_path(name)) / "README.md").read_text(encoding="utf-8")
    for part in ("## How to use", "### Inputs", "### Output values", "## Limitations", "## Citation"):
        assert part in card
    assert metric.description.strip() in card and metric.citation.strip() in card
    example = card.split("```python\n")[1].split("```")[0]
    described = [line.strip() for line in metric.inputs_description.splitlines()]
    assert all(line.strip() in described for line in example.splitlines())  # and so it runs, as a doctest


def test_pair_metrics_are_the_means_of_their_libraries(load, pairs, channels_last, weights_dir):
    first, second = (images.double() / 255 for images in pairs)
    scaled = [images / 127.5 - 1 for images in pairs]
    with torch.no_grad():
        expected = {
            "psnr": peak_signal_noise_ratio(
                second, first, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean"
            ),
            "ssim": structural_similarity_index_measure(second, first, data_range=1.0),
            "lpips": load_lpips("alex", weights_dir)(*scaled).mean(),
        }
    for name, value in expected.items():
        metric = load(name, **({"weights_dir": weights_dir} if name == "lpips" else {}))
        for start, end in ((0, 3), (3, 7)):
            metric.add_batch(references=channels_last[0][start:end], predictions=channels_last[1][start:end])
        assert len(metric) == 7
        assert metric.compute() == {name: pytest.approx(value.item(), abs=1e-5)}


def test_fid_equals_torch_fidelity_on_folders(load, sets, set_folders):
    options = {"feature_extractor": "tiny", "cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False}
    library = torch_fidelity.calculate_metrics(input1=set_folders[0], input2=set_folders[1], fid=True, **options)
    fid = load("fid", network=tiny_features)
    for images in np.split(sets[0], [25, 60]):
        fid.add_batch(predictions=images)
    fid.add_batch(references=sets[1])
    assert len(fid) == 160
    value = fid.compute(min_images=70)["fid"]
    assert value == pytest.approx(library["frechet_inception_distance"], rel=1e-4) and value > 1e-3


def test_kid_equals_torch_fidelity_on_folders(load, sets, set_folders):
    options = {"feature_extractor": "tiny", "cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False}
    options |= {"kid_subsets": 7, "kid_subset_size": 40}
    library = torch_fidelity.calculate_metrics(input1=set_folders[0], input2=set_folders[1], kid=True, **options)
    kid = load("kid", network=tiny_features)
    for first, second in zip(np.split(sets[0], [25, 60]), np.split(sets[1], [1, 30])):
        kid.add_batch(predictions=first, references=second)
    result = kid.compute(subsets=7, subset_size=40)
    assert result["kid"] == pytest.approx(library["kernel_inception_distance_mean"], rel=1e-4, abs=1e-7)
    assert result["kid_std"] == pytest.approx(library["kernel_inception_distance_std"], rel=1e-3, abs=1e-7)


def test_fid_takes_inception_by_default(load, metric_weights_dir, pairs, channels_last):
    fid = load("fid", weights_dir=metric_weights_dir)
    fid.add_batch(predictions=channels_last[0][:1])
    features = fid._statistics["predictions"]
    assert features.n == 1 and features.mean.shape == (2048,) and features.mean.max() > 0


def test_codebook_use_counts_codes_but_no_pad_codes(load):
    codes = torch.randint(50, (6, 20), generator=torch.Generator().manual_seed(0))
    codes[2, 8:] = 100
    metric = load("codebook_use")
    metric.add_batch(predictions=codes[:4])
    metric.add_batch(predictions=codes[4:].tolist())
    counts = np.bincount(codes[codes < 100], minlength=100)
    shares = counts[counts > 0] / counts.sum()
    assert metric.compute(codebook_size=100) == {
        "codebook_use": (counts > 0).mean(),
        "perplexity": pytest.approx(math.exp(-(shares * np.log(shares)).sum())),
    }


def test_bits_per_pixel_is_the_mean_rate(load):
    config = AdaTokConfig()
    budgets = torch.tensor([32, 256, 77, 32])  # 77 is no candidate: its index costs more
    metric = load("bits_per_pixel")
    metric.add_batch(predictions=budgets[:3])
    metric.add_batch(predictions=budgets[3:].tolist())
    options = {"candidate_budgets": config.budgets, "codebook_size": config.codebook_size}
    value = metric.compute(**options, image_size=config.image_size)["bits_per_pixel"]
    assert value == pytest.approx(np.mean([bits_per_pixel(budget, config) for budget in budgets.tolist()]))


def test_nothing_is_stored(load, tmp_path, channels_last):
    metric = load("psnr")
    metric.add_batch(references=channels_last[0], predictions=channels_last[1])
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert metric.writer is None and metric.data is None


def test_compute_starts_anew(load, channels_last):
    metric = load("psnr")
    first, second = channels_last
    metric.add_batch(references=first, predictions=second)
    whole = metric.compute()
    assert len(metric) == 0
    assert metric.compute(references=first, predictions=second) == whole
    half = metric.compute(references=first[:2], predictions=second[:2])
    assert half["psnr"] != whole["psnr"]


def test_add_takes_one_example(load, channels_last):
    metric = load("ssim")
    metric.add_batch(references=channels_last[0], predictions=channels_last[1])
    whole = metric.compute()
    for image, other in zip(*channels_last):
        metric.add(reference=image, prediction=Image.fromarray(other.numpy()))
    assert metric.compute() == pytest.approx(whole)
    metric = load("bits_per_pixel")
    metric.add(prediction=4)
    assert len(metric) == 1


def test_modules_combine(load, channels_last):
    first, second = channels_last
    combined = evaluate.combine([load("psnr"), load("ssim")])
    result = combined.compute(references=first, predictions=second)
    expected = [load(name).compute(references=first, predictions=second) for name in ("psnr", "ssim")]
    assert result == expected[0] | expected[1]


def test_an_error_of_compute_keeps_what_was_added(load, sets):
    fid = load("fid", network=tiny_features)
    fid.add_batch(predictions=sets[0], references=sets[1])
    with pytest.raises(ValueError, match="2,048 images in each set, got 90 and 70"):
        fid.compute()
    assert fid.compute(min_images=70)["fid"] > 0


@pytest.mark.parametrize("name", ["fid", "kid", "lpips", "psnr", "ssim"])
@pytest.mark.parametrize(
    "images, part",
    [
        (np.full((2, 32, 32, 3), np.nan), "uint8"),
        (torch.zeros(2, 32, 32, 3), "uint8"),
        (np.zeros((2, 3, 32, 32), np.uint8), "channels last"),
        (np.zeros((0, 32, 32, 3), np.uint8), "no images"),
        ([], "no images"),
        ([Image.new("RGB", (32, 32)), Image.new("RGB", (40, 32))], "one size"),
        ([Image.new("RGBA", (32, 32))], "convert('RGB')"),
    ],
)
def test_images_that_no_metric_takes(load, one_sentence, name, images, part):
    network = tiny_features if name in ("fid", "kid") else lambda first, second: (first - second).mean(dim=(1, 2, 3))
    metric = load(name, **({} if name in ("psnr", "ssim") else {"network": network}))
    good = np.zeros((2, 32, 32, 3), np.uint8)
    with one_sentence(part):
        metric.add_batch(predictions=images, references=good)
    with one_sentence(part):
        metric.add_batch(predictions=good, references=images)
    assert len(metric) == 0


def test_pairs_of_differing_size(load, one_sentence):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    for name in ("psnr", "ssim"):
        with one_sentence("(2, 3, 32, 32)", "(2, 3, 32, 24)"):
            load(name).add_batch(predictions=images[:, :, :24], references=images)
        with one_sentence("both predictions and references"):
            load(name).add_batch(predictions=images)


def test_nothing_to_compute_from(load, one_sentence, sets):
    for name in MODULES:
        with one_sentence(name, "add_batch"):
            load(name).compute()
    fid = load("fid", network=tiny_features)
    fid.add_batch(predictions=sets[0])
    with one_sentence("no references"):
        fid.compute()


def test_inputs_the_metric_does_not_know(load, one_sentence):
    with one_sentence("predictions", "'references'"):
        load("codebook_use").add_batch(predictions=[[1]], references=[[1]])
    with one_sentence("predictions, references", "none"):
        load("psnr").add_batch()


@pytest.mark.parametrize(
    "codes, part",
    [([], "no image codes"), ([[]], "no image codes"), ([[-1]], "-1"), ([[0.5]], "float32"), ([[9]], "at most 8")],
)
def test_codes_that_are_none(load, one_sentence, codes, part):
    with one_sentence(part):
        load("codebook_use").compute(predictions=codes, codebook_size=8)


def test_pad_codes_alone(load, one_sentence):
    with one_sentence("pad codes"):
        load("codebook_use").compute(predictions=[[8, 8]], codebook_size=8)


@pytest.mark.parametrize("budgets, part", [([0], "from 1"), ([1.5], "float32"), ([[4]], "(1, 1)"), ([9], "at most 8")])
def test_budgets_that_are_none(load, one_sentence, budgets, part):
    with one_sentence(part):
        load("bits_per_pixel").compute(predictions=budgets, candidate_budgets=[4, 8], codebook_size=64, image_size=32)


def test_several_processes_are_refused(load, one_sentence):
    with one_sentence("num_process=2"):
        load("psnr", num_process=2)


def test_unknown_metric(one_sentence):
    with one_sentence("'rfid'", "fid, kid"):
        metric_path("rfid")
