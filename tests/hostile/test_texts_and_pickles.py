"""YAML that multiplies itself, and pickles that grow."""

import pickle
import zipfile

import pytest
import torch

from adatok_hf.conversion.source import read_config, read_weights
from adatok_hf.files import parse_yaml, read_json
from adatok_hf.model_card import parse_front_matter, read_license
from adatok_hf.training.recipe import parse_recipe
from adatok_hf.training.tokenizer_arguments import DataArguments


LINES = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
LINES += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(12)]
YAML = {
    "aliases": "\n".join(LINES),
    "merge": "a: &a {x: 1}\nb: {<<: *a}",
    "itself": "a: &a [*a]",
    "deep": "a: " + "[" * 2_000,
    "tag": "a: !!python/object/apply:os.getcwd []",
    "date": "a: 2020-99-99",
    "unclosed": "a: [1, 2",
    "control": "a: \x01",
}


@pytest.mark.parametrize("kind", YAML)
class TestYaml:
    def test_is_refused_by_the_one_parser(self, kind, refused):
        with refused("the file is not YAML"):
            parse_yaml(YAML[kind], "the file")

    def test_is_refused_as_a_recipe(self, kind, tmp_path, refused):
        path = tmp_path / "recipe.yaml"
        path.write_text(YAML[kind])
        with refused(str(path)):
            parse_recipe("tokenizer", str(path), [], [DataArguments])

    def test_is_refused_as_a_configuration(self, kind, tmp_path, refused):
        path = tmp_path / "config.yaml"
        path.write_text(YAML[kind])
        with refused(str(path)):
            read_config(path)

    def test_names_no_licence(self, kind, tmp_path):
        (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{YAML[kind]}\n---\n# A card\n")
        assert read_license(tmp_path) is None


def test_front_matter_is_read():
    assert parse_front_matter("---\nlicense: mit\n---\n# A card", "card") == {"license": "mit"}
    assert parse_front_matter("# A card", "card") == {}


def test_a_front_matter_of_another_kind_is_refused(refused):
    with refused("must be a mapping"):
        parse_front_matter("---\n- a\n- b\n---\n", "The card")


def test_deep_json_is_refused(tmp_path, refused):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with refused(str(path)):
        read_json(path)


class Allocate:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(path):
    path.write_bytes(pickle.dumps({"a": Allocate(bytearray, 20 * 10**9)}, 2))


def many_pickled(path):
    path.write_bytes(pickle.dumps({str(n): Allocate(bytearray, 10**7) for n in range(3000)}, 2))


def expanded(path):
    torch.save({str(n): torch.zeros(1, dtype=torch.float16).expand(2 * 10**9) for n in range(3)}, path)


def expanded_legacy(path):
    tensors = {"a": torch.zeros(1, dtype=torch.float16).expand(5 * 10**9)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def compressed(path):
    torch.save({"a": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(f"{path}.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    path.with_name(f"{path.name}.zip").replace(path)


@pytest.mark.parametrize("write", [pickled, many_pickled, expanded, expanded_legacy, compressed])
def test_a_pickle_that_grows_is_refused(write, tmp_path, refused):
    path = tmp_path / "weights.pth"
    write(path)
    with refused(str(path)):
        read_weights(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_plain_tensors_are_read(tmp_path, legacy):
    tensors = {"weight": torch.randn(300, 200), "half": torch.randn(5).half(), "scalar": torch.tensor(3)}
    torch.save(tensors, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    found = read_weights(tmp_path / "weights.pth")
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in tensors.items())
