"""What a budget per image and a head per budget are worth, by the studies of the shipped checkpoint."""

from adatok_hf.files import read_json
from adatok_hf.study.arms import MIRRORED
from adatok_hf.study.heads_study import HEADS_ON, HEADS_ZEROED
from adatok_hf.tables import markdown_table

from . import sources
from .claims import difference


def policy() -> str:
    """What choosing a budget per image is worth."""
    study = read_json(sources.STUDY / "study.json")
    arms = {row["arm"]: row for row in study["rows"]}
    against = {
        "shuffled": "its own budgets shuffled across images",
        "uniform": "one budget for all",
        "time-sharing hull": "the best lottery over fixed budgets",
        "regressor": "a supervised regressor of its size",
        MIRRORED: "an oracle that sees the rewards of the mirror images",
        "oracle (reward)": "an oracle that sees the rewards",
    }
    rows = [
        [name, difference(arms[arm]["difference"], arms[arm]["ci"])] for arm, name in against.items() if arm in arms
    ]
    rows[-1][1] += f"; the policy gets {share_of_oracle(study):.0%} of its gain"
    uniform = difference(arms["uniform"]["psnr_difference"], arms["uniform"]["psnr_ci"], "+.3f")
    groups = sorted(study["groups"], key=lambda group: group["mean_budget"])
    kinds = ", ".join(f"{group['group'].replace('_', ' ')} {group['mean_budget']:.1f}" for group in groups)
    table = markdown_table([f"the policy's LPIPS of {arms['policy']['lpips']:.3f} against", "better by"], rows)
    correlation = study["correlations"]["policy, webp_bytes"]
    return sources.of_predecessor("study", study["model_hash"]) + (
        f"On {study['n']:,} held-out images, at the mean of {study['mean_budget']:.1f} codes "
        "that the policy chooses by itself; the whole [study](study/study.md) is one command. The intervals of "
        f"95 % are over the images: the {study['seeds']} seeds are averaged first, and the bias that brings every arm "
        f"to this mean is set before the bootstrap, so neither is in them.\n\n{table}\n\n{foreseeable(study)}In "
        f"PSNR one budget for all differs from the policy by {uniform} dB. Mean budgets by kind: {kinds}. Their rank "
        f"correlation with the size of the WebP file is {correlation:.2f}. {weighting(study)} {heads()}"
    )


def policy_sentence() -> str:
    """Whether choosing a budget per image is worth something, in short."""
    study = read_json(sources.STUDY / "study.json")
    uniform = next(row for row in study["rows"] if row["arm"] == "uniform")
    gain = difference(uniform["difference"], uniform["ci"])
    return sources.of_predecessor("study", study["model_hash"]) + (
        f"On {study['n']:,} held-out images, at the {study['mean_budget']:.1f} codes that it chooses on average, the "
        f"policy's LPIPS is better than that of one budget for all by {gain}, {share_of_oracle(study):.0%} of what an "
        f"oracle would gain. {foreseeable(study)}{heads()}"
    )


def share_of_oracle(study: dict, arm: str = "policy") -> float | None:
    """What an arm gains over one budget for all, as a share of what an oracle gains; `None` for an absent arm."""
    shares = {(row["arm"], row["oracle"]): row["share"] for row in study["share_of_oracle"]}
    return shares.get((arm, "oracle (reward)"))


def foreseeable(study: dict) -> str:
    """How much of an oracle's gain lies in the pictures, where their mirror images were measured."""
    share = share_of_oracle(study, MIRRORED)
    if share is None:
        return ""
    return (
        "An oracle that sees the rewards of the mirror images, of the same pictures whose codes fall otherwise, gets "
        f"{share:.0%} of that gain. "
    )


def weighting(study: dict) -> str:
    """Where Dynamic Pareto Weighting ends."""
    arms = {arm["arm"]: arm for arm in study["ablations"]["weighting"]}
    starts = {"gradient from 0.25": "0.25", "gradient": "0.5", "gradient from 0.75": "0.75"}
    ends = ", ".join(f"{arms[arm]['weight_fidelity']:.2f} from {start}" for arm, start in starts.items())
    distances = [(arms[arm]["distance_to_sweep"], arms[arm]["distance_ci"]) for arm in starts]
    from_front = ", ".join(difference(*distance, "+.4f") for distance in distances)
    fixed = sum(arm.startswith("fixed") for arm in arms)
    means = sorted(mean for arm in starts for mean in arms[arm]["mean_budget_of_seeds"])
    return (
        f"Dynamic Pareto Weighting ends at fidelity weights of {ends}, {from_front} LPIPS from the front of a sweep "
        f"of {fixed} fixed weights, where negative is beyond it; without a cost bias it spends {means[0]:.1f} to "
        f"{means[-1]:.1f} codes, by seed."
    )


def heads() -> str:
    """What a head per budget is worth."""
    study = read_json(sources.STUDY / "heads.json")
    means = {row["arm"]: row for row in study["rows"] if row["budget"] == "mean"}
    none, shared = (
        difference(means[arm]["lpips_minus_k_heads"], means[arm]["ci"]) for arm in ("no heads", "shared head")
    )
    return sources.of_predecessor("study of the heads", study["settings"]["checkpoint"]) + (
        f"In {study['steps']} further steps from a common base the heads of `{study['model']}` gain {none} LPIPS "
        f"against none, {shared} against one shared head of as many parameters; without its heads the checkpoint "
        f"itself has {means[HEADS_ZEROED]['lpips']:.4f} in place of {means[HEADS_ON]['lpips']:.4f}."
    )
