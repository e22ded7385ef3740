"""What is pushed comes back bit for bit, also where this package is not installed, and failures are said plainly."""

import json
import re
import urllib.error
import urllib.request

import pytest
import torch
from fresh_process import FreshProcess
from hub_server import HubServer
from safetensors.torch import load, load_file, save_file

from adatok_hf import AdaTokModel
from adatok_hf.model_card import model_card


CODE_FILES = {
    "backbone.py",
    "blocks.py",
    "configuration_adatok.py",
    "image_processing_adatok.py",
    "modeling_adatok.py",
    "pixel_decoder.py",
}
ALL_FILES = {*CODE_FILES, "config.json", "preprocessor_config.json", "model.safetensors", "README.md"}
PACKAGE = ["adatok_hf", "modeling", "conversion"]
PUSH = "from adatok_hf.checkpoint import push_checkpoint as push\n"
ROUND_TRIP = """
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained({checkpoint!r}, trust_remote_code=True)
model, info = AutoModel.from_pretrained({checkpoint!r}, trust_remote_code=True, output_loading_info=True)
inputs = processor([Image.open(path) for path in {pictures!r}], return_tensors="pt")
with torch.no_grad():
    encoded = model.encode(**inputs)
    decoded = model.decode(encoded.image_codes, budgets=encoded.budgets)
save_file({{**model.state_dict(), **inputs, **encoded, "reconstruction": decoded.pixel_values.contiguous()}}, {out!r})
result = [type(model).__module__, len(info["missing_keys"]), len(info["unexpected_keys"])]
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def author(hub, tmp_path_factory):
    """Has the package and the token."""
    folder = tmp_path_factory.mktemp("author")
    with FreshProcess(folder, [], HF_ENDPOINT=hub.url, HF_TOKEN="hf_test", HF_HUB_DISABLE_XET="1") as process:
        yield process


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory):
    """Has neither."""
    folder = tmp_path_factory.mktemp("stranger")
    with FreshProcess(folder, PACKAGE, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1") as process:
        yield process


@pytest.fixture(scope="module")
def hermit(tmp_path_factory):
    """Has neither, and no network."""
    with FreshProcess(tmp_path_factory.mktemp("hermit"), PACKAGE, HF_HUB_OFFLINE="1") as process:
        yield process


@pytest.fixture
def repo_id(request):
    """A repository of the test's own."""
    return "tester/" + re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")


@pytest.fixture
def trained_checkpoint(tmp_path, tiny_model, processor, sample_images):
    """Like `tiny_checkpoint`, but the policy is in use and gives the samples different budgets."""
    tiny_model.config.is_policy_trained = True
    with torch.no_grad():
        tiny_model.policy.fc2.weight.normal_(std=2.0)
        encoded = tiny_model.encode(**processor(sample_images, return_tensors="pt"))
        # No candidate wins for every sample once all candidates have the same mean score.
        tiny_model.policy.fc2.bias -= encoded.budget_logits.mean(dim=0)
    path = tmp_path / "trained_checkpoint"
    tiny_model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def pictures(tmp_path, sample_images):
    paths = [str(tmp_path / f"{index}.png") for index in range(len(sample_images))]
    for image, path in zip(sample_images, paths):
        image.save(path)
    return paths


def push(author, checkpoint, repo_id, **kwargs):
    return author.run(f"{PUSH}result = push({str(checkpoint)!r}, {repo_id!r}, **{kwargs!r})")


def assert_one_sentence(message):
    assert "\n" not in message and message.endswith("."), message


def assert_same_round_trip(process, checkpoint, model, processor, images, pictures, tmp_path):
    """A process of its own must see the same weights, pixel values, codes, budgets and reconstructions as this one."""
    out = tmp_path / "seen.safetensors"
    code = ROUND_TRIP.format(checkpoint=str(checkpoint), pictures=pictures, out=str(out))
    module, missing, unexpected = process.run(code)
    assert module.startswith("transformers_modules.")
    assert (missing, unexpected) == (0, 0)
    seen = load_file(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(seen[name], tensor), name
    inputs = processor(images, return_tensors="pt")
    with torch.no_grad():
        encoded = model.encode(**inputs)
        decoded = model.decode(encoded.image_codes, budgets=encoded.budgets)
    assert torch.equal(seen["pixel_values"], inputs["pixel_values"])
    assert torch.equal(seen["image_codes"], encoded.image_codes)
    assert torch.equal(seen["budgets"], encoded.budgets)
    torch.testing.assert_close(seen["reconstruction"], decoded.pixel_values)
    assert encoded.budgets.unique().numel() > 1


def test_push_sends_everything_in_one_commit(author, hub, repo_id, tiny_checkpoint):
    url = push(author, tiny_checkpoint, repo_id, commit_message="First words")
    assert url == f"{hub.url}/{repo_id}"
    assert [commit.summary for commit in hub.commits(repo_id)] == ["First words"]
    assert set(hub.files(repo_id)) == ALL_FILES


def test_push_completes_a_bare_name_by_the_user(author, hub, tiny_checkpoint):
    assert push(author, tiny_checkpoint, "bare") == f"{hub.url}/tester/bare"
    assert b'from_pretrained("tester/bare"' in hub.files("tester/bare")["README.md"]


def test_pushed_weights_are_bit_exact(author, hub, repo_id, tiny_model, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id)
    pushed = load(hub.files(repo_id)["model.safetensors"])
    expected = tiny_model.state_dict()
    assert pushed.keys() == expected.keys()
    assert all(torch.equal(pushed[name], tensor) for name, tensor in expected.items())


def test_load_checkpoint_takes_a_hub_id(author, repo_id, tmp_path, tiny_model, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id)
    author.run(f"""
        from adatok_hf.checkpoint import load_checkpoint
        model, processor = load_checkpoint({repo_id!r})
        model.save_pretrained({str(tmp_path / "pulled")!r})
    """)
    pulled = load_file(tmp_path / "pulled" / "model.safetensors")
    assert all(torch.equal(pulled[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_the_stranger_lacks_the_package(stranger, hermit):
    for process in (stranger, hermit):
        for name in PACKAGE:
            assert process.fail(f"import {name}").startswith("ModuleNotFoundError")


def test_pull_without_the_package_gives_the_same_codes_and_pixels(
    author, stranger, repo_id, trained_checkpoint, tiny_model, processor, sample_images, pictures, tmp_path
):
    push(author, trained_checkpoint, repo_id)
    assert_same_round_trip(stranger, repo_id, tiny_model, processor, sample_images, pictures, tmp_path)


def test_folder_offline_without_the_package_gives_the_same_codes_and_pixels(
    hermit, trained_checkpoint, tiny_model, processor, sample_images, pictures, tmp_path
):
    assert_same_round_trip(hermit, trained_checkpoint, tiny_model, processor, sample_images, pictures, tmp_path)


def test_saving_from_remote_code_carries_the_code(
    author,
    stranger,
    hermit,
    repo_id,
    trained_checkpoint,
    tiny_model,
    processor,
    sample_images,
    pictures,
    tmp_path,
):
    push(author, trained_checkpoint, repo_id)
    folder = tmp_path / "again"
    stranger.run(f"""
        from transformers import AutoImageProcessor, AutoModel
        AutoModel.from_pretrained({repo_id!r}, trust_remote_code=True).save_pretrained({str(folder)!r})
        AutoImageProcessor.from_pretrained({repo_id!r}, trust_remote_code=True).save_pretrained({str(folder)!r})
    """)
    assert {path.name for path in folder.iterdir()} == ALL_FILES - {"README.md"}
    assert_same_round_trip(hermit, folder, tiny_model, processor, sample_images, pictures, tmp_path)


def test_push_to_hub_of_model_and_processor_is_enough(
    author, stranger, hub, repo_id, trained_checkpoint, tiny_model, processor, sample_images, pictures, tmp_path
):
    author.run(f"""
        from adatok_hf import AdaTokImageProcessor, AdaTokModel
        AdaTokModel.from_pretrained({str(trained_checkpoint)!r}).push_to_hub({repo_id!r})
        AdaTokImageProcessor.from_pretrained({str(trained_checkpoint)!r}).push_to_hub({repo_id!r})
    """)
    assert ALL_FILES - {"README.md"} <= set(hub.files(repo_id))
    assert_same_round_trip(stranger, repo_id, tiny_model, processor, sample_images, pictures, tmp_path)


def test_sharded_weights_load_bit_exact(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded, info = AdaTokModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_push_replaces_weights_of_another_number_of_files(author, hub, repo_id, tiny_checkpoint):
    author.run(f"""
        from adatok_hf import AdaTokModel
        AdaTokModel.from_pretrained({str(tiny_checkpoint)!r}).push_to_hub({repo_id!r}, max_shard_size="50KB")
    """)
    assert "model.safetensors.index.json" in hub.files(repo_id)
    push(author, tiny_checkpoint, repo_id)
    assert set(hub.files(repo_id)) == ALL_FILES


def test_push_to_a_revision_leaves_main_alone(author, stranger, hub, repo_id, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id, revision="v2")
    assert hub.commits(repo_id) == []
    assert set(hub.files(repo_id, "v2")) == ALL_FILES
    size = stranger.run(f"""
        from transformers import AutoModel
        model = AutoModel.from_pretrained({repo_id!r}, trust_remote_code=True, revision="v2")
        result = model.config.image_size
    """)
    assert size == 32


def test_private_repositories_need_the_token(author, stranger, repo_id, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id, private=True)
    load_config = f"from transformers import AutoConfig\nAutoConfig.from_pretrained({repo_id!r})"
    author.run("import adatok_hf\n" + load_config)
    assert repo_id in stranger.fail(load_config)


def test_card_snippet_runs_without_the_package(author, stranger, hub, repo_id, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id)
    card = hub.files(repo_id)["README.md"].decode()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert stranger.run(snippet + "result = [encoded.budgets.tolist(), picture.size]") == [[16], [32, 32]]


def test_push_writes_metrics_of_the_folder_into_card_and_repository(author, hub, repo_id, tiny_checkpoint):
    metrics = {
        "rows": [{"budget": 4, "psnr": 17.25, "lpips": 0.5}],
        "training": {"steps": 100, "datasets": ["some/set"]},
    }
    (tiny_checkpoint / "metrics.json").write_text(json.dumps(metrics))
    push(author, tiny_checkpoint, repo_id)
    files = hub.files(repo_id)
    assert json.loads(files["metrics.json"]) == metrics
    card = files["README.md"].decode()
    assert "| 4 | 17.25 | 0.5 |\n| 8 | not measured | not measured |" in card
    assert "- steps: 100" in card and "datasets:\n- some/set" in card


def test_push_keeps_the_card_of_the_folder_unless_told(author, hub, repo_id, tiny_checkpoint):
    own = "---\nlicense: mit\n---\n\nMy own words.\n"
    (tiny_checkpoint / "README.md").write_text(own)
    push(author, tiny_checkpoint, repo_id)
    assert hub.files(repo_id)["README.md"].decode() == own
    push(author, tiny_checkpoint, repo_id, renew_card=True)
    renewed = hub.files(repo_id)["README.md"].decode()
    assert "## Budgets" in renewed and "license: mit" in renewed


def test_the_snippet_of_a_card_from_training_loads_from_the_repository(
    author, hub, repo_id, tiny_checkpoint, tiny_config
):
    card = model_card(tiny_config, tiny_checkpoint.name, license="cc-by-nc-4.0")
    (tiny_checkpoint / "README.md").write_text(card, encoding="utf-8")
    push(author, tiny_checkpoint, repo_id)
    pushed = hub.files(repo_id)["README.md"].decode()
    assert pushed.count(f'from_pretrained("{repo_id}", trust_remote_code=True)') == 2
    assert f'"{tiny_checkpoint.name}"' not in pushed and "cc-by-nc-4.0" in pushed


def test_push_refuses_a_damaged_checkpoint_and_sends_nothing(author, hub, repo_id, tiny_checkpoint):
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    tensors.pop("decoder.mask_token")
    save_file(tensors, tiny_checkpoint / "model.safetensors", metadata={"format": "pt"})
    error = author.fail(f"{PUSH}push({str(tiny_checkpoint)!r}, {repo_id!r})")
    assert error.startswith("ValueError: ") and "lack decoder.mask_token" in error
    assert repo_id not in hub.repositories


@pytest.mark.parametrize(
    ("repo_id", "kwargs", "message"),
    [
        ("tester/wrong-token", {"token": "hf_wrong"}, "the token is not valid"),
        ("someone/not-mine", {}, "gives no right"),
        ("tester/bad--name", {}, "'tester/bad--name' is no repository id"),
        ("a/b/c", {}, "'a/b/c' is no repository id"),
        ("tester/bad-rows", {"metrics": {"rows": [{}]}}, "Every row of the metrics"),
    ],
)
def test_push_failures_are_one_sentence_and_commit_nothing(author, hub, tiny_checkpoint, repo_id, kwargs, message):
    call = f"push({str(tiny_checkpoint)!r}, {repo_id!r}, **{kwargs!r})"
    error = author.fail(f"{PUSH}{call}")
    assert error.startswith("ValueError: ") and message in error
    assert_one_sentence(error)
    assert repo_id not in hub.repositories


def test_push_refuses_a_card_that_the_hub_refuses(author, hub, repo_id, tiny_checkpoint):
    (tiny_checkpoint / "README.md").write_text("No front matter.")
    error = author.fail(f"{PUSH}push({str(tiny_checkpoint)!r}, {repo_id!r})")
    assert error.startswith("ValueError: Invalid metadata in README.md.") and "\n" not in error
    assert hub.commits(repo_id) == []


def test_push_without_a_token_says_so(stranger_with_package, tiny_checkpoint):
    error = stranger_with_package.fail(f"{PUSH}push({str(tiny_checkpoint)!r}, 'tester/no-token')")
    assert error.startswith("ValueError: No Hub token was found")


def test_unreachable_hub_is_one_sentence(stranger_with_package, tiny_checkpoint):
    error = stranger_with_package.fail(f"{PUSH}push({str(tiny_checkpoint)!r}, 'tester/nowhere', token='hf_test')")
    assert error.startswith("ValueError: The Hub could not be reached")
    assert_one_sentence(error)
    code = "from adatok_hf.checkpoint import load_checkpoint\nload_checkpoint('tester/nowhere')"
    error = stranger_with_package.fail(code)
    assert error.startswith("ValueError: The Hub could not be reached")
    assert_one_sentence(error)


@pytest.fixture(scope="module")
def stranger_with_package(tmp_path_factory):
    """Has the package, no token, and a Hub that nobody serves."""
    with FreshProcess(tmp_path_factory.mktemp("lost"), [], HF_ENDPOINT="http://127.0.0.1:9") as process:
        yield process


def test_absent_models_and_revisions_are_one_sentence(author, repo_id, tiny_checkpoint):
    push(author, tiny_checkpoint, repo_id)
    code = "from adatok_hf.checkpoint import load_checkpoint\nload_checkpoint({!r}, revision={!r})"
    absent = author.fail(code.format("tester/absent", None))
    assert "The Hub has no model tester/absent" in absent
    revision = author.fail(code.format(repo_id, "v9"))
    assert "has no such revision" in revision
    assert_one_sentence(absent)
    assert_one_sentence(revision)


def status(url, method, body, token=None):
    request = urllib.request.Request(url, data=body, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_refuses_a_wrong_checksum(hub):
    sha256 = "0" * 64
    assert status(f"{hub.url}/lfs/{sha256}", "PUT", b"other content") == 400
    assert not hub.blob(sha256).exists()


def test_the_server_refuses_writes_without_the_token(hub):
    body = json.dumps({"name": "unsigned", "organization": None}).encode()
    assert status(f"{hub.url}/api/repos/create", "POST", body) == 401
    assert status(f"{hub.url}/api/repos/create", "POST", body, "hf_wrong") == 401
    assert "tester/unsigned" not in hub.repositories


def test_a_tatok_is_pushed_and_comes_back_bit_for_bit_without_the_package(
    author, stranger, hub, repo_id, tatok_checkpoint, tiny_tatok, processor, sample_images, pictures, tmp_path
):
    push(author, tatok_checkpoint, repo_id)
    tatok_files = {"configuration_tatok.py", "modeling_tatok.py"}
    assert set(hub.files(repo_id)) == ALL_FILES - {"modeling_adatok.py"} | tatok_files
    out = tmp_path / "tatok.safetensors"
    code = ROUND_TRIP.replace("encoded.image_codes, budgets=encoded.budgets", "encoded")
    result = stranger.run(code.format(checkpoint=repo_id, pictures=pictures, out=str(out)))
    assert result[0].startswith("transformers_modules.") and result[1:] == [0, 0]
    inputs = processor(sample_images, return_tensors="pt")
    with torch.no_grad():
        encoded = tiny_tatok.encode(**inputs)
        reconstruction = tiny_tatok.decode(encoded).pixel_values
    expected = {**tiny_tatok.state_dict(), **inputs, **encoded, "reconstruction": reconstruction}
    actual = load_file(out)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
