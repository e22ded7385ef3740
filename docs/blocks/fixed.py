"""Adaptive tokenizers against those of one length, all trained alike."""

from adatok_hf.files import read_json
from adatok_hf.study.fixed_study import NAMES
from adatok_hf.tables import markdown_table

from . import sources
from .claims import difference, of_fixed_lengths


INTERVALS = {"lpips": "ci", "psnr": "psnr_ci"}  # of the differences


def fixed() -> str:
    """An adaptive tokenizer against those of one length, all trained alike."""
    study = read_json(sources.STUDY / "fixed.json")
    trainings, rows = study["trainings"], []
    for row in study["rows"]:
        if row["share"] == 1:
            length = f"{row['mean_budget']:.1f}" if row["budget"] == "mean" else f"{row['mean_budget']:.0f}, all"
            cells = [f"{row['rfid']:.1f}" if "rfid" in row else "", f"{row['lpips']:.4f}", f"{row['psnr']:.2f} dB"]
            rows.append([row["arm"], length, *cells, *against(row)])
    header = [
        "arm",
        "codes",
        "rFID",
        "LPIPS",
        "PSNR",
        "LPIPS less that of fixed",
        "by seed",
        "PSNR less that of fixed",
        "LPIPS less that of adaptive",
    ]
    seconds = [each["cpu_seconds_per_step"] for each in trainings]
    hours = sum(each["steps"] * each["cpu_seconds_per_step"] for each in trainings) / 3600
    arms = dict.fromkeys(each["arm"] for each in trainings)
    chosen = "" if arms.keys() <= set(NAMES) else f' --arms "{",".join(arms)}"'
    return (
        f"{study['n']:,} held-out images, {seeds_of(study)}, {trainings[0]['steps']:,} steps each of "
        f"{min(seconds):.2f} to {max(seconds):.2f} s, {hours:.1f} hours of a CPU core for all; 95 % intervals over "
        f"the images. By `{fixed_command(study)}{chosen}`.{missing_arms(study)}\n\n{markdown_table(header, rows)}\n\n"
        "At the mean on the way, and less the fixed tokenizer "
        "after the same share of the training:\n\n"
        f"{on_the_way(study, 'psnr', '.2f')}\n\n{on_the_way(study, 'lpips', '.4f')}"
        "\n\nBy kind of image, at the mean and the end, LPIPS less that of the fixed tokenizer:\n\n"
        f"{of_kinds(study['groups'])}"
    )


def fixed_sentence() -> str:
    """Whether adaptivity pays, and why."""
    study = read_json(sources.STUDY / "fixed.json")
    at_mean = {row["arm"]: row for row in study["rows"] if (row["share"], row["budget"]) == (1, "mean")}
    policy, uniform, oracle = (at_mean[f"adaptive, {way}"] for way in ("policy", "one budget for all", "oracle"))
    price, gains = uniform["minus_fixed"], [row["minus_adaptive"] for row in (policy, oracle)]
    lpips, psnr = ((policy["minus_fixed"][key], policy["minus_fixed"][name]) for key, name in INTERVALS.items())
    _, _, verdict = next(of_fixed_lengths(study))
    length, steps = study["settings"]["fixed_budget"], study["trainings"][0]["steps"]
    serving = difference(price["lpips"], price["ci"], "+.4f")
    return (
        "Does adaptivity pay? The claim that an adaptive tokenizer beats one of a fixed length "
        f"{verdict} at this size (`{fixed_command(study)}`). Trained alike from random weights, {steps} steps, on "
        f"{study['n']:,} held-out images, one with a mean of {length} codes has {difference(*lpips, '+.4f')} LPIPS "
        f"(more is worse) and {difference(*psnr, '+.2f')} dB (less is worse) against one that always has {length}. "
        f"Serving every budget by one set of weights accounts for {serving} LPIPS; choosing budgets by the policy "
        f"changes it by {gains[0]['lpips']:+.4f}, an oracle would by {gains[1]['lpips']:+.4f}."
    )


def fixed_command(study: dict) -> str:
    """Trains and compares all arms again."""
    settings = study["settings"]
    return (
        f"adatok study fixed --recipe {settings['recipe']} --train-data data --eval-data data --fixed-budget "
        f"{settings['fixed_budget']} --seeds {settings['seeds']} --rfid --out fixed"
    )


def missing_arms(study: dict) -> str:
    """Says which arms have not been trained, or not with every seed."""
    trained = {(each["arm"], each["seed"]) for each in study["trainings"]}
    seeds, missing = range(study["settings"]["seeds"]), []
    for arm in NAMES:
        lacking = [str(seed) for seed in seeds if (arm, seed) not in trained]
        if lacking:
            missing.append(arm if len(lacking) == len(seeds) else f"{arm} by seed {' and '.join(lacking)}")
    return f" Not trained yet: {', '.join(missing)}." if missing else ""


def seeds_of(study: dict) -> str:
    """How many seeds, in words."""
    seeds = study["settings"]["seeds"]
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def of_kinds(groups: list[dict]) -> str:
    """The differences to the fixed tokenizer by kind of image."""
    arms = dict.fromkeys(group["arm"] for group in groups)
    at = {(group["arm"], group["group"]): group for group in groups}
    rows = []
    for kind in dict.fromkeys(group["group"] for group in groups):
        found = [at[arm, kind] for arm in arms]
        cells = [difference(group["lpips_minus_fixed"], group["ci"], "+.4f") for group in found]
        rows.append([kind, str(found[0]["n"]), f"{found[0]['mean_budget']:.1f}", *cells])
    return markdown_table(["kind", "images", "codes by the policy", *arms], rows)


def against(row: dict) -> list[str]:
    """What an arm has less than the fixed tokenizer of its length and than the adaptive one; nothing for itself."""
    fixed, adaptive, cells = row["minus_fixed"], row["minus_adaptive"], [""] * 4
    if fixed is not None:
        seeds = ", ".join(f"{value:+.4f}" for value in fixed["by_seed"])
        lpips = difference(fixed["lpips"], fixed["ci"], "+.4f")
        cells[:3] = [lpips, seeds, difference(fixed["psnr"], fixed["psnr_ci"], "+.2f")]
    if adaptive is not None:
        cells[3] = difference(adaptive["lpips"], adaptive["ci"], "+.4f")
    return cells


def on_the_way(study: dict, key: str, form: str) -> str:
    """One measure at the mean as training goes on, and the difference to the fixed tokenizer."""
    at_mean = [row for row in study["rows"] if row["budget"] == "mean"]
    shares, cells = sorted({row["share"] for row in at_mean}), {}
    for row in at_mean:
        cell, fixed = format(row[key], form), row["minus_fixed"]
        if fixed is not None:
            cell += ", " + difference(fixed[key], fixed[INTERVALS[key]], f"+{form}")
        cells[row["arm"], row["share"]] = cell
    rows = [[arm, *(cells[arm, share] for share in shares)] for arm in dict.fromkeys(row["arm"] for row in at_mean)]
    return markdown_table(["arm", *(f"{key.upper()} at {share:.0%}" for share in shares)], rows)
