"""What a codes file promises: it comes back as it was, belongs to its model, and is refused when it is no good."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from adatok_hf.checkpoint import codes_hash, model_hash
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.files import whole_file


SUFFIXES = [".safetensors", ".parquet", ".json"]


@pytest.fixture
def codes() -> ImageCodes:
    return ImageCodes(
        image_codes=torch.tensor([[5, 0, 7, 8], [1, 8, 8, 8]]),
        budgets=torch.tensor([3, 1]),
        original_sizes=torch.tensor([[48, 64], [7, 9]]),
        file_names=["a/cat.png", "höhle.jpg"],
        model="someone/a-model",
        model_hash="0" * 64,
        image_size=32,
        codebook_size=8,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_saved_file_loads_as_it_was(tmp_path, codes, suffix):
    codes.save(tmp_path / f"codes{suffix}")
    loaded = ImageCodes.load(tmp_path / f"codes{suffix}")
    for name, value in vars(codes).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(vars(loaded)[name], value), name
            assert vars(loaded)[name].dtype == torch.long
        else:
            assert vars(loaded)[name] == value, name


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_than_is_allowed_is_refused_before_it_takes_memory(tmp_path, codes, suffix):
    path = tmp_path / f"codes{suffix}"
    codes.save(path)
    assert len(ImageCodes.load(path, max_images=2, max_codes=4)) == 2
    with pytest.raises(ValueError, match="holds 2 pictures; at most 1 are taken here"):
        ImageCodes.load(path, max_images=1)
    with pytest.raises(ValueError, match="holds 4 codes of each picture; at most 3 are taken here"):
        ImageCodes.load(path, max_codes=3)


def test_parquet_holds_only_the_codes_inside_the_budget(tmp_path, codes):
    from datasets import Dataset

    codes.save(tmp_path / "codes.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "codes.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows["image_codes"][:] == [[5, 0, 7], [1]]
    assert rows["file_name"][:] == codes.file_names


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.98])
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path, codes, suffix, kept):
    path = tmp_path / f"codes{suffix}"
    codes.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="truncated, damaged or no codes file|cannot be read as Parquet"):
        ImageCodes.load(path)


def test_a_foreign_json_file_is_refused(tmp_path):
    for content in ('{"text": "a"}', "[1, 2]", "3"):
        (tmp_path / "text.json").write_text(content)
        with pytest.raises(ValueError, match="no adatok-image-codes metadata"):
            ImageCodes.load(tmp_path / "text.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "all"}, "images must be given as list"),
        ({"images": [3]}, "1 to 4 image_codes"),
        ({"images": [{"image_codes": []}]}, "1 to 4 image_codes"),
        ({"images": [{"image_codes": [1, 2, 3, 4, 5]}]}, "1 to 4 image_codes"),
        ({"images": [{"image_codes": [0.5], "height": 1, "width": 1}]}, "whole numbers; got 0.5"),
        ({"images": [{"image_codes": [True], "height": 1, "width": 1}]}, "whole numbers; got True"),
        ({"images": [{"image_codes": [10**30], "height": 1, "width": 1}]}, "whole numbers; got 1000"),
        ({"images": [{"image_codes": [1], "height": 1, "width": 1}]}, "every image has a file_name"),
        ({"num_latent_tokens": 2**31 - 2}, "announces"),
        ({"codebook_size": 0}, "codebook_size is 0"),
    ],
)
def test_a_forged_json_file_is_refused(tmp_path, codes, changes, message):
    path = tmp_path / "codes.json"
    codes.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as caught:
        ImageCodes.load(path)
    assert "\n" not in str(caught.value)


def test_bytes_are_what_a_file_would_hold(tmp_path, codes):
    for suffix in SUFFIXES:
        codes.save(tmp_path / f"codes{suffix}")
        assert codes.to_bytes(suffix) == (tmp_path / f"codes{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(ValueError, match="No codes file at"):
        ImageCodes.load(tmp_path / f"absent{suffix}")


def test_another_ending_is_refused(tmp_path, codes):
    for action in (codes.save, ImageCodes.load):
        with pytest.raises(ValueError, match=r"must end in \.safetensors, \.parquet or \.json; got '.*codes\.pt'"):
            action(tmp_path / "codes.pt")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no adatok-image-codes metadata"):
        ImageCodes.load(tmp_path / "weights.safetensors")


def test_a_foreign_parquet_file_is_refused(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"text": ["a", "b"]}).to_parquet(str(tmp_path / "text.parquet"))
    with pytest.raises(ValueError, match="no adatok-image-codes metadata"):
        ImageCodes.load(tmp_path / "text.parquet")


@pytest.mark.parametrize("facts", ["{", "[]", '{"model": 3}'])
def test_damaged_metadata_are_refused(tmp_path, codes, facts):
    path = tmp_path / "codes.safetensors"
    codes.save(path)
    save_file(load_file(path), path, metadata={"adatok-image-codes": facts})
    with pytest.raises(ValueError, match="The metadata of .* are damaged"):
        ImageCodes.load(path)


def test_float_codes_are_refused(tmp_path, codes):
    path = tmp_path / "codes.safetensors"
    codes.save(path)
    (header_size,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + header_size])["__metadata__"]
    save_file(load_file(path) | {"image_codes": codes.image_codes.float()}, path, metadata=metadata)
    with pytest.raises(ValueError, match="image_codes in .* must be integers; got torch.float32"):
        ImageCodes.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_codes": torch.tensor([[5, 9, 7, 8], [1, 8, 8, 8]])}, "the code 9 at place 1 inside its budget of 3"),
        ({"image_codes": torch.tensor([[5, -1, 7, 8], [1, 8, 8, 8]])}, "the code -1 at place 1"),
        ({"image_codes": torch.tensor([[5, 0, 7, 8], [8, 8, 8, 8]])}, "'höhle.jpg' has the pad code 8 at place 0"),
        ({"budgets": torch.tensor([3, 0])}, "Every budget must lie between 1 and 4"),
        ({"budgets": torch.tensor([5, 1])}, "Every budget must lie between 1 and 4"),
        ({"budgets": torch.tensor([3])}, "2 file names need as many rows"),
        ({"file_names": ["a.png"]}, "1 file names need as many rows"),
        ({"file_names": ["a.png", 3]}, "Every file name must be text"),
        ({"original_sizes": torch.tensor([48, 64])}, r"original_sizes must have shape \(2, 2\)"),
    ],
)
def test_codes_that_no_model_could_decode_are_refused(codes, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(codes, **changes)


def test_codes_beyond_the_budget_may_be_anything(codes):
    replace(codes, image_codes=torch.tensor([[5, 0, 7, -3], [1, 99, 8, 8]]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_codes_out_of_range_in_a_file_are_refused_by_name(tmp_path, codes, suffix):
    path = tmp_path / f"codes{suffix}"
    codes.image_codes[1, 0] = 8
    codes.save(path)
    with pytest.raises(ValueError, match=r"codes\.(safetensors|parquet|json) is not a valid codes file: .*pad code 8"):
        ImageCodes.load(path)


def test_the_hash_tells_weights_apart_but_not_policies(tiny_model):
    first = model_hash(tiny_model)
    assert model_hash(tiny_model.train()) == first
    with torch.no_grad():
        tiny_model.policy.fc2.weight += 1
        tiny_model.config.is_policy_trained = True
    assert model_hash(tiny_model) == first
    with torch.no_grad():
        next(tiny_model.decoder.parameters()).flatten()[0] += 1e-3
    assert model_hash(tiny_model) != first


def test_the_hash_of_codes_knows_the_encoder_and_the_codebook_alone(tiny_model):
    first = codes_hash(tiny_model)
    tiny_model.config.lora_alpha *= 2
    with torch.no_grad():
        for part in (tiny_model.policy, tiny_model.decoder):
            next(part.parameters()).flatten()[0] += 1e-3
    assert codes_hash(tiny_model) == first
    for part in (tiny_model.encoder, tiny_model.quantizer):
        with torch.no_grad():
            next(part.parameters()).flatten()[0] += 1e-3
        assert codes_hash(tiny_model) != first
        first = codes_hash(tiny_model)


def test_the_hash_survives_saving_and_tells_architectures_apart(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path)
    loaded = type(tiny_model).from_pretrained(tmp_path)
    assert model_hash(loaded) == model_hash(tiny_model)
    loaded.config.lora_alpha *= 2
    assert model_hash(loaded) != model_hash(tiny_model)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert path.read_text() == "old"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
