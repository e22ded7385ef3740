"""Where the time goes."""

from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources


def speed() -> str:
    """Where the time goes, as ratios within one run."""
    bench = read_json(sources.BENCH)
    full_budget = max(int(row["name"].split()[-1]) for row in bench["rows"] if row["name"].startswith("plain decode"))
    shown = ["encode", "policy alone", "search of budgets"]
    shown += [f"decode uniform {budget}" for budget in (bench["mean_budget"], full_budget)]
    shown += ["decode mixed, grouped", "decode mixed, masked", "plain encode"]
    shown += [f"plain decode {budget}" for budget in (bench["mean_budget"], full_budget)]
    rows = [
        [row["name"], f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}", f"{row['ceiling_share']:.0%}"]
        for row in bench["rows"]
        if row["name"] in shown
    ]
    table = markdown_table(["call", "ms a batch", "ratio", "of the matmul ceiling"], rows)
    search = bench["yardsticks"]["search_over_encode"]
    return sources.of_another(bench["model"], "timed") + (
        f"`OMP_NUM_THREADS={bench['num_threads']} adatok bench --out docs/bench.json` ({bench['device']}), batches "
        f"of {bench['batch_size']}, medians of one run; the ratios are what travels to other machines. "
        f"`plain` is a ViT of equal size.\n\n{table}\n\n"
        f"Encoding and searching are compared with `encode`, decoding with one budget of {bench['mean_budget']} for "
        "all, the mean that the policy chooses for the sample pictures. The policy takes "
        f"{bench['policy_share']:.1%} of encoding, where a search for budgets takes {search:.1f} times all of it. "
        f"Under `torch.compile` ten budget assignments cost {bench['recompilations']} recompilations. {ceiling(bench)}"
    )


def ceiling(bench: dict) -> str:
    """How far calls are from the fastest products of the machine, and so how much faster they could be."""
    batch = bench["batch_size"]
    share = {(row["dtype"], row["name"]): row["ceiling_share"] for row in bench["sweep"] if row["batch_size"] == batch}
    reached = [
        f"{share[dtype, 'encode']:.0%} and {share[dtype, 'decode mixed']:.0%} in {dtype}"
        for dtype in ("float32", "bfloat16")
    ]
    return (
        "Of the fastest product that the machine has, by MKL or oneDNN, encode and decode reach "
        f"{' and '.join(reached)}, so that no other product could make encode in float32 more than "
        f"{1 / share['float32', 'encode']:.2f} times as fast."
    )
