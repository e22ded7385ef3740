"""What `adatok reconstruct` draws and writes where the policy chooses the budget."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adatok_hf.cli import main
from adatok_hf.codec.grid import BAR, CHOSEN_BAR, GREY, MARGIN, GridRow, Reconstruction, draw_grid
from adatok_hf.codec.reconstruct import measure, reconstruct


CELL = 160  # five times 32
CHART = slice(MARGIN + 2 * (CELL + MARGIN), MARGIN + 2 * (CELL + MARGIN) + CELL)


@pytest.fixture
def pixel_values(processor, sample_images) -> torch.Tensor:
    return processor(sample_images, return_tensors="pt")["pixel_values"]


@pytest.fixture
def trained_model(tiny_model):
    torch.manual_seed(1)
    tiny_model.config.is_policy_trained = True
    nn.init.normal_(tiny_model.policy.fc2.weight, std=3)
    return tiny_model


@pytest.fixture
def run(trained_model, processor, sample_images, tmp_path):
    """Runs `adatok reconstruct` on the sample pictures; gives the grid and the report."""
    for index, image in enumerate(sample_images):
        image.save(tmp_path / f"{index}.png")

    def run(budget, *options):
        trained_model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        pictures = [str(tmp_path / f"{index}.png") for index in range(len(sample_images))]
        arguments = [
            "--model",
            tmp_path / "model",
            "--out",
            tmp_path / "out",
            "--budgets",
            budget,
            *options,
            "--device",
            "cpu",
        ]
        with pytest.raises(SystemExit) as exit_info:
            main(["reconstruct", *pictures, *map(str, arguments)])
        assert exit_info.value.code == 0
        report = json.loads((tmp_path / "out" / "results.json").read_text())
        return np.asarray(Image.open(tmp_path / "out" / "grid.png")), report

    return run


def row_of(policy: dict[int, float] | None, budget: int) -> GridRow:
    picture = Image.new("RGB", (32, 32), "teal")
    return GridRow("a.png", picture, [(Reconstruction(budget, picture, policy), 20.0)])


def chart_of(grid: np.ndarray, row: int = 0) -> np.ndarray:
    """The pixels of the cell in the third column."""
    top = MARGIN + row * (CELL + 44 + MARGIN)
    return grid[top : top + CELL, CHART]


def bars(chart: np.ndarray) -> list[tuple[int, tuple[int, int, int]]]:
    """Height and colour of each bar, from left to right: what stands on the lowest line of the chart."""
    found, previous = [], None
    for column in range(CELL):
        color = tuple(chart[-1, column].tolist())
        if color != previous and color in (BAR, CHOSEN_BAR):
            found.append((int((chart[:, column] == color).all(axis=1)[::-1].argmin()), color))
        previous = color
    return found


def test_the_policy_of_each_image_comes_with_its_reconstruction(trained_model, processor, pixel_values):
    trained_model.config.cost_bias = 2.0
    rows = reconstruct(trained_model, processor, pixel_values)
    with torch.no_grad():
        encoded = trained_model.encode(pixel_values)
    expected = (encoded.budget_logits - 2 * torch.tensor([4, 8, 16]) / 16).softmax(dim=1)
    for row, budget, probabilities in zip(rows, encoded.budgets.tolist(), expected.tolist()):
        assert len(row) == 1 and row[0].budget == budget
        assert row[0].policy == pytest.approx(dict(zip([4, 8, 16], probabilities)))
        assert max(row[0].policy, key=row[0].policy.get) == budget


def test_a_forced_budget_or_an_untrained_policy_has_no_distribution(trained_model, processor, pixel_values):
    assert all(
        cell.policy is None for row in reconstruct(trained_model, processor, pixel_values, [4, 8]) for cell in row
    )
    trained_model.config.is_policy_trained = False
    assert all(cell.policy is None for row in reconstruct(trained_model, processor, pixel_values) for cell in row)


def test_measuring_keeps_the_policy(trained_model, processor, pixel_values):
    originals = processor.post_process(pixel_values)
    cells = reconstruct(trained_model, processor, pixel_values)[2]
    row, (result,) = measure("c.png", originals[2], cells, trained_model.config)
    assert result.policy == row.cells[0][0].policy == cells[0].policy is not None


def test_a_cost_bias_moves_the_choice(run):
    budgets = [[row["budget"] for row in run("auto", "--cost-bias", bias)[1]["rows"]] for bias in ("1e6", "-1e6")]
    assert budgets == [[4] * 4, [16] * 4]


def test_the_report_gives_the_policy_only_where_it_chose(run, trained_model):
    grid, report = run("auto")
    assert grid.shape[1] == MARGIN + 3 * (CELL + MARGIN)
    for row in report["rows"]:
        assert list(row["policy"]) == ["4", "8", "16"]
        assert sum(row["policy"].values()) == pytest.approx(1)
        assert int(max(row["policy"], key=row["policy"].get)) == row["budget"]
    assert "policy" not in report["means"][0]
    grid, report = run("8")
    assert grid.shape[1] == MARGIN + 2 * (CELL + MARGIN)
    assert all("policy" not in row for row in report["rows"])


def test_an_untrained_policy_is_not_drawn(run, trained_model):
    trained_model.config.is_policy_trained = False
    grid, report = run("auto")
    assert grid.shape[1] == MARGIN + 2 * (CELL + MARGIN)
    assert all("policy" not in row and row["budget"] == 16 for row in report["rows"])


def test_the_bars_are_as_high_as_the_probabilities_and_the_chosen_one_is_in_colour():
    grid = np.asarray(draw_grid([row_of({4: 0.25, 8: 0.5, 16: 0.25}, 8), row_of({4: 0.8, 8: 0.2, 16: 0.0}, 4)]))
    first, second = bars(chart_of(grid, 0)), bars(chart_of(grid, 1))
    assert [color for _, color in first] == [BAR, CHOSEN_BAR, BAR]
    assert [color for _, color in second] == [CHOSEN_BAR, BAR, BAR]
    unit = second[0][0] / 0.8  # both rows share one scale
    for (height, _), probability in zip(first + second, [0.25, 0.5, 0.25, 0.8, 0.2, 0.0]):
        assert height == pytest.approx(max(1, probability * unit), abs=1)
    assert 120 < second[0][0] < CELL


@pytest.mark.parametrize("count", [1, 2, 8, 16, 64])
def test_charts_of_every_number_of_candidates_stay_in_their_cell(count):
    candidates = range(4, 4 * count + 1, 4)
    for chosen in {candidates[0], candidates[-1]}:
        policy = {budget: 1.0 if budget == chosen else 0.0 for budget in candidates}
        grid = np.asarray(draw_grid([row_of(policy, chosen)]))
        assert (grid[:, CHART.start - MARGIN + 2 : CHART.start - 1] == 255).all()
        assert (grid[:, CHART.stop + 1 :] == 255).all() and (grid[: MARGIN - 1] == 255).all()
        assert len(bars(chart_of(grid))) == count


def test_of_many_candidates_the_chosen_one_and_the_ends_are_written():
    policy = {budget: 1 / 64 for budget in range(4, 257, 4)}
    policy[132] = 0.5
    grid = np.asarray(draw_grid([row_of(policy, 132)]))
    below = grid[MARGIN + CELL + 3 : MARGIN + CELL + 3 + 16, CHART]
    near_chosen = np.abs(below.astype(int) - CHOSEN_BAR).sum(axis=2) < 60
    assert near_chosen.any()
    dark = (below < 200).any(axis=2).any(axis=0)
    starts = np.flatnonzero(np.diff(dark.astype(int)) == 1)
    assert np.count_nonzero(np.diff(starts, prepend=-99) > 20) == 3  # far apart: the first, the chosen, the last
    assert (np.abs(below.astype(int) - GREY).sum(axis=2) < 60).any()
