"""Quality and speed of TaTok."""

from adatok_hf.checkpoint import checkpoint_name
from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources
from .claims import difference
from .generation import conditions, latencies, ways


def tatok() -> str:
    """Ways to choose patches at the same number of tokens, and both models at equal bits."""
    study = read_json(sources.STUDY / "tatok.json")
    points = {row["arm"]: row for row in study["rows"]}
    rows = []
    for row in study["rows"]:
        cells = [f"{row['mean_tokens']:.1f}", f"{row['bits']:.0f}", f"{row['lpips']:.4f}", f"{row['psnr']:.2f} dB"]
        differences = ["", ""]
        if row["against"] is not None:
            other = points[row["against"]]
            differences = [
                difference(row["lpips"] - other["lpips"], row["ci"], "+.4f"),
                difference(row["psnr"] - other["psnr"], row["psnr_ci"], "+.2f"),
            ]
        rows.append([row["arm"], *cells, row["against"] or "", *differences])
    header = ["arm", "tokens", "bits", "LPIPS", "PSNR", "against", "LPIPS less its", "PSNR less its"]
    return (
        f"{study['n']:,} held-out images, 95 % intervals over the images; `{checkpoint_name(study['model'])}` against "
        f"`{checkpoint_name(study['adatok'])}`.\n\n{markdown_table(header, rows)}\n\n"
        f"By kind of image, what TaTok has less LPIPS than AdaTok at equal bits:\n\n{by_kind(study['groups'])}"
    )


def by_kind(groups: list[dict]) -> str:
    """The differences of both models at the fewest, a middle and the most bits that both can spend."""
    pairs = sorted({(group["adatok_codes"], group["tokens"]) for group in groups})
    pairs = [pairs[0], pairs[len(pairs) // 2], pairs[-1]]
    at = {(group["kind"], group["adatok_codes"]): group["lpips"] for group in groups}
    images = {group["kind"]: group["n"] for group in groups}
    rows = [[kind, str(n), *(f"{at[kind, codes]:+.4f}" for codes, _ in pairs)] for kind, n in images.items()]
    return markdown_table(["kind", "images", *(f"{tokens} tokens, {codes} codes" for codes, tokens in pairs)], rows)


def tatok_codec_speed() -> str:
    """How long encoding takes with what filters, and decoding."""
    bench = read_json(sources.TATOK_CODEC_BENCH)
    rows = [[row["name"], f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}"] for row in bench["rows"]]
    return (
        f"`{checkpoint_name(bench['model'])}`, batches of {bench['batch_size']}, {bench['num_threads']} thread:\n\n"
        f"{markdown_table(['call', 'ms a batch', 'of encode'], rows)}"
    )


def tatok_speed() -> str:
    """How much faster kept patches are generated than all of them."""
    bench = read_json(sources.TATOK_BENCH)
    return (
        f"{conditions(bench)}, {bench['mean_tokens']:.1f} tokens on average, {bench['num_global_tokens']} of them "
        f"global, or {bench['num_patches']} patches.\n\n{ways(bench, 'all patches')}\n\n"
        f"The token ratio is {bench['token_ratio']:.2f}, the cost of places {bench['position_cost']:.2f}, what is "
        f"left {bench['length_ratio']:.2f}. Without the pixels, which take as long for few patches as for all, "
        f"images come {bench['writing_ratio']:.2f} times as fast. {latencies(bench)}"
    )
