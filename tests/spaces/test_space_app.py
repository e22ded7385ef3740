"""What the Space promises whatever model it shows, without a server."""

import re
import runpy
import sys
from pathlib import Path

import gradio as gr
import pytest
import torch
import yaml
from originals import read_original

from adatok_hf import checkpoints
from adatok_hf.checkpoint import save_checkpoint
from adatok_hf.conversion import convert_checkpoint


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "spaces" / "adatok"


@pytest.fixture
def start(monkeypatch):
    """Gives the names of an app that shows the model of a folder."""
    for name in ("ADATOK_PIPELINE", "ADATOK_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(FOLDER)

    def start_with(model: Path) -> dict:
        monkeypatch.setenv("ADATOK_MODEL", str(model))
        return runpy.run_path(str(FOLDER / "app.py"))

    yield start_with
    sys.modules.pop("texts", None)


@pytest.fixture
def app(start, tiny_checkpoint):
    """The names of an app whose model has 32 pixels, 16 tokens and an untrained policy."""
    return start(tiny_checkpoint)


def test_the_encoder_runs_once_for_a_picture_whatever_is_done_with_it(app, picture_file):
    passes = []
    app["explorer"].codec.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    encoded, _, pair, *_ = app["show"]({"path": str(picture_file), "orig_name": "halves.png"}, 0.0)
    assert encoded.name == "halves.png" and [picture.size for picture in pair] == [(32, 32)] * 2
    strip, points, _ = app["climb"](encoded, 5)
    assert [budget for budget, _ in points] == [4, 8, 16] and len(strip) == 3
    for budget in (1, 9, 16):
        assert f"{budget} of 16 tokens" in app["force"](encoded, points, 0.0, budget)[1]
    app["choose"](encoded, points, 3.0)
    app["play"](encoded)
    many, *_ = app["compare"]([str(picture_file)])
    app["sort"](many, 5.0)
    assert len(passes) == 2  # show and compare


def test_the_candidates_leave_alone_what_a_visitor_has_moved_meanwhile(app, picture_file):
    encoded, points, *view = app["show"]({"path": str(picture_file)}, 0.0)
    assert points == [] and view[-1] == 16
    forced = app["force"](encoded, points, 0.0, 5)
    *_, curve = app["climb"](encoded, 5)
    assert "marked are 5 tokens" in curve and "marked are 5 tokens" in forced[3]
    outputs = {
        component.elem_id
        for component in next(event.outputs for event in app["demo"].fns.values() if event.name == "climb")
    }
    assert outputs.isdisjoint({"budget", "verdict", "pair"})


def test_an_untrained_policy_keeps_everything_and_says_so(app, picture_file):
    *_, facts = app["reconstruct"]({"path": str(picture_file)})
    assert facts["budget"] == 16 and "policy" not in facts
    assert "has not been trained" in app["show"]({"path": str(picture_file)}, 0.0)[4]


def test_a_converted_one_d_piece_is_shown(start, tmp_path, picture_file):
    source = read_original("one-d-piece_s256").publish(tmp_path / "original")
    model = convert_checkpoint(source, tmp_path / "converted", "one-d-piece")
    app, full = start(tmp_path / "converted"), model.config.num_latent_tokens
    encoded, points, _, verdict, *_ = app["show"]({"path": str(picture_file)}, 0.0)
    assert f"{full} of {full} tokens" in verdict
    assert f"1 of {full} tokens" in app["force"](encoded, points, 0.0, 1)[1]
    _, points, _ = app["climb"](encoded, full)
    assert [budget for budget, _ in points] == list(model.config.budgets)


def test_a_tatok_is_shown(start, picture_file):
    app = start(Path(checkpoints()["tatok-tiny-64"]))
    encoded, points, _, verdict, policy, *_ = app["show"]({"path": str(picture_file)}, 0.0)
    chosen = app["explorer"].choose(encoded)[0]
    assert f"The model keeps <strong>{chosen} of 72 tokens" in verdict and "up to its threshold" in policy
    assert "8 of 72 tokens" in app["force"](encoded, points, 0.0, 8)[1]
    _, points, _ = app["climb"](encoded, chosen)
    assert [budget for budget, _ in points] == app["BUDGETS"]
    many, *_ = app["compare"]([str(picture_file)])
    assert app["sort"](many, 0.0)[2].count("<img") == 1
    sliders = {block.elem_id: block for block in app["demo"].blocks.values() if getattr(block, "elem_id", None)}
    assert sliders["budget"].minimum == 8 and "Threshold" in app["texts"].glossary(app["explorer"])


def test_a_calibrated_model_lies_on_its_slider(start, tmp_path, tiny_model, processor):
    tiny_model.config.cost_bias = -12.5
    save_checkpoint(tmp_path / "thrifty", tiny_model, processor)
    sliders = [block for block in start(tmp_path / "thrifty")["demo"].blocks.values() if isinstance(block, gr.Slider)]
    assert any(block.minimum <= -12.5 == block.value for block in sliders)


def test_a_policy_that_is_in_use_is_drawn(app, picture_file):
    app["explorer"].config.is_policy_trained = True
    with torch.no_grad():
        app["explorer"].codec.model.policy.fc2.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    *_, facts = app["reconstruct"]({"path": str(picture_file)})
    assert facts["chosen_budget"] == 8 and facts["policy"]["8"] > 0.9
    encoded, _, _, verdict, policy, *_, budget = app["show"]({"path": str(picture_file)}, 0.0)
    _, points, curve = app["climb"](encoded, budget)
    assert "The model keeps <strong>8 of 16 tokens" in verdict and "<svg" in policy and "<svg" in curve
    forced, chosen = app["force"](encoded, points, 0.0, 5), app["choose"](encoded, points, 0.0)
    assert "The model would keep 8" in forced[1] and chosen[-1] == 8
    assert len(forced) == len(chosen) - 1  # nothing for the slider, which somebody may be dragging on


def test_a_pipeline_ships_with_the_package(app, monkeypatch):
    monkeypatch.delenv("ADATOK_PIPELINE", raising=False)
    pipeline, reason = app["load_generator"]()
    assert reason is None and len(pipeline.class_names) == 159


def test_a_pipeline_that_cannot_be_loaded_is_said_in_one_sentence(app, monkeypatch, tmp_path):
    monkeypatch.setenv("ADATOK_PIPELINE", str(tmp_path))
    pipeline, reason = app["load_generator"]()
    assert pipeline is None and reason.startswith("The generator could not be loaded") and reason.endswith(".")


def test_names_of_files_are_no_html(app, picture_file):
    shown = app["show"]({"path": str(picture_file), "orig_name": "<img src=x onerror=alert(1)>.png"}, 0.0)
    assert "<img src=x" not in "".join(part for part in shown if isinstance(part, str))


def test_the_front_matter_fits_what_is_tested():
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert front["sdk"] == "gradio" and f"gradio=={front['sdk_version']}\n" in constraints
    assert (FOLDER / front["app_file"]).is_file() and len(front["short_description"]) <= 60
    extras = re.search(r"adatok-hf\[(.*)\]", (FOLDER / "requirements.txt").read_text(encoding="utf-8"))[1]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{extra}": [' in setup for extra in extras.split(","))


def test_the_page_names_no_address_but_the_papers():
    for path in FOLDER.glob("*.*"):
        if path.suffix in (".py", ".css", ".js"):
            found = set(re.findall(r"https?://[^\"'\s)]+", path.read_text(encoding="utf-8")))
            assert found <= {f"https://huggingface.co/papers/{paper}" for paper in ("2606.07185", "2605.16384")}, path
