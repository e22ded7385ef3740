"""Packaging: `modeling/` and `conversion/` stand at the top of the repository and install inside `adatok_hf`."""

from setuptools import find_packages, setup


CORE = [
    "torch>=2.6",
    "transformers>=5.10",
    "huggingface-hub>=1.0",
    "safetensors>=0.5",
    "peft>=0.18",
    "numpy>=1.26",
    "pillow>=10.3",
    "typer>=0.15",
    "tqdm>=4.66",
    "pyyaml>=6",
]
EXTRAS = {
    "generate": ["diffusers>=0.35"],
    "train": ["accelerate>=1.10", "datasets>=4.0", "lpips>=0.1.4", "torchvision>=0.21"],
    "eval": [
        "datasets>=4.0",
        "evaluate>=0.4.5",
        "torchmetrics>=1.7",
        "torch-fidelity>=0.4",
        "lpips>=0.1.4",
        "matplotlib>=3.9",
        "scipy>=1.14",
    ],
    "demo": ["gradio>=6.29", "pillow<13"],
    "scale": ["ray[data]>=2.40"],
}
TOOLS = [
    "ipykernel>=7",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "playwright>=1.50",
    "pytest>=8",
    "ruff>=0.9",
    "setuptools>=77",
]
EXTRAS["test"] = sorted({*EXTRAS["train"], *EXTRAS["eval"], *EXTRAS["generate"], *EXTRAS["demo"], *TOOLS})

setup(
    name="adatok-hf",
    version="0.1.0",
    description="AdaTok for the Hugging Face Hub: an image tokenizer that decides how many tokens an image deserves",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["adatok_hf", "adatok_hf.*"]),
        "adatok_hf.modeling",
        "adatok_hf.conversion",
    ],
    package_dir={"adatok_hf.modeling": "modeling", "adatok_hf.conversion": "conversion"},
    package_data={"adatok_hf": ["recipes/*/*.yaml", "samples/*", "checkpoints/**/*", "metrics/*/README.md"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["adatok = adatok_hf.cli:main"]},
)
