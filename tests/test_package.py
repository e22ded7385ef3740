"""What the package promises as a package: light imports, registration, code that travels alone."""

import ast
import filecmp
import importlib
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from checkpoint_files import FILES
from fresh_process import FreshProcess
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoConfig, AutoImageProcessor, AutoModel

import adatok_hf
from adatok_hf import (
    AdaTokConfig,
    AdaTokImageProcessor,
    AdaTokImageProcessorPil,
    AdaTokModel,
    checkpoints,
    default_checkpoint,
)
from adatok_hf.model_card import read_license


MODELING = Path(adatok_hf.modeling.__file__).parent
ROOT = Path(__file__).parent.parent
TRAVELLING_FILES = sorted(path.name for path in MODELING.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "transformers", "peft", "numpy", "PIL"}


@pytest.mark.parametrize("name", TRAVELLING_FILES)
def test_modeling_files_travel_alone(name):
    allowed = ALLOWED | sys.stdlib_module_names | ({"diffusers"} if name == "pipeline_adatok.py" else set())
    for node in ast.walk(ast.parse((MODELING / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and f"{node.module}.py" in TRAVELLING_FILES, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            is_allowed = node.module.split(".")[0] in allowed or node.module == "huggingface_hub.dataclasses"
            assert is_allowed, ast.unparse(node)


def test_import_loads_nothing_heavy(tmp_path):
    heavy = ["torch", "transformers", "peft", "numpy", "datasets", "lpips", "gradio", "diffusers", "typer"]
    with FreshProcess(tmp_path, []) as process:
        loaded = process.run(f"import sys, adatok_hf\nresult = [n for n in {heavy!r} if n in sys.modules]")
    assert loaded == []


@pytest.mark.parametrize("words", [["--help"], ["evaluate", "--help"], ["train", "--help"]], ids=" ".join)
def test_help_of_the_command_line_loads_nothing_heavy(tmp_path, words):
    code = f"""
        import sys
        from adatok_hf.cli import main
        try:
            main({words!r})
        except SystemExit as error:
            result = [error.code, [n for n in ("torch", "transformers", "peft", "numpy") if n in sys.modules]]
    """
    with FreshProcess(tmp_path, []) as process:
        assert process.run(code) == [0, []]


@pytest.mark.parametrize(
    "imports",
    [
        "import adatok_hf",
        "import transformers, adatok_hf",
        "import adatok_hf, transformers",
        "import adatok_hf, peft",  # which imports transformers halfway
        "import adatok_hf, importlib.util; importlib.util.find_spec('transformers')",  # as others do to look for it
        "from adatok_hf import AdaTokModel",
        "import adatok_hf.modeling.modeling_adatok",
    ],
)
def test_auto_classes_know_adatok_in_whatever_order_things_are_imported(tmp_path, imports):
    code = """
        from transformers import AutoConfig, AutoModel
        model = AutoModel.from_pretrained(FOLDER)
        result = [type(model).__module__, type(AutoConfig.for_model("adatok")).__module__]
    """
    with FreshProcess(tmp_path, []) as process:
        modules = process.run(f"{imports}\nFOLDER = {default_checkpoint()!r}{textwrap.dedent(code)}")
    assert modules == ["adatok_hf.modeling.modeling_adatok", "adatok_hf.modeling.configuration_adatok"]


def test_names_are_offered_and_unknown_ones_are_not():
    assert set(adatok_hf.__all__) <= set(dir(adatok_hf))
    with pytest.raises(AttributeError, match="AdaTokModle"):
        adatok_hf.AdaTokModle  # noqa: B018


def test_importing_again_does_not_raise():
    importlib.reload(adatok_hf)
    assert type(AutoConfig.for_model("adatok")) is AdaTokConfig


def test_auto_classes_know_adatok(tiny_config, tiny_checkpoint):
    assert type(AutoModel.from_config(tiny_config)) is AdaTokModel
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is AdaTokModel
    assert type(AutoImageProcessor.from_pretrained(tiny_checkpoint)) is AdaTokImageProcessor
    assert type(AutoImageProcessor.from_pretrained(tiny_checkpoint, backend="pil")) is AdaTokImageProcessorPil


def test_no_class_name_contains_tokenizer():
    names = [*adatok_hf.__all__, *adatok_hf.modeling.__all__]
    assert [name for name in names if "Tokenizer" in name] == []


def test_default_checkpoint_is_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(adatok_hf, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="The embedded checkpoint is missing"):
        default_checkpoint()
    folder = tmp_path / "checkpoints" / "adatok-64" / "image_tokenizer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert default_checkpoint() == str(folder)
    other = tmp_path / "checkpoints" / "tatok-tiny-64"
    other.mkdir()
    assert checkpoints() == {"adatok-64": str(folder)}  # a folder without a model is none
    (other / "config.json").write_text("{}")
    assert checkpoints() == {"adatok-64": str(folder), other.name: str(other)}


LOADS_ALONE = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained({folder!r}, trust_remote_code=True)
model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
pixel_values = processor(torch.zeros(3, 80, 60, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
budgets = model(pixel_values).budgets.tolist()
result = [type(processor).__name__, len(budgets), any(name.startswith("adatok_hf") for name in sys.modules)]
"""


def test_the_embedded_checkpoint_loads_where_the_package_is_absent(tmp_path):
    with FreshProcess(tmp_path, ["adatok_hf"], HF_HUB_OFFLINE="1") as process:
        assert process.run(LOADS_ALONE.format(folder=default_checkpoint())) == ["AdaTokImageProcessor", 1, False]


def test_the_embedded_checkpoint_has_the_code_and_nothing_else_that_a_saved_one_has():
    folder = Path(default_checkpoint())
    assert {path.name for path in folder.iterdir()} == FILES, 'install it anew: pip install -e "."'
    code = [path.name for path in folder.glob("*.py")]
    assert code and filecmp.cmpfiles(folder, MODELING, code, shallow=False) == (code, [], [])


def source_files(folder: str, names: list[str]) -> set[str]:
    """What of a folder is no source: for `shutil.copytree`. Code in checkpoints is put there by an installation."""
    built = "*.py" if "checkpoints" in folder else "*.egg-info"
    return shutil.ignore_patterns(".*", "build", "outputs", "tests", "__pycache__", built)(folder, names)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    shutil.copytree(ROOT, folder / "source", ignore=source_files)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source"], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_one_package_with_its_data(wheel):
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {"adatok_hf", "adatok_hf-0.1.0.dist-info"}
    for folder, pattern in (
        ("modeling", "*.py"),
        ("conversion", "*.py"),
        ("adatok_hf/recipes", "*/*.yaml"),
        ("adatok_hf/samples", "*.webp"),
        ("adatok_hf/checkpoints/adatok-64/image_tokenizer", "*"),
    ):
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern) if path.is_file()]
        assert files
        assert {name if name.startswith("adatok_hf/") else f"adatok_hf/{name}" for name in files} <= names


def test_the_checkpoint_of_the_wheel_is_complete(wheel, tmp_path):
    wheel.extractall(tmp_path)
    folder = tmp_path / "adatok_hf" / "checkpoints" / "adatok-64" / "image_tokenizer"
    assert {path.name for path in folder.iterdir()} == FILES
    code = [path.name for path in folder.glob("*.py")]
    assert filecmp.cmpfiles(folder, MODELING, code, shallow=False) == (code, [], [])


def test_the_metadata_name_the_licences_of_code_and_weights(wheel):
    metadata = wheel.read("adatok_hf-0.1.0.dist-info/METADATA").decode()
    weights = read_license(Path(default_checkpoint()))
    assert f"\nLicense: Apache-2.0 AND {weights.upper()}\n" in metadata.replace("License-Expression", "License")


def test_the_pinned_versions_satisfy_every_floor(wheel):
    lines = wheel.read("adatok_hf-0.1.0.dist-info/METADATA").decode().splitlines()
    floors = [Requirement(line.split(": ")[1]) for line in lines if line.startswith("Requires-Dist: ")]
    pins = map(Requirement, (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    checked = [floor for floor in floors if canonicalize_name(floor.name) in pinned]
    assert {"torch", "transformers", "datasets"} <= {floor.name for floor in checked}
    assert [floor for floor in checked if pinned[canonicalize_name(floor.name)] not in floor.specifier] == []
