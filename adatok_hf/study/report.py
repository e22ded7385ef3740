"""A study in words: the table for the terminal and one Markdown report, all of it computed from the numbers."""

import json
from pathlib import Path

from ..files import whole_file
from ..tables import markdown_table
from .arms import MIRRORED


ARGUMENTS = (
    "max_steps",
    "per_device_train_batch_size",
    "learning_rate",
    "weighting",
    "fidelity_weight",
    "scale_rewards",
    "entropy_coef",
    "mse_weight",
    "old_policy_steps",
    "epsilon",
    "beta",
)
COMPLEXITY = {
    "webp_bytes": "the size of the WebP file",
    "gradient_energy": "the mean squared difference of neighbouring pixels",
}


def format_study_table(result: dict) -> str:
    """Lays out the arms of a study at their common mean as a table of plain text."""
    width = max(len(row["arm"]) for row in result["rows"])
    lines = [f"{'':{width}}  budget   LPIPS    PSNR   LPIPS less the policy's [95 %]"]
    for row in result["rows"]:
        line = f"{row['arm']:{width}}  {row['mean_budget']:6.2f}  {row['lpips']:.4f}  {row['psnr']:6.2f}"
        is_policy = row["arm"] == "policy"
        lines.append(line if is_policy else f"{line}   {row['difference']:+.4f} {_bounds(row['ci'], '+.4f')}")
    lines += ["", f"{result['n']:,} held-out images, {result['seeds']} seeds. Positive: the policy is better."]
    return "\n".join(lines)


def last_line(result: dict) -> str:
    """The study as one line of JSON, one entry of `rows` per arm: `arm, mean_budget, lpips, psnr, ci`."""
    names = ("arm", "mean_budget", "lpips", "psnr", "ci")
    return json.dumps({"rows": [{name: row[name] for name in names} for row in result["rows"]]})


def write_report(folder: str | Path) -> Path:
    """
    Writes `study.md` from the `study.json` of a folder, and from `heads.json` where there is one of the same weights.

    Args:
        folder (`str` or `Path`): Where [`~adatok_hf.study.policy_study.run_study`] wrote, with the figures.

    Returns:
        `Path`: of the report.

    Raises:
        `ValueError`: if there is no study.
    """
    folder = Path(folder)
    if not (folder / "study.json").is_file():
        raise ValueError(f"There is no study.json in {folder}; run `adatok study policy --out {folder}` first.")
    result = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    heads = folder / "heads.json"
    heads = json.loads(heads.read_text(encoding="utf-8")) if heads.is_file() else None
    if heads is not None and heads["settings"]["checkpoint"] != result["model_hash"]:
        heads = None
    with whole_file(folder / "study.md") as path:
        path.write_text(format_report(result, heads), encoding="utf-8")
    return folder / "study.md"


def format_report(result: dict, heads: dict | None = None) -> str:
    """The Markdown report of a study, and of an ablation of the heads where given."""
    sections = [
        "# Is choosing the budget per image worth something?",
        _setup(result),
        "## In short",
        "\n".join(f"- {sentence}" for sentence in conclusions(result)),
        f"## All arms at a mean of {result['mean_budget']:.2f} image codes",
        _arms(result),
        "![Quality against mean budget](front.png)",
        "## Which images get more codes",
        _groups(result),
        "![Budgets by kind of image](groups.png)",
        "## Dynamic Pareto Weighting against a sweep of fixed weights",
        _weighting(result),
        "![Gain over uniform of each weighting](sweep.png)\n\n![Weights over training](training.png)",
        "## Scaling of the rewards",
        _scale(result),
        "## Candidate sets",
        _candidates(result),
    ]
    if "views" in result["ablations"]:
        sections += ["## What the policy has to see", _views(result)]
    if heads is not None:
        sections += ["## Heads", _heads(heads)]
    return "\n\n".join([*sections, "## Conditions", _conditions(result)]) + "\n"


def conclusions(result: dict) -> list[str]:
    """What the numbers say, a sentence for each question."""
    rows = {row["arm"]: row for row in result["rows"]}
    mean = result["mean_budget"]
    sentences = [f"At a mean of {mean:.2f} codes the policy has LPIPS {rows['policy']['lpips']:.4f}."]
    for name, words in (
        ("shuffled", "its own budgets shuffled across images"),
        ("uniform", "one budget for all images"),
        ("time-sharing hull", "the time-sharing hull of the candidates"),
        ("random", "random budgets"),
        ("by WebP size", "its own budgets dealt out by WebP size"),
        ("regressor", "the supervised regressor"),
        ("checkpoint policy", "the policy of the checkpoint"),
    ):
        if name not in rows:
            continue
        row = rows[name]
        in_lpips = compare(row["difference"], row["ci"], "LPIPS")
        in_psnr = compare(-row["psnr_difference"], [-bound for bound in reversed(row["psnr_ci"])], "dB PSNR")
        sentences.append(f"Against {words}, the policy is {in_lpips}, and {in_psnr}.")
    for row in result["share_of_oracle"]:
        if row["arm"] == "policy" and row["share"] is not None:
            sentences.append(
                f"It gets {row['share']:.0%} {_bounds(row['ci'], '.0%')} of what the {row['oracle']} gains over "
                "uniform in LPIPS; an oracle looks at the very qualities that it is judged by."
            )
        if (row["arm"], row["oracle"]) == (MIRRORED, "oracle (reward)") and row["share"] is not None:
            sentences.append(
                f"An oracle that sees the rewards of the mirror images alone gets {row['share']:.0%} "
                f"{_bounds(row['ci'], '.0%')} of it: what is left of an oracle's gain where the codes of the same "
                "picture fall otherwise."
            )
    spread = rows["policy"]["lpips_of_seeds"]
    sentences.append(
        f"Over {len(spread)} seeds the policy's LPIPS lies between {min(spread):.4f} and {max(spread):.4f}."
    )
    trained = result["as_trained"][0]
    sentences.append(
        f"As trained, without a cost bias, it spends {trained['mean_budget']:.2f} codes with a standard deviation of "
        f"{trained['std_budget']:.2f} over the images; its most frequent budget serves {trained['top_share']:.0%} of "
        f"them, and its entropy is {trained['entropy']:.2f} of at most {trained['largest_entropy']:.2f} nats: "
        + ("it has collapsed to one budget." if trained["top_share"] > 0.95 else "no collapse to one budget.")
    )
    return sentences + _about_complexity(result)


def compare(difference: float, ci: list[float], unit: str) -> str:
    """
    A difference as a phrase, positive where the policy is better.

    Example:

    ```python
    >>> from adatok_hf.study.report import compare

    >>> compare(0.0061, [0.0052, 0.0070], "LPIPS")
    'better by 0.0061 [0.0052, 0.0070] LPIPS'
    >>> compare(-0.0003, [-0.0011, 0.0005], "LPIPS")
    'not distinguishable (-0.0003 [-0.0011, 0.0005] LPIPS includes zero)'

    ```"""
    if ci[0] > 0:
        return f"better by {difference:.4f} {_bounds(ci)} {unit}"
    if ci[1] < 0:
        return f"worse by {-difference:.4f} {_bounds([-ci[1], -ci[0]])} {unit}"
    return f"not distinguishable ({difference:.4f} {_bounds(ci)} {unit} includes zero)"


def _setup(result: dict) -> str:
    dropped = result["images_seen_in_training"]
    apart = max(abs(row["mean_budget"] - result["mean_budget"]) for row in result["rows"])
    return (
        f"{result['n']:,} held-out images ({result['eval_data'] or 'unnamed'}); {dropped} more were dropped "
        f"because they are among the {result['n_train']:,} images that the policies learned from "
        f"({result['train_data'] or 'unnamed'}). Model: {result['model'] or 'unnamed'}, hash "
        f"`{result['model_hash'][:12]}`. LPIPS is of the {result['perceptual_net']} network.\n\n"
        "All arms of the first table use the same images and the same mean budget: each arm's cost bias is set on "
        f"the held-out images from its scores alone, which brings all means within {apart:.3f} codes; no measured "
        "quality is looked at, except by the oracles and the hull. Quality is the expected one for each image, so "
        "lotteries (shuffled, random, fractional means) are exact. Intervals are 95 % percentiles of a paired "
        f"bootstrap over images ({result['resamples']:,} resamples); an arm's {result['seeds']} seeds are "
        "averaged first, image by image, so the intervals hold for these seeds. In differences from the policy, "
        "positive means that the policy is better."
    )


def _arms(result: dict) -> str:
    rows = [
        [
            row["arm"],
            f"{row['mean_budget']:.2f}",
            f"{row['lpips']:.4f}",
            f"{row['psnr']:.2f}",
            *(
                ["", ""]
                if row["arm"] == "policy"
                else [
                    f"{row['difference']:+.4f} {_bounds(row['ci'], '+.4f')}",
                    f"{-row['psnr_difference']:+.3f} {_bounds([-b for b in reversed(row['psnr_ci'])], '+.3f')}",
                ]
            ),
            " ".join(f"{value:.4f}" for value in row["lpips_of_seeds"]) if len(row["lpips_of_seeds"]) > 1 else "",
        ]
        for row in result["rows"]
    ]
    header = ["arm", "mean budget", "LPIPS", "PSNR (dB)", "policy better by, LPIPS", "policy better by, dB", "seeds"]
    return markdown_table(header, rows) + (
        "\n\nUniform interpolates between neighbouring columns of the table, also those between the candidates, which "
        "the next larger candidate's head serves. The time-sharing hull is the best lottery over the candidates. "
        "Both WebP arms deal out the policy's own budgets, by the size of the picture's file and in the reverse order."
    )


def _groups(result: dict) -> str:
    rows = [
        [
            row["group"] or "all",
            f"{row['n']:,}",
            f"{row['mean_budget']:.2f}",
            f"{row['oracle_mean_budget']:.2f}",
            f"{row['webp_bytes']:,.0f}",
            f"{row['lpips']:.4f}",
            f"{row['uniform_lpips']:.4f}",
        ]
        for row in result["groups"]
    ]
    header = ["kind", "images", "mean budget", "oracle's", "WebP bytes", "LPIPS", "LPIPS of uniform"]
    correlations = [
        [name, "-" if value is None else f"{value:+.3f}"] for name, value in result["correlations"].items()
    ]
    return (
        "\n".join(f"- {sentence}" for sentence in _about_complexity(result))
        + f"\n\n{markdown_table(header, rows)}\n\n{markdown_table(['budgets of, against', 'Spearman'], correlations)}"
    )


def _about_complexity(result: dict) -> list[str]:
    groups, sentences = result["groups"], []
    if len(groups) > 1:
        sentences.append(
            f"The policy spends least on {groups[0]['group'] or 'unnamed'} ({groups[0]['mean_budget']:.1f} codes) and "
            f"most on {groups[-1]['group'] or 'unnamed'} ({groups[-1]['mean_budget']:.1f})."
        )
    for name, measure in COMPLEXITY.items():
        correlation = result["correlations"].get(f"policy, {name}")
        oracle = result["correlations"].get(f"oracle (reward), {name}")
        if correlation is not None and oracle is not None:
            trend = "rise" if correlation > 0 else "fall"
            sentences.append(
                f"Its budgets {trend} with {measure}: rank correlation {correlation:+.2f}; that of the oracle's "
                f"budgets is {oracle:+.2f}."
            )
    for row in result["share_of_oracle"]:
        if (row["arm"], row["oracle"]) == ("by WebP size", "oracle (reward)") and row["share"] is not None:
            sentences.append(
                f"The policy's budgets dealt out by WebP size get {row['share']:.0%} {_bounds(row['ci'], '.0%')} of "
                "what the oracle (reward) gains over uniform in LPIPS."
            )
    return sentences


def _weighting(result: dict) -> str:
    sentences, rows = [], []
    for row in result["ablations"]["weighting"]:
        distance = ""
        if row["distance_to_sweep"] is not None:
            distance = f"{row['distance_to_sweep']:+.4f} {_bounds(row['distance_ci'], '+.4f')}"
            place = _place(row["distance_ci"])
            near = f"{row['distance_to_nearest']:+.4f} {_bounds(row['nearest_ci'], '+.4f')}"
            sentences.append(
                f"- {row['arm']} lands {place} the front of the fixed weights: {distance} LPIPS from it at "
                f"{row['mean_budget']:.2f} codes (negative is beyond), an interval that {_zero(row['distance_ci'])}. "
                f"Against {row['nearest']}, shifted by a cost bias to that mean: {near}, which "
                f"{_zero(row['nearest_ci'])}."
            )
        elif "nearest" in row:
            sentences.append(f"- {row['arm']} is cheaper than every fixed weight of the sweep: no front to compare.")
        weight = row["weight_fidelity"]
        rows.append(
            [
                row["arm"],
                "-" if weight is None else f"{weight:.3f}",
                f"{row['mean_budget']:.2f}",
                f"{row['lpips']:.4f}",
                f"{row['psnr']:.2f}",
                f"{row['gain_over_uniform']:+.4f} {_bounds(row['gain_ci'], '+.4f')}",
                distance,
                f"{row['entropy']:.2f}",
                f"{row['top_share']:.0%}",
            ]
        )
    header = ["weights", "fidelity's at the end", "mean budget", "LPIPS", "PSNR (dB)", "gain over uniform, LPIPS"]
    header += ["LPIPS from the front", "entropy (nats)", "most frequent budget"]
    return (
        "Every policy as it was trained, without a cost bias, so each at its own mean.\n\n"
        + "\n".join(sentences)
        + "\n\nStraight pieces between the points of a convex front lie a little above it, which favours what is held "
        "against them; the second comparison does not have this fault.\n\n" + markdown_table(header, rows)
    )


def _scale(result: dict) -> str:
    rows = []
    policy, group = result["ablations"]["scale"]
    for row in (policy, group):
        trained = row["as_trained"]
        rows.append(
            [
                f"by the {row['scale_rewards']}",
                f"{row['lpips']:.4f}",
                "" if row is policy else f"{row['difference']:+.4f} {_bounds(row['ci'], '+.4f')}",
                f"{trained['mean_budget']:.2f}",
                f"{trained['std_budget']:.2f}",
                f"{trained['top_share']:.0%}",
            ]
        )
    header = ["deviation", "LPIPS at the common mean", "less the policy's", "mean as trained", "deviation of budgets"]
    verdict = compare(group["difference"], group["ci"], "LPIPS")
    return (
        "Rewards divided by each image's own deviation lose how much an image gains in absolute terms. Against a "
        f"policy trained so, at the common mean, the policy is {verdict}. As trained, the budgets of the former "
        f"deviate by {group['as_trained']['std_budget']:.2f} codes over the images, those of the latter by "
        f"{policy['as_trained']['std_budget']:.2f}.\n\n" + markdown_table([*header, "most frequent budget"], rows)
    )


def _candidates(result: dict) -> str:
    rows = []
    for row in result["ablations"]["candidates"]:
        numbers = ["not reachable", "", ""]
        if row["lpips"] is not None:
            is_policy = row["budgets"] == result["budgets"]
            difference = "" if is_policy else f"{row['difference']:+.4f} {_bounds(row['ci'], '+.4f')}"
            numbers = [f"{row['lpips']:.4f}", difference, f"{row['oracle_lpips']:.4f}"]
        rows.append([str(row["candidates"]), ", ".join(map(str, row["budgets"])), *numbers])
    header = ["candidates", "budgets", "LPIPS", "less the policy's", "LPIPS of the oracle (reward)"]
    return "All at the common mean.\n\n" + markdown_table(header, rows)


def _views(result: dict) -> str:
    rows = [
        [row["sees"], f"{row['lpips']:.4f}", f"{row['difference']:+.4f} {_bounds(row['ci'], '+.4f')}"]
        for row in result["ablations"]["views"]
    ]
    table = markdown_table(["sees only", "LPIPS at the common mean", "less the policy's"], rows)
    about = (
        "Policies of the same size, trained alike, that see a part of what the policy sees, or only one measure of an "
        "image's complexity."
    )
    return f"{about}\n\n{table}"


def _heads(heads: dict) -> str:
    rows = [
        [
            row["arm"],
            str(row["budget"]),
            f"{row['psnr']:.2f}",
            f"{row['lpips']:.4f}",
            "" if row["ci"] is None else f"{row['lpips_minus_k_heads']:+.4f} {_bounds(row['ci'], '+.4f')}",
        ]
        for row in heads["rows"]
    ]
    parameters = ", ".join(f"{arm} {count:,}" for arm, count in heads["parameters_of_heads"].items())
    return (
        f"Trained from the same base on the same images at the same budgets: {heads['steps']:,} steps of "
        f"{heads['images_per_step']} images, {heads['seeds']} seeds, measured on {heads['n']:,} held-out "
        f"images. Parameters of the heads: {parameters}. Positive: K heads are better.\n\n"
        + markdown_table(["arm", "budget", "PSNR (dB)", "LPIPS", "LPIPS less that of K heads"], rows)
    )


def _conditions(result: dict) -> str:
    arguments = ", ".join(f"{name} {result['arguments'][name]}" for name in ARGUMENTS if name in result["arguments"])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"Policy: {arguments}; seeds {result['arguments']['seed']} to "
        f"{result['arguments']['seed'] + result['seeds'] - 1}. Candidates {result['budgets']}, columns of the tables "
        f"{result['table_budgets']}. {versions}. Model hash `{result['model_hash']}`. All numbers are in `study.json`."
    )


def _place(ci: list[float]) -> str:
    return "beyond" if ci[1] < 0 else "behind" if ci[0] > 0 else "on"


def _zero(ci: list[float]) -> str:
    return "includes zero" if ci[0] <= 0 <= ci[1] else "excludes zero"


def _bounds(ci: list[float], form: str = ".4f") -> str:
    return f"[{ci[0]:{form}}, {ci[1]:{form}}]"


__all__ = ["conclusions", "format_report", "format_study_table", "last_line", "write_report"]
