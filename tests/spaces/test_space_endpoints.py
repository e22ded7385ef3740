"""The endpoints of the Space do what they say, refuse what they cannot do in plain words, and live on."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import adatok_hf
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.codec.explorer import Explorer
from adatok_hf.metrics.rate import bits_per_pixel, whole_bytes


SAMPLES = Path(adatok_hf.__file__).parent / "samples"
USERS = 10
GROWTH = 300 << 20  # bytes that ten users may add


@pytest.fixture(scope="module")
def client(space) -> Client:
    return Client(space.url, verbose=False)


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer.from_pretrained(adatok_hf.default_checkpoint(), lpips=False)


@pytest.fixture
def codes(explorer, picture_file) -> ImageCodes:
    """Of one picture, 12 codes."""
    return explorer.to_file(explorer.encode([picture_file], ["two-halves.png"]), [12])


def is_alive(client: Client, picture: Path) -> bool:
    return client.predict(handle_file(picture), api_name="/reconstruct")[1]["image"] == picture.name


def test_every_endpoint_needs_one_argument_at_most(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert endpoints.keys() == {"/reconstruct", "/decode", "/compare", "/generate"}
    for name, endpoint in endpoints.items():
        required = [item for item in endpoint["parameters"] if not item["parameter_has_default"]]
        assert len(required) <= 1 and endpoint["parameters"][: len(required)] == required, name


def test_reconstruct_gives_the_picture_at_the_chosen_budget_and_what_it_costs(client, explorer):
    picture = SAMPLES / "04_shapes.png"
    (original, reconstruction), facts = client.predict(handle_file(picture), api_name="/reconstruct")
    (encoded,) = explorer.encode([picture], [picture.name])
    assert facts["image"] == picture.name
    assert facts["budget"] == facts["chosen_budget"] == explorer.choose(encoded)[0] == len(facts["image_codes"])
    assert facts["bytes"] == whole_bytes(facts["budget"], explorer.config)
    assert facts["bits_per_pixel"] == pytest.approx(bits_per_pixel(facts["budget"], explorer.config))
    assert facts["lpips"] > 0 and sum(facts["policy"].values()) == pytest.approx(1, abs=1e-3)
    assert Image.open(original).tobytes() == encoded.original.tobytes()
    (decoded,) = explorer.codec.decode([facts["image_codes"]])
    difference = np.abs(np.asarray(Image.open(reconstruction), float) - np.asarray(decoded, float))
    assert difference.mean() < 1


def test_a_cost_bias_buys_more_or_fewer_tokens(client):
    picture = handle_file(SAMPLES / "07_castle.png")
    budgets = [client.predict(picture, bias, api_name="/reconstruct")[1]["budget"] for bias in (-10, 0, 10)]
    assert budgets[0] > budgets[1] > budgets[2]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_decode_takes_a_file_of_codes(client, explorer, codes, tmp_path, suffix):
    codes.save(tmp_path / f"codes{suffix}")
    pictures, facts = client.predict(handle_file(tmp_path / f"codes{suffix}"), api_name="/decode")
    assert facts == [{"image": "two-halves.png", "budget": 12}]
    (expected,) = explorer.from_file(codes)
    picture = Image.open(pictures[0]["image"])
    assert picture.size == expected.picture.size
    assert np.abs(np.asarray(picture, float) - np.asarray(expected.picture, float)).mean() < 1


def test_decode_uses_fewer_tokens_on_request(client, codes, tmp_path):
    codes.save(tmp_path / "codes.json")
    _, facts = client.predict(handle_file(tmp_path / "codes.json"), 5, api_name="/decode")
    assert facts[0]["budget"] == 5


def test_compare_sorts_by_budget(client):
    names = ["04_shapes.png", "06_sketch.png", "12_cat.webp", "03_lemon.png"]
    pictures, facts = client.predict([handle_file(SAMPLES / name) for name in names], api_name="/compare")
    budgets = [item["budget"] for item in facts]
    assert budgets == sorted(budgets) and len(set(budgets)) > 1
    assert {item["image"] for item in facts} == set(names)
    assert [item["caption"].split(":")[0] for item in pictures] == [item["image"] for item in facts]
    width, height = Image.open(pictures[0]["image"]).size
    assert width > 2 * height  # the original beside its reconstruction


def test_compare_leaves_out_what_is_no_picture(client, picture_file, tmp_path):
    (tmp_path / "letter.png").write_text("Dear reader")
    files = [handle_file(tmp_path / "letter.png"), handle_file(picture_file)]
    assert [item["image"] for item in client.predict(files, api_name="/compare")[1]] == [picture_file.name]


def test_generate_gives_the_same_pictures_for_the_same_seed(client):
    runs = [client.predict("owl", "auto", 1.0, seed, 3, api_name="/generate") for seed in (5, 5, 6)]
    budgets = [facts["budgets"] for _, facts in runs]
    assert len(budgets[0]) == 3 and budgets[0] == budgets[1]
    first, second, third = ([Image.open(item["image"]).tobytes() for item in pictures] for pictures, _ in runs)
    assert first == second != third
    assert runs[0][1]["seconds_per_image"] > 0


def test_generate_takes_an_empty_seed_for_that_which_stands_there_at_first(client):
    pictures = [client.predict("owl", "16", 2.5, seed, 2, api_name="/generate")[0] for seed in (None, 0)]
    first, second = ([Image.open(item["image"]).tobytes() for item in some] for some in pictures)
    assert first == second


def test_generate_with_one_argument_and_with_a_forced_budget(client):
    assert len(client.predict("cat", api_name="/generate")[0]) == 8
    _, facts = client.predict("castle", "16", 2.0, api_name="/generate")
    assert set(facts["budgets"]) == {16}


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("letter.png", b"Dear reader", ["letter.png is not an image file of a known format"]),
        ("empty.jpg", b"", ["empty.jpg is empty"]),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["drawing.svg is not an image file"]),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(client, picture_file, tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(tmp_path / name), api_name="/reconstruct")
    assert all(part in str(caught.value) for part in parts) and "/" not in str(caught.value), caught.value
    assert is_alive(client, picture_file)


def test_a_strip_of_pixels_is_refused(client, picture_file, tmp_path):
    Image.new("RGB", (20_000, 10), "teal").save(tmp_path / "strip.png")
    with pytest.raises(AppError, match="aspect ratio of at most 200; got 20000x10"):
        client.predict(handle_file(tmp_path / "strip.png"), api_name="/reconstruct")
    assert is_alive(client, picture_file)


def test_a_small_file_of_too_many_pixels_is_refused(client, picture_file, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(AppError, match="bomb.png has too many pixels"):
        client.predict(handle_file(tmp_path / "bomb.png"), api_name="/reconstruct")
    assert is_alive(client, picture_file)


def test_a_file_of_fifty_megabytes_is_refused(client, picture_file, tmp_path):
    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(50 << 20))
    with pytest.raises(Exception, match="(?i)413|size"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/reconstruct")
    assert is_alive(client, picture_file)


def test_odd_pictures_are_pictures(client, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("CMYK", (40, 30), "teal").save(tmp_path / "print.jpg")
    for name, color in (
        ("dot.png", (255, 0, 0)),
        ("moving.gif", (255, 0, 0)),
        ("clear.png", (255,) * 3),
        ("print.jpg", None),
    ):
        (original, _), facts = client.predict(handle_file(tmp_path / name), api_name="/reconstruct")
        assert facts["image"] == name
        assert color is None or Image.open(original).getpixel((20, 20)) == color, name


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), "lots"])
def test_a_cost_bias_that_is_no_number_is_refused(client, picture_file, bias):
    with pytest.raises((AppError, ValueError)):
        client.predict(handle_file(picture_file), bias, api_name="/reconstruct")
    assert is_alive(client, picture_file)


@pytest.mark.parametrize("budget", [0, -3, 10**9])
def test_budgets_out_of_range_are_refused(client, picture_file, codes, tmp_path, budget):
    codes.save(tmp_path / "codes.json")
    with pytest.raises(AppError, match="(?i)minimum|maximum"):
        client.predict(handle_file(tmp_path / "codes.json"), budget, api_name="/decode")
    assert is_alive(client, picture_file)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model_hash": "0" * 64}, "made by another model"),
        ({"format": "something"}, "codes.json holds no adatok-image-codes metadata"),
        ({"images": [{"image_codes": [10**6], "height": 1, "width": 1, "file_name": "a"}]}, "the code 1000000"),
        ({"num_latent_tokens": 2**31 - 2}, "at most 64"),
        ({"images": [{"image_codes": [1], "height": 1, "width": 1, "file_name": "a"}] * 40}, "at most 32"),
    ],
)
def test_foreign_and_forged_codes_are_refused(client, picture_file, codes, tmp_path, changes, part):
    path = tmp_path / "codes.json"
    codes.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(path), api_name="/decode")
    assert part in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert is_alive(client, picture_file)


def test_an_unknown_label_is_refused(client, picture_file):
    with pytest.raises(AppError, match="unicorn"):
        client.predict("unicorn", api_name="/generate")
    assert is_alive(client, picture_file)


def test_ten_users_at_once_get_their_own_pictures_in_bounded_memory(space, tmp_path):
    for user in range(USERS):
        Image.new("RGB", (64, 64), (20 * user, 100, 200 - 20 * user)).save(tmp_path / f"user-{user}.png")
    before = space.memory()

    def use(user: int) -> list[tuple[str, tuple[int, int, int]]]:
        own, seen = Client(space.url, verbose=False), []
        for _ in range(3):
            (original, _), facts = own.predict(handle_file(tmp_path / f"user-{user}.png"), api_name="/reconstruct")
            seen.append((facts["image"], Image.open(original).getpixel((9, 9))))
        return seen

    with ThreadPoolExecutor(USERS) as pool:
        for user, seen in enumerate(pool.map(use, range(USERS))):
            assert seen == [(f"user-{user}.png", (20 * user, 100, 200 - 20 * user))] * 3
    assert space.memory() - before < GROWTH


def test_what_users_gave_and_got_is_gone_when_the_app_has_ended(space, client, picture_file):
    assert is_alive(client, picture_file)
    assert any(path.name == picture_file.name for path in space.cache.rglob("*"))
    space.stop()
    left = {path.name for path in space.cache.rglob("*") if path.is_file() and path.stat().st_size}
    assert left <= {path.name for path in SAMPLES.iterdir()}
    assert list(space.temporary.iterdir()) == []
