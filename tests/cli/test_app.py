"""How the command begins and ends: versions, exit codes, and one sentence whatever happens."""

import errno
import importlib.metadata
import os
import subprocess
import sys

import pytest

import adatok_hf
from adatok_hf.cli import app, main


@pytest.fixture
def ending(monkeypatch, capsys):
    """Runs a command that fails in a given way; gives exit code and standard error."""

    def run(error: Exception, *options):
        def reconstruct():
            raise error

        monkeypatch.setattr(app, "COMMANDS", (reconstruct, app.encode))
        with pytest.raises(SystemExit) as exit_info:
            main([*options, "reconstruct"])
        return exit_info.value.code, capsys.readouterr().err

    return run


class OddError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("The size is 3."), 2, "The size is 3."),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a.png"),
            2,
            "No such file: a.png.",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 3, "No space left on device: a.png."),
        (OddError("something\nbroke."), 3, "OddError: something broke; `adatok --debug ...` shows where."),
        (RuntimeError(), 3, "RuntimeError; `adatok --debug ...` shows where."),
        (KeyError("x"), 3, "KeyError: 'x'; `adatok --debug ...` shows where."),
        (RecursionError("too deep"), 3, "RecursionError: too deep; `adatok --debug ...` shows where."),
        (MemoryError(), 3, "MemoryError; `adatok --debug ...` shows where."),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                '  File "stream.py", line 131, in _read_cells\nadatok_hf.data.ImageFileError: File 1 of tars: no.\n'
            ),
            2,
            "File 1 of tars: no.",
        ),
        (ValueError("A name \x1b[31m\nred."), 2, "A name \\x1b[31m red."),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "No module named 'x'"),
    ],
)
def test_every_failure_is_one_sentence_with_its_exit_code(ending, error, code, text):
    assert ending(error) == (code, f"adatok: error: {text}\n")


def test_debug_shows_where(ending):
    code, stderr = ending(OddError("broke"), "--debug")
    assert code == 3 and "Traceback" in stderr and "in reconstruct" in stderr
    assert stderr.endswith("adatok: error: OddError: broke; `adatok --debug ...` shows where.\n")


@pytest.mark.parametrize(
    ("package", "extra"),
    [("torchmetrics", "eval"), ("torch_fidelity", "eval"), ("matplotlib", "eval"), ("accelerate", "train")],
)
def test_a_missing_extra_is_named(ending, package, extra):
    error = ModuleNotFoundError(f"No module named '{package}.inner'", name=f"{package}.inner")
    sentence = f'The package {package} is missing: pip install "adatok-hf[{extra}]".'
    assert ending(error) == (2, f"adatok: error: {sentence}\n")


WITHOUT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {absent} else real(name, package)
sys.meta_path.insert(0, Absent())
{code}
"""


def run_without(absent, code, *arguments):
    script = WITHOUT.format(absent=set(absent), code=code)
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


def test_evaluate_without_its_extra_says_what_to_install(tmp_path, sample_images):
    sample_images[0].save(tmp_path / "a.png")
    code = "from adatok_hf.cli import main; main(sys.argv[1:])"
    run = run_without(["torchmetrics"], code, "evaluate", "--data", tmp_path, "--out", tmp_path / "out")
    assert (run.returncode, run.stderr) == (
        2,
        'adatok: error: The package torchmetrics is missing: pip install "adatok-hf[eval]".\n',
    )


def test_an_import_without_its_extra_says_what_to_install():
    run = run_without(["datasets"], "import adatok_hf.training")
    assert run.stderr.endswith('ImportError: The package datasets is missing: pip install "adatok-hf[train]".\n')


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    version = importlib.metadata.version("adatok-hf")
    assert adatok_hf.__version__ == version
    assert (exit_info.value.code, capsys.readouterr().out) == (0, f"adatok {version}\n")


def test_the_package_is_a_program():
    run = subprocess.run([sys.executable, "-m", "adatok_hf", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("adatok ")


@pytest.mark.parametrize("arguments", [["-h"], ["encode", "-h"], ["train", "-h"], ["heads", "export", "-h"]])
def test_h_is_help(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 0 and "Usage: adatok" in capsys.readouterr().out


def test_output_that_nobody_reads_is_no_error():
    script = "from adatok_hf.cli import main; main(['--help'])"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in run.stderr
