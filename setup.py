"""
Packaging: `modeling/` and `conversion/` stand at the top of the repository and install inside `adatok_hf`, and the
embedded checkpoints get the code that travels with every checkpoint.
"""

import json
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


ROOT = Path(__file__).parent

CORE = [
    "torch>=2.9",
    "transformers>=5.17",
    "huggingface-hub>=1.5",
    "safetensors>=0.8",
    "peft>=0.20",
    "numpy>=1.26",
    "pillow>=10.3",
    "typer>=0.15",
    "tqdm>=4.66",
    "pyyaml>=6",
]
EXTRAS = {
    "generate": ["diffusers>=0.36"],
    "train": ["accelerate>=1.10", "datasets>=5.0", "lpips>=0.1.4", "torchvision>=0.21"],
    "eval": [
        "datasets>=5.0",
        "evaluate>=0.4.5",
        "torchmetrics>=1.7",
        "torch-fidelity>=0.4",
        "lpips>=0.1.4",
        "matplotlib>=3.9",
        "scipy>=1.14",
    ],
    "demo": ["gradio>=6.29", "pillow<13"],
    "scale": ["ray[data]>=2.50", "datasets>=5.0"],
    "export": ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.22"],
}
TOOLS = [
    "ipykernel>=7",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "playwright>=1.50",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "setuptools>=77",
]
EXTRAS["test"] = sorted({*TOOLS}.union(*EXTRAS.values()))


class BuildWithCode(build_py):
    """Puts beside the weights of a checkpoint what its `auto_map` names of `modeling/`, and what that imports."""

    def run(self):
        super().run()
        home = ROOT if self.editable_mode else Path(self.build_lib)
        for folder in {path.parent for path in (ROOT / "adatok_hf" / "checkpoints").rglob("*.json")}:
            for module in code_of(folder):
                place(ROOT / "modeling" / module, home / folder.relative_to(ROOT) / module, link=self.editable_mode)


def code_of(folder: Path) -> set[str]:
    """File names of the modules that a checkpoint or a pipeline needs where this package is not installed."""
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    wanted = re.findall(r"(\w+)\.\w+", str([config.get("auto_map") for config in configs]))
    wanted += [config["_class_name"][0] for config in configs if "_diffusers_version" in config]
    found = set()
    while wanted:
        name = f"{wanted.pop()}.py"
        if name not in found:
            wanted += re.findall(r"^from \.(\w+) import", (ROOT / "modeling" / name).read_text(encoding="utf-8"), re.M)
            found.add(name)
    return found


def place(source: Path, target: Path, link: bool):
    """Copies a file; as a link, where the system allows one, what is edited needs no second installation."""
    target.unlink(missing_ok=True)
    try:
        if link:
            target.symlink_to(source)
            return
    except OSError:  # Windows, for whoever is no developer
        pass
    shutil.copyfile(source, target)


setup(
    name="adatok-hf",
    version="0.1.0",
    description="AdaTok for the Hugging Face Hub: an image tokenizer that decides how many tokens an image deserves",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    # The second is that of the weights in adatok_hf/checkpoints, whose training images allow no other.
    license="Apache-2.0 AND CC-BY-NC-4.0",
    license_files=["LICENSE", "adatok_hf/samples/LICENSE.md"],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["adatok_hf", "adatok_hf.*"]),
        "adatok_hf.modeling",
        "adatok_hf.conversion",
    ],
    package_dir={"adatok_hf.modeling": "modeling", "adatok_hf.conversion": "conversion"},
    package_data={"adatok_hf": ["recipes/*/*.yaml", "samples/*", "checkpoints/**/*", "metrics/*/README.md"]},
    cmdclass={"build_py": BuildWithCode},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["adatok = adatok_hf.cli:main"]},
)
