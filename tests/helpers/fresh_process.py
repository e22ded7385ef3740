"""Python in a process of its own, for what is decided at import time: endpoints, offline mode, absent packages."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path


WORKER = """
import importlib.abc
import json
import os
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Blocker())
reply, sys.stdout = sys.stdout, sys.stderr  # whatever the code prints must not mix with the replies
for line in sys.stdin:
    namespace = {"result": None}
    try:
        exec(json.loads(line), namespace)
        answer = {"result": namespace["result"], "error": None}
    except Exception as error:
        answer = {"result": None, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=reply, flush=True)
os._exit(0)  # tearing large libraries down takes seconds
"""


class FreshProcess:
    """
    An interpreter that runs snippets, so that many tests pay for its imports once. Each snippet has its own namespace
    and hands back what it binds to `result`, as JSON.

    Args:
        folder (`Path`): Its working and home folder, with no package of ours in it.
        blocked (`list[str]`): Top-level packages that it cannot import.
        env (`dict[str, str]`): Environment variables on top of the inherited ones.
    """

    def __init__(self, folder: Path, blocked: list[str], **env: str):
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("proxy")
        }
        # -I keeps the working folder and PYTHONPATH off the module search path.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", WORKER, json.dumps(blocked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env={**inherited, "HOME": str(folder), "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1", **env},
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)

    def ask(self, code: str) -> dict:
        """Runs code; gives `{"result": ..., "error": "Type: message" or None}`."""
        self.process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, code: str):
        """Runs code that must succeed; gives its `result`."""
        answer = self.ask(code)
        assert answer["error"] is None, answer["error"]
        return answer["result"]

    def fail(self, code: str) -> str:
        """Runs code that must fail; gives `"Type: message"`."""
        answer = self.ask(code)
        assert answer["error"] is not None, f"No error, but {answer['result']!r}"
        return answer["error"]
