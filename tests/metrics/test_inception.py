"""Inception, its streamed statistics, FID and KID: as torch-fidelity has them."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from adatok_hf.metrics.inception import (
    INCEPTION_FILE,
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
    load_inception,
)


@pytest.fixture
def two_sets() -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated random features of two distributions, `(300, 16)` and `(200, 16)`."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, 16, generator=generator)
    return (
        torch.randn(300, 16, generator=generator) @ mixing + 0.5,
        torch.randn(200, 16, generator=generator).relu() @ mixing.T,
    )


def statistics_of(*batches: torch.Tensor, **options) -> FeatureStatistics:
    statistics = FeatureStatistics(feature_size=batches[0].shape[1], **options)
    for batch in batches:
        statistics.update(batch)
    return statistics


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.delenv("ADATOK_WEIGHTS_DIR", raising=False)


def replace_download(monkeypatch, download):
    monkeypatch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", download)


def test_features_are_those_of_torch_fidelity_with_the_same_weights(
    metric_weights_dir, inception_weights, pairs, tmp_path
):
    torch.save(inception_weights, tmp_path / "inception.pth")
    library = feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=tmp_path / "inception.pth"
    )
    network = load_inception(metric_weights_dir)
    features = network(pairs[0][:2])
    plain = library(pairs[0][:2])[0]
    assert torch.equal(features, library.to(memory_format=torch.channels_last)(pairs[0][:2])[0])
    torch.testing.assert_close(features, plain, rtol=0, atol=2e-5)  # the same sums in another order
    assert features.shape == (2, 2048) and features.dtype == torch.float32 and features.std(dim=0).max() > 1e-3
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_without_a_folder_the_weights_are_those_torch_fidelity_downloads(no_folder, monkeypatch, inception_weights):
    marked = inception_weights | {"Conv2d_1a_3x3.bn.bias": torch.arange(32.0)}
    replace_download(monkeypatch, lambda url, progress: marked)
    assert torch.equal(load_inception().extractor.Conv2d_1a_3x3.bn.bias, torch.arange(32.0))


def test_folder_is_read_from_the_environment(metric_weights_dir, monkeypatch, inception_weights):
    monkeypatch.setenv("ADATOK_WEIGHTS_DIR", str(metric_weights_dir))
    weight = load_inception().extractor.Conv2d_1a_3x3.conv.weight
    assert torch.equal(weight, inception_weights["Conv2d_1a_3x3.conv.weight"])


def test_statistics_are_those_of_all_features_at_once_in_float64(two_sets):
    features = two_sets[0]
    statistics = statistics_of(*features.split(70))
    whole = features.double().numpy()
    assert statistics.n == 300 and statistics.mean.dtype == statistics.covariance.dtype == torch.float64
    np.testing.assert_allclose(statistics.mean, whole.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(whole, rowvar=False), rtol=0, atol=1e-11)


def test_features_are_kept_only_when_asked_for(two_sets, one_sentence):
    assert torch.equal(statistics_of(*two_sets[0].split(64), keep_features=True).features, two_sets[0])
    with one_sentence("keep_features=True"):
        _ = statistics_of(two_sets[0]).features


def test_frechet_distance_equals_torch_fidelity(two_sets):
    ours = frechet_distance(*(statistics_of(*features.split(64)) for features in two_sets), min_images=2)
    # Fed in float64, since the library would take means in float32.
    statistics = [fid_features_to_statistics(features.double()) for features in two_sets]
    library = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours > 1 and ours == pytest.approx(library, rel=1e-9)
    in_single_precision = fid_statistics_to_metric(*map(fid_features_to_statistics, two_sets), verbose=False)
    assert ours == pytest.approx(in_single_precision["frechet_inception_distance"], rel=1e-5)


def test_frechet_distance_of_a_set_to_itself_is_zero(two_sets):
    statistics = statistics_of(two_sets[0])
    assert frechet_distance(statistics, statistics, min_images=2) == pytest.approx(0, abs=1e-8)


def test_kernel_distance_equals_torch_fidelity(two_sets):
    library = kid_features_to_metric(*two_sets, kid_subsets=20, kid_subset_size=50, rng_seed=2020, verbose=False)
    ours = kernel_distance(*two_sets, subsets=20, subset_size=50)
    assert ours == (library["kernel_inception_distance_mean"], library["kernel_inception_distance_std"])
    assert ours != kernel_distance(*two_sets, subsets=20, subset_size=50, seed=1)


def test_too_few_images_for_fid_names_the_minimum(one_sentence):
    few = statistics_of(torch.randn(7, 4))
    with one_sentence("2,048", "got 7 and 7"):
        frechet_distance(few, few)
    one = statistics_of(torch.randn(1, 4))
    with one_sentence("at least 2 images", "got 7 and 1"):
        frechet_distance(few, one, min_images=0)


def test_too_few_images_for_kid_names_the_minimum(two_sets, one_sentence):
    with one_sentence("1,000", "got 300 and 200"):
        kernel_distance(*two_sets)


@pytest.mark.parametrize("options", [{"subsets": 0, "subset_size": 10}, {"subsets": 10, "subset_size": 1}])
def test_kid_without_subsets(two_sets, one_sentence, options):
    with one_sentence(f"{options['subsets']} subsets of {options['subset_size']}"):
        kernel_distance(*two_sets, **options)


def test_features_of_another_width_or_not_finite(one_sentence):
    statistics = FeatureStatistics(feature_size=4)
    with one_sentence("(batch, 4)", "(2, 5)"):
        statistics.update(torch.zeros(2, 5))
    with one_sentence("NaN or infinite"):
        statistics.update(torch.tensor([[0.0, float("nan"), 0.0, 0.0]]))
    assert statistics.n == 0


def test_moments_of_too_few_images(one_sentence):
    statistics = FeatureStatistics(feature_size=4)
    with one_sentence("at least 1 image;", "got 0"):
        _ = statistics.mean
    statistics.update(torch.zeros(1, 4))
    with one_sentence("at least 2 images", "got 1"):
        _ = statistics.covariance


def test_folder_without_the_file(tmp_path, one_sentence):
    with one_sentence(str(tmp_path / INCEPTION_FILE), "ADATOK_WEIGHTS_DIR"):
        load_inception(tmp_path)


@pytest.mark.parametrize("size", [0, 1000])
def test_damaged_or_other_file_is_known_by_its_checksum(metric_weights_dir, tmp_path, one_sentence, size):
    (tmp_path / INCEPTION_FILE).write_bytes((metric_weights_dir / INCEPTION_FILE).read_bytes()[:size])
    with one_sentence(str(tmp_path / INCEPTION_FILE), "sha256", "copy it again"):
        load_inception(tmp_path)


def test_offline_without_a_folder(no_folder, monkeypatch, one_sentence):
    def offline(url, progress):
        raise URLError("no network")

    replace_download(monkeypatch, offline)
    with one_sentence("no network", INCEPTION_FILE, "ADATOK_WEIGHTS_DIR"):
        load_inception()


def test_damaged_download(no_folder, monkeypatch, one_sentence):
    def damaged(url, progress):
        raise RuntimeError("PytorchStreamReader failed\nat some line")

    replace_download(monkeypatch, damaged)
    with one_sentence("PytorchStreamReader failed", "delete"):
        load_inception()


def test_inception_refuses_float_images_and_nan(metric_weights_dir, one_sentence):
    network = load_inception(metric_weights_dir)
    with one_sentence("uint8", "torch.float32", "round"):
        network(torch.full((1, 3, 32, 32), float("nan")))
