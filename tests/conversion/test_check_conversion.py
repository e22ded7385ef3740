"""The comparison with original code, which stand-ins play here."""

import json

import pytest
import torch

from adatok_hf.cli import main
from adatok_hf.conversion import check_conversion as compare


class OneDPiece(torch.nn.Module):
    """Speaks like the original and computes like an AdaTok model, but for an error in the pixels."""

    def __init__(self, model, error: float = 0.0):
        super().__init__()
        self.model, self.error = model, error

    def encode(self, images):
        codes = self.model.encode(images * 2 - 1, budgets=16).image_codes
        return None, {"min_encoding_indices": codes[:, None]}

    def decode_tokens(self, codes):
        return (self.model.decode(codes[:, 0]).pixel_values + 1) / 2 + self.error


class TiTok(OneDPiece):
    """Has another name, by which the comparison knows that it decodes all codes or none."""


@pytest.mark.parametrize("repeats", [0, 2])
def test_equal_models_do_not_differ(tiny_model, repeats):
    result = compare.compare(OneDPiece(tiny_model), tiny_model, compare.make_images(2, 32), repeats)
    assert result["codes"] == 32 and result["differ"] == 0
    assert [row["call"] for row in result["rows"]] == ["encode", "decode 4", "decode 8", "decode 16"]
    assert all(row.get("difference", 0) == 0 for row in result["rows"])
    assert all(("milliseconds" in row) == (repeats > 0) for row in result["rows"])
    table = compare.format_rows(result).splitlines()
    assert len(table) == 5 and "0 of 32 codes" in table[1] and "0.0e+00" in table[2]


def test_a_difference_of_pixels_is_found(tiny_model):
    result = compare.compare(TiTok(tiny_model, error=0.25), tiny_model, compare.make_images(2, 32), 0)
    assert [row["call"] for row in result["rows"]] == ["encode", "decode 16"]
    assert result["rows"][1]["difference"] == pytest.approx(0.25, abs=1e-6)


def test_a_difference_of_codes_is_counted(tiny_model, monkeypatch):
    original = OneDPiece(tiny_model)
    encode = original.encode
    monkeypatch.setattr(original, "encode", lambda images: encode(images.flip(0)))
    result = compare.compare(original, tiny_model, compare.make_images(2, 32), 0)
    assert 0 < result["differ"] <= 32


def test_random_weights_are_far_from_trivial():
    model = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(64), "conv_out": torch.nn.Conv2d(8, 3, 3)})
    model.finetune_decoder, model.decoder = False, torch.nn.Module()
    model.decoder.conv_out = model["conv_out"]
    compare.randomize(model, seed=0)
    assert model["norm"].weight.mean().item() == pytest.approx(1, abs=0.1) and model["norm"].bias.std() > 0.05
    assert model["conv_out"].bias.mean().item() == pytest.approx(0.5, abs=0.3)


def test_what_is_no_clone_is_one_sentence(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": {"vq_model": {}}, "dataset": {"preprocessing": {}}}))
    with pytest.raises(SystemExit) as ended:
        main(["check-conversion", "--code", str(tmp_path), "--config", str(config)])
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and str(tmp_path) in message
