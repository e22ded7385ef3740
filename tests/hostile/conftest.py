"""Files that anyone may have made: no more than seconds and two gigabytes for any of them."""

import resource
import signal

import datasets
import pytest

from adatok_hf.cli import main


SECONDS = 20
ROOM = 2 << 30


@pytest.fixture(autouse=True)
def limits(tmp_path, monkeypatch):
    """Ends what takes too long, and refuses memory beyond what a small file can need."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)

    def end(*_):
        pytest.fail(f"not done after {SECONDS} seconds")

    handler = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def refusal(capsys):
    """Runs a command that must end with exit code 2 and one sentence, and gives the sentence."""

    def run(*arguments) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        stderr = capsys.readouterr().err
        assert exit_info.value.code == 2, stderr
        assert stderr.startswith("adatok: error: ") and stderr.count("\n") == 1 and stderr.endswith(".\n"), stderr
        return stderr

    return run


@pytest.fixture
def refused(one_sentence):
    """Expects one sentence of a function."""
    return one_sentence
