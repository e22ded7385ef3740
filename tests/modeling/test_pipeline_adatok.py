"""The pipeline: pictures from labels, and the way to and from folders and the Hub without our package."""

import json

import pytest
import torch
from fresh_process import FreshProcess
from hub_server import TOKEN, HubServer
from transformers import LlamaForCausalLM

from adatok_hf.modeling.pipeline_adatok import AdaTokPipeline
from adatok_hf.modeling.sampling_adatok import CodeSampler
from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary


LABELS = ["emoji", 1, None, "places/alley"]
STRANGER = """
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({source!r}, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
output = pipe({labels!r}, generator=[torch.Generator().manual_seed(seed) for seed in range(4)], output_type="pt")
result = output.budgets.tolist(), output.image_codes.tolist(), output.images.flatten()[:50].tolist()
"""
FILES = {
    "model_index.json",
    "pipeline_adatok.py",
    "sampling_adatok.py",
    "vocabulary_adatok.py",
    "image_processor/image_processing_adatok.py",
    "image_processor/preprocessor_config.json",
    "image_tokenizer/config.json",
    "image_tokenizer/configuration_adatok.py",
    "image_tokenizer/image_processing_adatok.py",
    "image_tokenizer/model.safetensors",
    "image_tokenizer/modeling_adatok.py",
    "image_tokenizer/preprocessor_config.json",
    "transformer/config.json",
    "transformer/generation_config.json",
    "transformer/model.safetensors",
}


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(count)]


@pytest.fixture
def pipe(tiny_model, processor, generator) -> AdaTokPipeline:
    pipeline = AdaTokPipeline(tiny_model, processor, generator)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def stranger(tmp_path):
    """A process without our package and without a network."""
    home = tmp_path / "stranger"
    home.mkdir()
    with FreshProcess(home, ["adatok_hf"], HF_HUB_OFFLINE="1") as process:
        yield process


def assert_same_images(seen, pipe):
    expected = pipe(LABELS, generator=seeds(4), output_type="pt")
    budgets, codes, pixels = seen
    assert budgets == expected.budgets.tolist() and codes == expected.image_codes.tolist()
    torch.testing.assert_close(torch.tensor(pixels), expected.images.flatten()[:50])


def test_pictures_are_the_codes_decoded_at_their_budgets(pipe, tiny_model, processor, generator):
    output = pipe(LABELS, generator=seeds(4))
    codes = CodeSampler(generator)(LABELS, generators=seeds(4))
    assert torch.equal(output.image_codes, codes.image_codes) and torch.equal(output.budgets, codes.budgets)
    with torch.no_grad():
        pixels = tiny_model.decode(codes.image_codes, budgets=codes.budgets).pixel_values
    assert [image.tobytes() for image in output.images] == [
        image.tobytes() for image in processor.post_process(pixels)
    ]
    assert len(set(output.budgets.tolist())) > 1


def test_images_of_a_label_lie_next_to_each_other(pipe):
    twice = pipe(["emoji", "places/abbey"], num_images_per_label=2, generator=seeds(4))
    assert len(twice.images) == 4
    single = pipe(["emoji", "emoji", 1, 1], generator=seeds(4))
    assert torch.equal(twice.image_codes, single.image_codes)


@pytest.mark.parametrize("label", ["emoji", 0, None])
def test_one_label_needs_no_list(pipe, label):
    assert torch.equal(
        pipe(label, 4, generator=seeds(1)).image_codes, pipe([label], 4, generator=seeds(1)).image_codes
    )


def test_budgets_can_be_forced_for_all_or_each(pipe):
    assert pipe(LABELS, budget=8).budgets.tolist() == [8] * 4
    assert pipe(LABELS, budget=[4, 16, 8, 4]).budgets.tolist() == [4, 16, 8, 4]


def test_pixel_values_and_tuples_on_request(pipe):
    images, budgets, codes = pipe(LABELS, output_type="pt", return_dict=False)
    assert images.shape == (4, 3, 32, 32) and len(budgets) == len(codes) == 4


def test_offloading_spares_the_tokenizer_and_changes_no_image(pipe):
    expected = pipe(LABELS, generator=seeds(4), output_type="pt")
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.transformer, "_hf_hook") and not hasattr(pipe.image_tokenizer, "_hf_hook")
    for _ in range(2):
        output = pipe(LABELS, generator=seeds(4), output_type="pt")
        assert torch.equal(output.images, expected.images)


def test_the_batch_size_changes_no_image(pipe):
    one, many = (pipe(LABELS, generator=seeds(4), batch_size=size, output_type="pt") for size in (1, 64))
    assert torch.equal(one.image_codes, many.image_codes)
    torch.testing.assert_close(one.images, many.images)


@pytest.mark.parametrize(
    "request_, part",
    [
        ({"class_labels": []}, "at least one label"),
        ({"class_labels": "emojis"}, "did you mean emoji"),
        ({"class_labels": 1, "budget": 3}, "4, 8, 16"),
        ({"class_labels": 1, "guidance_scale": -1.0}, "guidance_scale"),
        ({"class_labels": 1, "num_images_per_label": 0}, "num_images_per_label"),
        ({"class_labels": 1, "output_type": "latent"}, "output_type"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(pipe, one_sentence, request_, part):
    with one_sentence(part):
        pipe(**request_)


@pytest.mark.parametrize("facts, part", [({"codebook_size": 32}, "32 and 64"), ({"budgets": [8, 16]}, "[8, 16]")])
def test_parts_that_do_not_belong_together_are_refused(tiny_model, processor, one_sentence, facts, part):
    vocabulary = ImageVocabulary(**({"codebook_size": 64, "budgets": [4, 8, 16]} | facts))
    other = LlamaForCausalLM(vocabulary.model_config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with one_sentence("belong together", part):
        AdaTokPipeline(tiny_model, processor, other)


def test_a_folder_holds_all_that_it_needs(folder):
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} >= FILES
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == [
        "pipeline_adatok",
        "AdaTokPipeline",
    ]


def test_a_folder_loads_without_the_package_and_gives_the_same_images(folder, stranger, pipe):
    assert stranger.fail("import adatok_hf").startswith("ModuleNotFoundError")
    assert_same_images(stranger.run(STRANGER.format(source=str(folder), labels=LABELS)), pipe)


def test_what_a_stranger_saves_loads_again(folder, stranger, pipe, tmp_path):
    again = tmp_path / "again"
    stranger.run(f"""
        from diffusers import DiffusionPipeline
        pipe = DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)
        pipe.save_pretrained({str(again)!r})
    """)
    home = tmp_path / "another"
    home.mkdir()
    with FreshProcess(home, ["adatok_hf"], HF_HUB_OFFLINE="1") as another:
        assert_same_images(another.run(STRANGER.format(source=str(again), labels=LABELS)), pipe)


def test_parts_of_the_folder_are_models_of_their_own(folder, stranger):
    assert stranger.run(f"""
        from transformers import AutoModel, AutoModelForCausalLM
        tokenizer = AutoModel.from_pretrained({str(folder / "image_tokenizer")!r}, trust_remote_code=True)
        generator = AutoModelForCausalLM.from_pretrained({str(folder / "transformer")!r})
        result = type(tokenizer).__name__, type(generator).__name__
    """) == ["AdaTokModel", "LlamaForCausalLM"]


def test_saving_twice_into_a_folder_changes_nothing(folder, pipe):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pipe.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_pushing_while_saving_is_refused(pipe, tmp_path, one_sentence):
    with one_sentence("pipe.push_to_hub"):
        pipe.save_pretrained(tmp_path, push_to_hub=True)


def test_the_hub_serves_it_to_strangers(folder, pipe, tmp_path):
    for name in ("blobs", "author", "stranger"):
        (tmp_path / name).mkdir()
    (folder / "image_tokenizer" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    with (
        HubServer(tmp_path / "blobs") as hub,
        FreshProcess(tmp_path / "author", [], HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1") as author,
        FreshProcess(tmp_path / "stranger", ["adatok_hf"], HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1") as stranger,
    ):
        author.run(f"""
            from adatok_hf.generation.load_pipeline import load_pipeline
            from adatok_hf.generation.push_pipeline import push_pipeline
            push_pipeline({str(folder)!r}, "pipe")
            load_pipeline({str(folder)!r}).push_to_hub("tester/other")
        """)
        assert set(hub.files("tester/pipe")) >= FILES | {"README.md"} and len(hub.commits("tester/pipe")) == 1
        card = hub.files("tester/pipe")["README.md"]
        assert b'from_pretrained("tester/pipe"' in card and b"license: cc-by-4.0" in card
        assert set(hub.files("tester/other")) >= FILES
        assert_same_images(stranger.run(STRANGER.format(source="tester/pipe", labels=LABELS)), pipe)
