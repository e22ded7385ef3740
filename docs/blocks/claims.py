"""The table of `docs/claims.md`: what the papers say, what was measured here, and what follows from it."""

from collections.abc import Callable, Iterator, Sequence

from adatok_hf.checkpoint import checkpoint_name
from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources


Row = tuple[str, str, str]
TATOK_SPEED_UP = 8.7
AS_GOOD = 1.02  # times another gFID: what counts as alike
ONE_BUDGET = 0.9  # a share of the images that would make a policy one of a single budget
HOLDS, DOES_NOT, UNDECIDED = "holds", "does not hold", "cannot be decided"


def difference(value: float, interval: Sequence[float], form: str = ".4f") -> str:
    """A difference with its interval; what rounds to zero has no sign."""
    value, low, high = (format(round(number, int(form[-2])) + 0.0, form) for number in (value, *interval))
    return f"{value} [{low}, {high}]"


def less(differences: dict) -> str:
    """What a row of the study of fixed lengths has less LPIPS than another."""
    return difference(differences["lpips"], differences["ci"], "+.4f")


def is_less(interval: Sequence[float]) -> str:
    """The verdict on a claim that a difference lies below zero."""
    return HOLDS if interval[1] < 0 else DOES_NOT if interval[0] > 0 else UNDECIDED


def is_more(interval: Sequence[float]) -> str:
    """The verdict on a claim that a difference lies above zero."""
    return is_less([-bound for bound in reversed(interval)])


def in_every_seed(verdict: Callable[[Sequence[float]], str], differences: dict) -> str:
    """A verdict on trainings: the interval is over images alone, so all seeds must have its sign."""
    seeds = differences["by_seed"]
    found = verdict(differences["ci"]) if min(seeds) > 0 or max(seeds) < 0 else UNDECIDED
    return f"{found}, in one seed" if len(seeds) == 1 and found != UNDECIDED else found


def of_the_checkpoint(rows: list[dict]) -> Iterator[Row]:
    """Prefixes, and what the policy saves."""
    quality = {row["budget"]: row for row in rows}
    chosen, full = quality.pop("auto"), quality[max(quality)]
    curve = [row["lpips"] for _, row in sorted(quality.items())]
    better = sum(after < before for before, after in zip(curve, curve[1:]))
    yield (
        "Every prefix decodes, and more codes are better",
        f"LPIPS {curve[0]:.3f} at {min(quality)} codes, {curve[-1]:.3f} at {max(quality)}; {better} of "
        f"{len(curve) - 1} steps between candidates are better",
        HOLDS if better == len(curve) - 1 else DOES_NOT,
    )
    worse, kid = (chosen[measure] / full[measure] for measure in ("rfid", "kid"))
    yield (
        "Fewer than half of the codes, chosen per image, raise rFID by no more than 15 %",
        f"by {worse - 1:.0%}: {chosen['rfid']:.1f} at {chosen['mean_budget']:.1f} codes, {full['rfid']:.1f} at "
        f"{full['budget']}; KID by {kid - 1:.0%}",
        HOLDS if worse <= 1.15 and chosen["mean_budget"] < full["budget"] / 2 else DOES_NOT,
    )


def of_the_policy(study: dict) -> Iterator[Row]:
    """What the policy is worth, what its choices come from, and how many they are."""
    uniform = next(row for row in study["rows"] if row["arm"] == "uniform")
    yield (
        "A policy beats one budget for all at its mean",
        f"LPIPS of one budget {difference(uniform['difference'], uniform['ci'], '+.4f')}",
        is_more(uniform["ci"]),
    )
    arms = study["ablations"]["weighting"]
    found = [arm for arm in arms if arm["arm"].startswith("gradient")]
    worst = max(found, key=lambda arm: arm["distance_to_nearest"])
    yield (
        "Weights of the two rewards that find themselves beat fixed ones",
        f"LPIPS of the worst of {len(found)} starts less that of the nearest fixed weight at its mean "
        f"{difference(worst['distance_to_nearest'], worst['nearest_ci'], '+.4f')}",
        is_less(worst["nearest_ci"]),
    )
    by_size = next(row for row in study["rows"] if row["arm"] == "by WebP size")
    views = {row["sees"]: row for row in study["ablations"]["views"]}
    for claim, name, row in (
        ("The policy does more than mimic the size of a file", "budgets by the size of the WebP file", by_size),
        ("And sees more than that size", "a policy that sees nothing else", views["file size"]),
        ("And more than the energy of gradients", "a policy that sees nothing else", views.get("gradient energy")),
        ("It needs the patch states", "a policy without them", views["latent states"]),
        ("It needs the latent states", "a policy without them", views["patch states"]),
    ):
        if row is None:  # a view that the study did not have
            continue
        verdict = in_every_seed(is_more, row) if "by_seed" in row else is_more(row["ci"])
        yield claim, f"LPIPS of {name} {difference(row['difference'], row['ci'], '+.4f')}", verdict
    fewest = min(study["ablations"]["candidates"], key=lambda row: row["candidates"])
    yield (
        "More candidates serve it better",
        f"LPIPS with {fewest['candidates']} instead of {len(study['budgets'])} "
        f"{difference(fewest['difference'], fewest['ci'], '+.4f')}",
        in_every_seed(is_more, fewest),
    )
    trained = next(row for row in study["ablations"]["weighting"] if row["arm"] == "gradient")
    yield (
        f"It does not fall onto one budget (at most {ONE_BUDGET:.0%} of the images get the same)",
        f"the most frequent budget goes to {trained['top_share']:.0%}; the entropy of its choice is "
        f"{trained['entropy']:.2f} nats of at most {trained['largest_entropy']:.2f}",
        HOLDS if trained["top_share"] <= ONE_BUDGET else DOES_NOT,
    )


def of_fixed_lengths(study: dict) -> Iterator[Row]:
    """What adaptivity and the heads are worth."""
    arms = {(row["arm"], row["budget"]): row for row in study["rows"] if row["share"] == 1}
    policy, uniform = (arms[f"adaptive, {way}", "mean"]["minus_fixed"] for way in ("policy", "one budget for all"))
    yield (
        "An adaptive tokenizer beats one of fixed length at its mean",
        f"LPIPS of the adaptive one {less(policy)} with its policy, {less(uniform)} at one budget",
        in_every_seed(is_less, policy),
    )
    full = arms["adaptive, one budget for all", "full"]["minus_fixed"]
    yield (
        "Serving many budgets costs nothing at the full length",
        f"LPIPS of the adaptive one {less(full)}",
        in_every_seed(is_less, full),
    )
    for arm, name in (
        ("no heads", "no heads"),
        ("shared head", "one shared head of as many parameters"),
        ("two heads", "heads for two of the budgets"),
    ):
        if (arm, "mean") in arms:
            worth = arms[arm, "mean"]["minus_adaptive"]
            yield f"A head per budget beats {name}", f"LPIPS of {name} {less(worth)}", in_every_seed(is_more, worth)
    for arm, verb, verdict in (("rank 4", "is worse", is_more), ("rank 64", "is better", is_less)):
        if (arm, "mean") in arms:
            worth = arms[arm, "mean"]["minus_adaptive"]
            yield (
                f"The rank of the heads matters: {arm} {verb} than 16",
                f"LPIPS at {arm} {less(worth)}",
                in_every_seed(verdict, worth),
            )


def of_generation(bench: dict) -> Iterator[Row]:
    """What fewer codes save."""
    faster, fewer = bench["throughput_ratio"], bench["token_ratio"]
    yield (
        "Generation is faster by as much as there are fewer codes",
        f"{faster:.2f} times the images a second at {bench['mean_budget']:.0f} of {bench['full_budget']} codes, which "
        f"are {fewer:.2f} times fewer",
        HOLDS if faster >= 0.95 * fewer else DOES_NOT,
    )


def of_generated_images(reports: dict) -> Iterator[Row]:
    """What fewer codes cost."""
    adaptive, fixed = (
        {row["guidance_scale"]: row for row in reports[name]["rows"] if row["guidance_scale"] is not None}
        for name in ("adaptive", "fixed")
    )
    measured = [
        f"{adaptive[scale]['gfid']:.1f} at {adaptive[scale]['mean_budget']:.1f} codes, {fixed[scale]['gfid']:.1f} at "
        f"{fixed[scale]['mean_budget']:.0f}" + (f", with guidance {scale:g}" if scale != 1 else "")
        for scale in fixed
    ]
    worst, kid = (
        max(adaptive[scale][measure] / fixed[scale][measure] for scale in fixed) for measure in ("gfid", "kid")
    )
    verdicts = {HOLDS if ratio <= AS_GOOD else DOES_NOT for ratio in (worst, kid)}
    yield (
        "Images of budgets of their own are generated as well as by all codes (gFID and KID at most "
        f"{AS_GOOD - 1:.0%} more)",
        f"gFID {'; '.join(measured)}; KID up to {kid - 1:.1%} more",
        verdicts.pop() if len(verdicts) == 1 else UNDECIDED,
    )


def of_tatok(study: dict) -> Iterator[Row]:
    """How TaTok chooses its tokens."""
    arms = {row["arm"]: row for row in study["rows"]}

    def worth(arm: str) -> str:
        row = arms[arm]
        return difference(row["lpips"] - arms[row["against"]]["lpips"], row["ci"], "+.4f")

    for claim, name, arm in (
        ("TaTok: conditional entropy chooses patches better than chance", "chance", "random"),
        ("TaTok: and better than their variance", "variance", "pixel variance"),
        (
            "TaTok: global tokens are worth their place in a model that is built on them",
            "as many patches instead",
            "globals hidden, as many patches in their place",
        ),
    ):
        yield claim, f"LPIPS of {name} {worth(arm)}", is_more(arms[arm]["ci"])
    pairs = [arm for arm in arms if arm.startswith("TaTok, ") and arms[arm]["against"] is not None]
    verdicts = {is_less(arms[arm]["ci"]) for arm in pairs}
    measured = "; ".join(f"{worth(arm)} at {arm.removeprefix('TaTok, ')}" for arm in pairs)
    yield (
        "TaTok: it is better than an AdaTok of as many bits, trained as long",
        f"LPIPS, patches chosen by surprisal, less that of {checkpoint_name(study['adatok'])} {measured}",
        f"{verdicts.pop()}, in one training" if len(verdicts) == 1 else UNDECIDED,
    )


def of_tatok_generation(bench: dict) -> Iterator[Row]:
    """What kept patches save."""
    yield (
        f"TaTok: {TATOK_SPEED_UP} times faster inference at 56.4 of 256 tokens",
        f"{bench['throughput_ratio']:.2f} times the images a second, {bench['writing_ratio']:.2f} without the pixels: "
        f"{bench['token_ratio']:.2f} times fewer tokens, whose places make sequences {bench['position_cost']:.2f} "
        "times as long",
        HOLDS if bench["throughput_ratio"] >= 0.95 * TATOK_SPEED_UP else DOES_NOT,
    )


def claims() -> str:
    """What the papers say, what was measured here, and what follows from it; what was not measured yet is left out."""
    shipped, study = sources.shipped_folder(), read_json(sources.STUDY / "study.json")
    name = f"`{checkpoint_name(shipped)}`"

    def weights(digest: str | None) -> str:
        return name if sources.are_shipped(digest) else f"{name}, earlier weights"

    rows = [(*row, name) for row in of_the_checkpoint(read_json(shipped / "metrics.json")["rows"])]
    rows += [(*row, weights(study["model_hash"])) for row in of_the_policy(study)]
    for path, verdicts, whose in (
        (sources.STUDY / "fixed.json", of_fixed_lengths, "`pilot-64`, from random weights"),
        (sources.GENERATION_BENCH, of_generation, "random weights of the paper's size"),
        (sources.GENERATION_LENGTHS, of_generated_images, None),
        (sources.STUDY / "tatok.json", of_tatok, "`tatok-tiny-64`"),
        (sources.TATOK_BENCH, of_tatok_generation, "random weights of the paper's size"),
    ):
        if path.is_file():
            found = read_json(path)
            whose = whose or weights(found["adaptive"].get("model_hash"))  # which the oldest reports lack
            rows += [(*row, whose) for row in verdicts(found)]
    return markdown_table(["claim", "measured here", "verdict at this size", "weights"], rows)
