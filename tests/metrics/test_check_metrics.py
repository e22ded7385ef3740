"""The comparison with the libraries on folders of images."""

import re
import shutil

import pytest

from adatok_hf.cli import main
from adatok_hf.metrics import check_metrics as compare


@pytest.fixture
def two_images(folders, tmp_path):
    """Folders of two images, for what the Inception network has to read."""
    small = []
    for folder in folders:
        small.append(tmp_path / folder.name)
        small[-1].mkdir()
        for path in sorted(folder.iterdir())[5:]:
            shutil.copy(path, small[-1])
    return small


def run(arguments: list[str]) -> int:
    """Exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        main(["check-metrics", *arguments])
    return ended.value.code


def test_kid_through_inception_is_the_library_s(two_images, metric_weights_dir):
    (row,) = compare.compare_with_libraries(
        *two_images, metrics=["kid"], weights_dir=metric_weights_dir, kid_subset_size=2
    )
    assert row.metric == "kid" and row.difference <= 1e-5 * abs(row.library)


def test_table_of_pair_metrics(folders, metric_weights_dir, capsys):
    arguments = [*map(str, folders), "--metrics", "lpips,psnr,ssim", "--weights-dir", str(metric_weights_dir)]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["metric", "lpips", "psnr", "ssim"]
    for line in lines[1:]:
        ours, library, difference = map(float, line.split()[1:])
        assert ours != 0 and difference < 1e-4 and abs(ours - library) < 1e-4


def test_a_difference_shows(folders, weights_dir, monkeypatch):
    monkeypatch.setattr(compare, "peak_signal_noise_ratio", lambda *args, **kwargs: compare.torch.tensor(1.0))
    (row,) = compare.compare_with_libraries(*folders, metrics=["psnr"])
    assert row.difference > 1


@pytest.mark.parametrize("metrics, expected", [("rfid", "rfid"), ("fid", "same file names")])
def test_bad_input_is_one_line_and_exit_code_2(folders, tmp_path, capsys, metrics, expected):
    (tmp_path / "other.png").touch()
    assert run([str(folders[0]), str(tmp_path), "--metrics", metrics]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf".*{expected}.*\n", error)
