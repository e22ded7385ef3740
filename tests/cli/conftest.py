"""The command on a tiny checkpoint."""

from pathlib import Path

import pytest

from adatok_hf.cli import main


@pytest.fixture(autouse=True)
def no_lpips_weights(tmp_path_factory, monkeypatch):
    """No folder of LPIPS weights is named, and none has been downloaded before."""
    monkeypatch.delenv("ADATOK_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("no_weights")))


@pytest.fixture
def pictures(tmp_path, sample_images) -> Path:
    """A folder with the sample pictures, one of them in a subfolder."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, image in zip(["a.png", "b.png", "c.png", "deep/a.png"], sample_images):
        image.save(folder / name)
    return folder


@pytest.fixture
def adatok(tiny_checkpoint, capsys):
    """Runs the command on the tiny checkpoint and gives its exit code, stdout and stderr."""

    def run(command, *arguments, model=tiny_checkpoint, device="cpu"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([command, *map(str, arguments), "--model", str(model), "--device", device])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run
