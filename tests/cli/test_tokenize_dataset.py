import datasets
import pytest
from fresh_process import FreshProcess

from adatok_hf.cli import main


@pytest.fixture
def tokenize(tiny_checkpoint, capsys):
    """Runs `adatok tokenize-dataset` on the tiny checkpoint and gives exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(["tokenize-dataset", "--model", str(tiny_checkpoint), "--device", "cpu", *map(str, arguments)])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def test_it_writes_shards_and_says_how_many(tokenize, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 5)
    arguments = ["--data", folder, "--budgets", "8", "--images-per-shard", "2", "--out", tmp_path / "out"]
    code, out, _ = tokenize(*arguments)
    assert code == 0 and "5 rows, mean budget 8.0, 3 shards" in out
    assert len(datasets.load_dataset("parquet", data_files=f"{tmp_path}/out/*.parquet", split="train")) == 5
    code, out, _ = tokenize(*arguments)
    assert code == 0 and "0 rows" in out and "3 were there" in out


@pytest.mark.parametrize("processes, expected", [("1", 1), ("2", 0)])
def test_one_process_of_several_does_not_end_the_others(
    tokenize, tmp_path, write_pictures, monkeypatch, processes, expected
):
    """As `torchrun` would, were its exit code that of a picture skipped."""
    folder = write_pictures(tmp_path / "pictures", 5)
    (folder / "picture-00.png").write_bytes(b"not a picture")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", processes)
    code, _, err = tokenize("--data", folder, "--images-per-shard", "2", "--out", tmp_path / "out")
    assert code == expected and "skipped image picture-00.png" in err


@pytest.mark.parametrize(
    "options, word",
    [
        (["--engine", "dask"], "dask"),
        (["--workers", "2"], "--workers"),
        (["--device", "warp"], "'warp'"),
    ],
)
def test_engines_that_do_not_fit_are_refused(tokenize, tmp_path, write_pictures, options, word):
    folder = write_pictures(tmp_path / "pictures", 1)
    code, _, err = tokenize("--data", folder, "--out", tmp_path / "out", *options)
    assert code == 2 and word in err and err.count("\n") == 1


def test_without_ray_its_engine_says_what_to_install(tmp_path):
    code = """
        import contextlib, io
        from adatok_hf.cli import main
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main(["tokenize-dataset", "--data", "pictures", "--out", "out", "--engine", "ray"])
            except SystemExit as error:
                result = [error.code, said.getvalue()]
    """
    with FreshProcess(tmp_path, ["ray"]) as process:
        assert process.run(code) == [2, 'adatok: error: The package ray is missing: pip install "adatok-hf[scale]".\n']


def test_a_skipped_picture_shows_in_the_exit_code(tokenize, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 2)
    (folder / "broken.png").write_bytes(b"no picture")
    code, out, err = tokenize("--data", folder, "--out", tmp_path / "out")
    assert code == 1 and "2 rows" in out and "broken.png" in err
