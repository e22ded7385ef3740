"""The table holds what decoding gives, survives a cut, and refuses what does not belong to it."""

import json
from contextlib import nullcontext

import pytest
import torch
from datasets import load_dataset
from PIL import ImageOps
from torch import nn

from adatok_hf.allocation import reward_table
from adatok_hf.allocation.reward_table import RewardTable, build_reward_table
from adatok_hf.data import ImageFileError


def test_values_are_those_of_decoding_one_image_at_one_budget(build, tiny_model, processor, sample_images):
    table = RewardTable.load(build())
    assert table.budgets.tolist() == [4, 8, 16] and table.lpips.shape == (10, 3)
    pixel_values = processor(sample_images[3], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        codes = tiny_model.encode(pixel_values, budgets=8).image_codes
        decoded = tiny_model.decode(codes, budgets=8).pixel_values
        features = tiny_model.encoder(pixel_values)[1]
    rounded = (127.5 * (decoded.clamp(-1, 1) + 1)).round()
    error = (rounded / 127.5 - 1 - pixel_values).square().mean()
    torch.testing.assert_close(table.mse[3, 1], error)
    torch.testing.assert_close(table.psnr[3, 1], 10 * torch.log10(4 / error))
    torch.testing.assert_close(table.features[3:4], features)
    assert table.groups[:4] == ["flat", "gradient", "shapes", "noise"]
    assert table.webp_bytes[3] > table.webp_bytes[0]  # noise costs more than one colour
    steps = (pixel_values[..., 1:] - pixel_values[..., :-1], pixel_values[..., 1:, :] - pixel_values[..., :-1, :])
    torch.testing.assert_close(table.gradient_energy[3], sum(step.square().mean() for step in steps))
    assert table.gradient_energy[0] == 0


def test_mirror_images_are_measured_under_the_names_of_the_pictures(build, sample_images):
    mirrored = RewardTable.load(build("mirrored", mirrored=True))
    same = RewardTable.load(build("by hand", images=[ImageOps.mirror(image) for image in sample_images[:4]]))
    assert mirrored.info.mirrored and mirrored.image_hashes == RewardTable.load(build("straight")).image_hashes
    torch.testing.assert_close(mirrored.mse[:4], same.mse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mirrored.features[:4], same.features, atol=1e-3, rtol=1e-3)


def test_same_pixels_have_the_same_fingerprint_and_others_not(build):
    hashes = RewardTable.load(build()).image_hashes
    assert hashes[0] == hashes[4] and len(set(hashes)) == 4


def test_values_do_not_depend_on_the_batch(build):
    first = RewardTable.load(build("one", batch_size=1))
    second = RewardTable.load(build("four", batch_size=4))
    torch.testing.assert_close(first.mse, second.mse)
    torch.testing.assert_close(first.features, second.features)


def test_table_is_a_dataset_of_parquet_files(build):
    folder = build()
    dataset = load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train")
    assert len(dataset) == 10 and {"features", "lpips", "mse", "psnr", "group"} <= set(dataset.column_names)


def test_cut_off_table_goes_on_where_it_stopped(build, tmp_path):
    class Cut(Exception):
        pass

    calls = 0

    def cut_in_the_second_part(first, second):
        nonlocal calls
        calls += 1
        if calls > 4:  # three budgets a batch
            raise Cut
        return (first - second).abs().mean(dim=(1, 2, 3))

    with pytest.raises(Cut):
        build(distance=cut_in_the_second_part)
    folder = tmp_path / "table"
    with pytest.raises(ValueError, match="not finished: 2 of 3 parts"):
        RewardTable.load(folder)
    first = (folder / "part-00000-of-00003.parquet").stat().st_mtime_ns
    build()
    assert (folder / "part-00000-of-00003.parquet").stat().st_mtime_ns == first
    torch.testing.assert_close(RewardTable.load(folder).mse, RewardTable.load(build("whole")).mse)
    assert not list(folder.glob(".adatok-*"))


@pytest.mark.parametrize("cut", [False, True])
def test_table_of_other_images_is_refused(build, sample_images, cut):
    folder = build()
    if cut:
        (folder / "part-00002-of-00003.parquet").unlink()
    others = sample_images * 3
    others[5] = sample_images[2]
    with pytest.raises(ValueError, match="other images: image 5"):
        build(images=others)


def test_no_part_is_lost_when_one_process_is_done_before_another_begins(build, monkeypatch):
    class Process:
        process_index, num_processes = 0, 2

        def main_process_first(self):
            return nullcontext()

        def wait_for_everyone(self):
            pass

    monkeypatch.setattr(reward_table, "PartialState", Process)
    build()
    monkeypatch.setattr(Process, "process_index", 1)
    RewardTable.load(build())


def test_table_of_a_bfloat16_model(build, tiny_model):
    table = RewardTable.load(build(model=tiny_model.bfloat16()))
    assert len(table) == 10 and table.features.dtype == torch.float32


def test_other_budgets_than_the_candidates(build):
    assert RewardTable.load(build(budgets=[16, 2, 5])).budgets.tolist() == [2, 5, 16]


def test_table_of_another_checkpoint_is_refused(build, tiny_model):
    folder = build()
    RewardTable.load(folder, tiny_model)
    with torch.no_grad():
        tiny_model.policy.fc2.weight.add_(1)
    RewardTable.load(folder, tiny_model)  # the policy plays no part in it
    with torch.no_grad():
        tiny_model.decoder.mask_token.add_(1)
    with pytest.raises(ValueError, match="weights are not those"):
        RewardTable.load(folder, tiny_model)
    with pytest.raises(ValueError, match="another checkpoint"):
        build()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"budgets": [4, 8]}, "other budgets"),
        ({"data_name": "elsewhere"}, "other data"),
        ({"mirrored": True}, "the other way round"),
    ],
)
def test_folder_of_another_table_is_refused(build, options, reason):
    build()
    with pytest.raises(ValueError, match=reason):
        build(**options)


def test_budget_out_of_range(build):
    with pytest.raises(ValueError, match=r"between 1 and 16; got \[4, 17\]"):
        build(budgets=[4, 17])


def test_no_images(build):
    with pytest.raises(ValueError, match="no images"):
        build(images=[])


def test_nan_is_found_and_located(build):
    def broken(first, second):
        return torch.full((len(first),), torch.nan)

    with pytest.raises(ValueError, match="nan as lpips of image 0 at budget 4"):
        RewardTable.load(build(distance=broken))


def test_no_table(tmp_path):
    with pytest.raises(ValueError, match="no reward table"):
        RewardTable.load(tmp_path)


def test_images_that_cannot_be_read_are_left_out_and_named(build, tmp_path, sample_images, tiny_model, processor):
    class Damaged(list):
        def __getitem__(self, row):
            if row in (1, 4, 5, 6, 7):  # one of the first part, all of the second
                raise ImageFileError(f"{row}.png is damaged.")
            return super().__getitem__(row)

    def distance(first, second):
        return (first - second).abs().mean(dim=(1, 2, 3))

    items = Damaged({"image": image} for image in (sample_images * 3)[:10])
    arguments, named = (tiny_model, processor, items, distance, tmp_path / "some"), []
    assert build_reward_table(*arguments, images_per_part=4, warn=named.append) == 5
    assert named == [f"skipped {row}.png is damaged." for row in (1, 4, 5, 6, 7)]
    some, whole = RewardTable.load(tmp_path / "some"), RewardTable.load(build())
    assert len(some) == some.info.num_images == 5
    rows = [0, 2, 3, 8, 9]
    assert some.image_hashes == [whole.image_hashes[row] for row in rows]
    torch.testing.assert_close(some.lpips, whole.lpips[rows])
    assert build_reward_table(*arguments, images_per_part=4, warn=named.append) == 5  # goes on: nothing is left to do


def test_damaged_part(build):
    folder = build()
    (folder / "part-00001-of-00003.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="damaged"):
        RewardTable.load(folder)


def test_damaged_description(build):
    folder = build()
    info = json.loads((folder / "table.json").read_text())
    del info["budgets"]
    (folder / "table.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="damaged"):
        RewardTable.load(folder)


def test_selection_of_rows_and_budgets(make_table):
    table = make_table()
    smaller = table.select(torch.arange(200) < 3, budgets=[4, 16])
    assert len(smaller) == 3 and smaller.budgets.tolist() == [4, 16] and smaller.info.num_images == 3
    assert torch.equal(smaller.lpips, table.lpips[:3, [0, 2]])
    assert smaller.groups == ["flat", "busy", "flat"]
    smaller.check()
    with pytest.raises(ValueError, match=r"not \[5\]"):
        table.select(budgets=[4, 5])


def test_fidelity_is_the_weighted_sum(make_table):
    table = make_table()
    torch.testing.assert_close(table.fidelity(2.0), -(table.lpips + 2 * table.mse))


def test_model_without_gradient_is_left_as_it_is(build, tiny_model, snapshot_of):
    before = snapshot_of(tiny_model)
    build()
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


@pytest.fixture
def snapshot_of():
    return lambda module: {name: value.clone() for name, value in module.state_dict().items()}


def test_lpips_network_is_called_with_reconstruction_and_original(build, tiny_model):
    class Ranges(nn.Module):
        def forward(self, first, second):
            assert first.shape == second.shape == (len(first), 3, 32, 32)
            assert first.min() >= -1 and first.max() <= 1
            return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)

    assert RewardTable.load(build(distance=Ranges())).lpips.shape == (10, 3)
