"""
Every figure of README and docs: what the commands of `docs/measure.py` found, written between marks like
`<!-- figures: zoo -->`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from claims import (
    claims_table,
    difference,
    of_fixed_lengths,
    of_generated_images,
    of_generation,
    of_tatok,
    of_tatok_generation,
    of_the_checkpoint,
)
from transformers import AutoConfig

from adatok_hf import AdaTokConfig, TaTokConfig, checkpoints, default_checkpoint
from adatok_hf.checkpoint import checkpoint_name, load_checkpoint, model_hash
from adatok_hf.files import read_json
from adatok_hf.metrics.rate import bits_per_pixel
from adatok_hf.study.arms import MIRRORED
from adatok_hf.study.fixed_study import NAMES
from adatok_hf.tables import markdown_table


ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "adatok_hf" / "checkpoints"
STUDY = ROOT / "docs" / "study"
BENCH = ROOT / "docs" / "bench.json"
GENERATION = ROOT / "docs" / "generation.json"
GENERATION_LENGTHS = ROOT / "docs" / "generation_lengths.json"
GENERATION_BENCH = ROOT / "docs" / "generation_bench.json"
TATOK_CODEC_BENCH = ROOT / "docs" / "tatok_codec_bench.json"
TATOK_BENCH = ROOT / "docs" / "tatok_bench.json"
TRAINING_COST = ROOT / "docs" / "training_cost.json"
SPACE = ROOT / "docs" / "space.json"
EXPORT = ROOT / "docs" / "export.json"
BULK = ROOT / "docs" / "bulk.json"
PILOTS = ROOT / "docs" / "pilots.json"
PAGES = (
    "README.md",
    "docs/claims.md",
    "docs/evaluation.md",
    "docs/export.md",
    "docs/generation.md",
    "docs/scale.md",
    "docs/tatok.md",
)
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
GRID_SAMPLES = ("03", "07", "10", "11", "13")
GENERATED_LABELS = ("emoji", "places/coast", "imagenette/parachute", "imagewoof/samoyed", "sketch/giraffe")
INTERVALS = {"lpips": "ci", "psnr": "psnr_ci"}  # of the differences in the study of fixed lengths
POLICY_SAMPLES = ("06", "20", "23", "11", "21")


def zoo() -> str:
    """The embedded checkpoints, a line each, and what those without an evaluation are."""
    rows, notes = [], ""
    for name, folder in checkpoints().items():
        config, metrics = AutoConfig.from_pretrained(folder), read_json(Path(folder) / "metrics.json")
        training, quality = metrics["training"], {row["budget"]: row for row in metrics["rows"]}
        wanted = (config.budgets[0], config.budgets[len(config.budgets) // 2 - 1], config.num_latent_tokens, "auto")
        shown = [quality[budget] for budget in wanted if budget in quality]
        if "auto" not in quality:
            notes += (
                f"\n\n`{name}` is not evaluated yet, and has no policy: every image gets all codes unless a budget is "
                f"forced. Its quality was measured on {training['quality measured on']}."
            )
        rows.append(
            [
                f"`{name}` (embedded)",
                str(config.image_size),
                code_widths(config),
                f"{training['parameters'] / 1e6:.1f} M",
                images_seen(training),
                "<br>".join(
                    f"{row.get('mean_budget', row['budget']):.3g}{' chosen' if row['budget'] == 'auto' else ''}: "
                    f"{row['psnr']:.2f} dB / {row['lpips']:.3f}" + (f" / {row['rfid']:.0f}" if "rfid" in row else "")
                    for row in shown
                ),
            ]
        )
    header = ["checkpoint", "pixels", "codes", "parameters", "trained on", "codes: PSNR / LPIPS / rFID"]
    return markdown_table(header, rows) + notes


def code_widths(config: AdaTokConfig | TaTokConfig) -> str:
    """How many codes an image has, of how many bits each."""
    if isinstance(config, TaTokConfig):
        widths = [(size - 1).bit_length() for size in (config.global_codebook_size, config.patch_codebook_size)]
        return f"{config.num_global_tokens} of {widths[0]} bits, up to {config.num_patches} of {widths[1]} with places"
    return f"{config.budgets[0]} to {config.budgets[-1]} of {(config.codebook_size - 1).bit_length()} bits"


def images_seen(training: dict) -> str:
    """What a checkpoint was trained on, and its decoder alone after that."""
    further = training.get("images seen, decoder alone")
    return f"{training['images seen']:,} images" + (f", its decoder on {further:,} more" if further else "")


def grid() -> str:
    """What the picture at the top shows, in bytes."""
    config = shipped_config()
    size, codes = config.image_size, config.num_latent_tokens
    code_bytes = codes * (config.codebook_size - 1).bit_length() // 8
    return (
        f"*Sample pictures through the checkpoint that ships with the package, at {size} x {size} pixels, "
        f"{3 * size**2:,} bytes each uncompressed; {codes} codes are {code_bytes} bytes. Made by "
        f"`{' '.join(grid_command(config))}`.*"
    )


def quality() -> str:
    """The shipped checkpoint at every candidate budget and at the policy's."""
    config, metrics = shipped_config(), read_json(shipped_folder() / "metrics.json")
    rows = []
    for row in metrics["rows"]:
        is_chosen = row["budget"] == "auto"
        rate = row.get("bits_per_pixel", None if is_chosen else bits_per_pixel(row["budget"], config))
        rows.append(
            [
                f"the policy's, {row['mean_budget']:.2f} on average" if is_chosen else str(row["budget"]),
                "" if rate is None else f"{rate:.4f}",
            ]
            + [f"{row['rfid']:.1f}", f"{row['kid']:.4f}", f"{row['lpips']:.4f}"]
            + [f"{row['psnr']:.2f} dB", f"{row['ssim']:.4f}"]
        )
    return markdown_table(["budget", "bits per pixel", "rFID", "KID", "LPIPS", "PSNR", "SSIM"], rows)


def policy() -> str:
    """What choosing a budget per image is worth."""
    study = read_json(STUDY / "study.json")
    arms = {row["arm"]: row for row in study["rows"]}
    share = next(
        row for row in study["share_of_oracle"] if (row["arm"], row["oracle"]) == ("policy", "oracle (reward)")
    )
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
    rows[-1][1] += f"; the policy gets {share['share']:.0%} of its gain"
    uniform = difference(arms["uniform"]["psnr_difference"], arms["uniform"]["psnr_ci"], "+.3f")
    groups = sorted(study["groups"], key=lambda group: group["mean_budget"])
    kinds = ", ".join(f"{group['group'].replace('_', ' ')} {group['mean_budget']:.1f}" for group in groups)
    table = markdown_table([f"the policy's LPIPS of {arms['policy']['lpips']:.3f} against", "better by"], rows)
    correlation = study["correlations"]["policy, webp_bytes"]
    return of_predecessor(study) + (
        f"On {study['n']:,} held-out images, at the mean of {study['mean_budget']:.1f} codes "
        "that the policy chooses by itself; the whole [study](docs/study/study.md) is one command. The intervals of "
        f"95 % are over the images: the {study['seeds']} seeds are averaged first, and the bias that brings every arm "
        f"to this mean is set before the bootstrap, so neither is in them.\n\n{table}\n\nIn "
        f"PSNR one budget for all differs from the policy by {uniform} dB. Mean budgets by kind: {kinds}. Their rank "
        f"correlation with the size of the WebP file is {correlation:.2f}. {weighting(study)} {heads()}"
    )


def of_another(model: str, verb: str) -> str:
    """Says so where figures are of another checkpoint than the shipped one."""
    model, shipped = checkpoint_name(model), checkpoint_name(shipped_folder())
    return "" if model == shipped else f"Of `{model}`, which shipped before; `{shipped}` has not been {verb} yet. "


def of_predecessor(study: dict) -> str:
    """Says so where the study is of weights that shipped before."""
    model, _ = load_checkpoint(shipped_folder())
    if model_hash(model) == study["model_hash"]:
        return ""
    name = checkpoint_name(study["model"])
    return f"The study is of the weights that shipped as `{name}` before; the present ones are not studied yet. "


def weighting(study: dict) -> str:
    """Where Dynamic Pareto Weighting ends."""
    arms = {arm["arm"]: arm for arm in study["ablations"]["weighting"]}
    starts = {"gradient from 0.25": "0.25", "gradient": "0.5", "gradient from 0.75": "0.75"}
    ends = ", ".join(f"{arms[arm]['weight_fidelity']:.2f} from {start}" for arm, start in starts.items())
    behind = ", ".join(f"{arms[arm]['distance_to_sweep']:.4f}" for arm in starts)
    fixed = sum(arm.startswith("fixed") for arm in arms)
    return (
        f"Dynamic Pareto Weighting ends at fidelity weights of {ends}, by {behind} LPIPS behind the front of a sweep "
        f"of {fixed} fixed weights."
    )


def heads() -> str:
    """What a head per budget is worth."""
    study = read_json(STUDY / "heads.json")
    means = {row["arm"]: row for row in study["rows"] if row["budget"] == "mean"}
    none, shared = (
        difference(means[arm]["lpips_minus_k_heads"], means[arm]["ci"]) for arm in ("no heads", "shared head")
    )
    return (
        f"In {study['steps']} further steps from a common base the heads of `{study['model']}` gain {none} LPIPS "
        f"against none, {shared} against one shared head of as many parameters."
    )


def speed() -> str:
    """Where the time goes, as ratios within one run."""
    bench = read_json(BENCH)
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
    return of_another(bench["model"], "timed") + (
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


def generation() -> str:
    """What the shipped generator is worth."""
    report = read_json(GENERATION)
    return f"{generation_conditions(report)}\n\n{generation_table({'': report})}"


def generation_lengths() -> str:
    """Two generators: one of budgets that images deserve, one of all codes for every image."""
    reports = read_json(GENERATION_LENGTHS)
    return f"{generation_conditions(reports['adaptive'])}\n\n{generation_table(reports)}"


def generation_conditions(report: dict) -> str:
    """What images were generated and compared."""
    return (
        f"{report['num_images']:,} images of the validation classes each, against the {report['num_images']:,} real "
        f"ones, in which the classifier finds the class of {report['real_class_accuracy']:.1%}; by "
        f"`{report['command']}`."
    )


def generation_table(reports: dict[str, dict]) -> str:
    """The quality of reconstructions and of generated images, by the name of the generator, which may be empty."""
    rows = []
    for name, report in reports.items():
        for row in report["rows"]:
            guidance = row["guidance_scale"]
            words = ["reconstructions" if guidance is None else "generated", name]
            words += [f"guidance {guidance:g}"] if guidance not in (None, 1) else []
            rows.append([", ".join(filter(None, words)), f"{row['mean_budget']:.1f}", f"{row['gfid']:.1f}"])
            rows[-1] += [f"{row['kid']:.4f}", f"{row['class_accuracy']:.1%}"]
    return markdown_table(["images", "mean budget", "gFID", "KID", "class found"], rows)


def generation_speed() -> str:
    """How much faster fewer codes make the generation of images."""
    bench = read_json(GENERATION_BENCH)
    return (
        f"{conditions(bench)}, {bench['mean_budget']:.0f} of {bench['full_budget']} codes on average.\n\n"
        f"{ways(bench, 'full')}\n\n"
        f"{bench['throughput_ratio']:.2f} times the images a second at {bench['token_ratio']:.2f} times fewer codes "
        f"({bench['efficiency']:.0%} of it; {bench['writing_ratio']:.2f} times without the pixels), where static "
        f"batches reach {bench['static_batch_ratio']:.2f} and continuous batching "
        f"{bench['continuous_batching_ratio']:.2f} times. {latencies(bench)}"
    )


def tatok_codec_speed() -> str:
    """How long encoding takes with what filters, and decoding."""
    bench = read_json(TATOK_CODEC_BENCH)
    rows = [[row["name"], f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}"] for row in bench["rows"]]
    return (
        f"`{checkpoint_name(bench['model'])}`, batches of {bench['batch_size']}, {bench['num_threads']} thread:\n\n"
        f"{markdown_table(['call', 'ms a batch', 'of encode'], rows)}"
    )


def tatok_speed() -> str:
    """How much faster kept patches are generated than all of them."""
    bench = read_json(TATOK_BENCH)
    return (
        f"{conditions(bench)}, {bench['mean_tokens']:.1f} tokens on average, {bench['num_global_tokens']} of them "
        f"global, or {bench['num_patches']} patches.\n\n{ways(bench, 'all patches')}\n\n"
        f"The token ratio is {bench['token_ratio']:.2f}, the cost of places {bench['position_cost']:.2f}, what is "
        f"left {bench['length_ratio']:.2f}. Without the pixels, which take as long for few patches as for all, "
        f"images come {bench['writing_ratio']:.2f} times as fast. {latencies(bench)}"
    )


def conditions(bench: dict) -> str:
    """What a benchmark of generation was run on."""
    return (
        f"{bench['images']} images in batches of {bench['batch_size']}, {bench['dtype']}, {bench['num_threads']} "
        f"threads of a {bench['device'].upper()}, a Llama of {bench['parameters'] / 1e6:.0f} M parameters with random "
        f"weights, medians of {bench['repeats']} rounds"
    )


def ways(bench: dict, slowest: str) -> str:
    """How fast images come in each way, against the one without any saving."""
    seconds = {row["name"]: row["seconds"] for row in bench["rows"]}
    rows = []
    for row in bench["rows"]:
        ids = row["ids_per_image"] if "ids_per_image" in row else row["codes_per_second"] / row["images_per_second"]
        ratio = seconds[slowest] / row["seconds"]
        rows.append([row["name"], f"{ids:.0f}", f"{row['seconds']:.0f} s", f"{ratio:.2f}"])
        rows[-1] += [f"{row['pixels_share']:.0%}"]
    header = ["way", "ids an image", "all images", f"images a second, against {slowest}", "of it pixels"]
    return markdown_table(header, rows)


def latencies(bench: dict) -> str:
    """How long one image takes."""
    times = ", ".join(
        f"{way} {each['median'] / 1000:.1f} s (95th percentile {each['p95'] / 1000:.1f} s)"
        for way, each in bench["latency"].items()
    )
    return f"One image alone: {times}."


def export() -> str:
    """How near to the model its graphs are, and how large."""
    result = read_json(EXPORT)
    mebibytes = {Path(name).stem: size / 2**20 for name, size in result["bytes"].items()}
    rounded = result["int8"]

    def row(name: str, suffix: str, equal: dict, pixels: str, psnr: str) -> list[str]:
        sizes = [f"{mebibytes[part + suffix]:.1f} MiB" for part in ("encoder_model", "decoder_model")]
        return [name, *sizes, f"{equal['codes_equal']:.1%}", f"{equal['budgets_equal']:.1%}", pixels, psnr]

    rows = [
        row("float32", "", result, f"{result['pixels_difference']:.1e}", f"{rounded['psnr_exact']:.2f} dB"),
        row(
            "int8",
            "_int8",
            rounded,
            "",
            f"{rounded['psnr_rounded']:.2f} dB; {rounded['psnr_rounded_decoder']:.2f} with the codes of float32",
        ),
    ]
    header = ["", "encoder", "decoder", "codes equal", "budgets equal", "pixels differ by at most", "PSNR"]
    return (
        f"`adatok export --int8 --out exported` on the {result['images']} sample pictures, embedded model:\n\n"
        f"{markdown_table(header, rows)}"
    )


def tatok() -> str:
    """Ways to choose patches at the same number of tokens, and both models at equal bits."""
    study = read_json(STUDY / "tatok.json")
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


def tatok_grid() -> str:
    """How the picture of the embedded TaTok is made."""
    return f"*By `{' '.join(tatok_grid_command())}`.*"


def by_kind(groups: list[dict]) -> str:
    """The differences of both models at the fewest, a middle and the most bits that both can spend."""
    pairs = sorted({(group["adatok_codes"], group["tokens"]) for group in groups})
    pairs = [pairs[0], pairs[len(pairs) // 2], pairs[-1]]
    at = {(group["kind"], group["adatok_codes"]): group["lpips"] for group in groups}
    images = {group["kind"]: group["n"] for group in groups}
    rows = [[kind, str(n), *(f"{at[kind, codes]:+.4f}" for codes, _ in pairs)] for kind, n in images.items()]
    return markdown_table(["kind", "images", *(f"{tokens} tokens, {codes} codes" for codes, tokens in pairs)], rows)


def fixed() -> str:
    """An adaptive tokenizer against those of one length, all trained alike."""
    study = read_json(STUDY / "fixed.json")
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
    return (
        f"{study['n']:,} held-out images, {seeds_of(study)}, {trainings[0]['steps']:,} steps each of "
        f"{min(seconds):.2f} to {max(seconds):.2f} s, {hours:.1f} hours of a CPU core for all; 95 % intervals over "
        f"the images. By `{fixed_command(study)}`.{missing_arms(study)}\n\n{markdown_table(header, rows)}\n\n"
        "At the mean on the way, and less the fixed tokenizer "
        "after the same share of the training:\n\n"
        f"{on_the_way(study, 'psnr', '.2f')}\n\n{on_the_way(study, 'lpips', '.4f')}"
        "\n\nBy kind of image, at the mean and the end, LPIPS less that of the fixed tokenizer:\n\n"
        f"{of_kinds(study['groups'])}"
    )


def fixed_sentence() -> str:
    """Whether adaptivity pays, and why."""
    study = read_json(STUDY / "fixed.json")
    at_mean = {row["arm"]: row for row in study["rows"] if (row["share"], row["budget"]) == (1, "mean")}
    policy, uniform, oracle = (at_mean[f"adaptive, {way}"] for way in ("policy", "one budget for all", "oracle"))
    price, gains = uniform["minus_fixed"], [row["minus_adaptive"] for row in (policy, oracle)]
    lpips, psnr = ((policy["minus_fixed"][key], policy["minus_fixed"][name]) for key, name in INTERVALS.items())
    _, _, verdict = next(of_fixed_lengths(study))
    length, steps = study["settings"]["fixed_budget"], study["trainings"][0]["steps"]
    return (
        f"Does adaptivity pay? Trained alike from random weights, {steps} steps, an adaptive tokenizer at a mean of "
        f"{length} codes differs from one that always has {length} by {difference(*lpips, '+.4f')} LPIPS and "
        f"{difference(*psnr, '+.2f')} dB on {study['n']:,} held-out images. At this size, that it beats "
        f"a fixed length {verdict} (`{fixed_command(study)}`). Serving every budget by one set of weights costs "
        f"{difference(price['lpips'], price['ci'], '+.4f')} LPIPS, which the policy changes by "
        f"{gains[0]['lpips']:+.4f} and an oracle would by {gains[1]['lpips']:+.4f}."
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


def claims() -> str:
    """What the papers say, what was measured here, and what follows from it; what was not measured yet is left out."""
    study = read_json(STUDY / "study.json")
    rows = [*of_the_checkpoint(read_json(shipped_folder() / "metrics.json")["rows"], study)]
    for path, verdicts in (
        (STUDY / "fixed.json", of_fixed_lengths),
        (GENERATION_BENCH, of_generation),
        (GENERATION_LENGTHS, of_generated_images),
        (STUDY / "tatok.json", of_tatok),
        (TATOK_BENCH, of_tatok_generation),
    ):
        if path.is_file():
            rows += verdicts(read_json(path))
    note = of_predecessor(study)
    return (f"{note.strip()}\n\n" if note else "") + claims_table(rows)


def pilots() -> str:
    """What a short training gains or loses by one change."""
    found = read_json(PILOTS)
    budgets = [row["budget"] for row in found[0]["rows"]]
    rows = []
    for pilot in found:
        at = {row["budget"]: f"{row['psnr']:.2f} dB, {row['lpips']:.3f}" for row in pilot["rows"]}
        rows.append([pilot["name"], f"{pilot['cpu_seconds'] / 60:.0f} min", *(at[budget] for budget in budgets)])
    return markdown_table(["changed", "of a core", *(f"{budget} codes" for budget in budgets)], rows)


def bulk() -> str:
    """How fast the engines of bulk tokenisation are."""
    result = read_json(BULK)
    rows = []
    for row in result["rows"]:
        rate = row["images_per_second"]
        rates = (
            ["", "", ""] if rate is None else [f"{rate:.0f}", f"{row['ratio']:.2f}", f"{row['start_seconds']:.0f} s"]
        )
        rows.append([row["arm"], f"{median(row['seconds']):.1f} s", *rates, str(row["images_with_other_codes"])])
    header = [
        "engine",
        f"all of {result['images']:,} images",
        "images a second",
        "ratio",
        "start",
        "images with other codes",
    ]
    return (
        f"Medians of {result['repeats']} rounds, each process with one thread; the rate is that of the images beyond "
        f"the first {result['few']}, left out where these took as long as all.\n\n{markdown_table(header, rows)}"
    )


def space() -> str:
    """How quick and how bearable the Space is."""
    result = read_json(SPACE)
    crowd, violations = result["crowd"], result["violations"]
    grave = [each for each in violations if each["impact"] in ("serious", "critical")]
    rules = ", ".join(sorted({each["rule"] for each in violations}))
    return (
        f"On {result['threads']} cores {result['upload_seconds']:.1f} s pass from an upload to the picture, and "
        f"{result['generate_seconds']:.1f} s from a click to eight generated ones (medians, in a browser). "
        f"{crowd['users']} users who reconstruct {crowd['pictures_each']} pictures each and generate four, all at "
        f"once, meet {crowd['errors']} errors and wait {crowd['request_seconds']:.1f} s for a reconstruction; the "
        f"memory goes from {crowd['bytes_before'] / 2**20:,.0f} to at most {crowd['bytes_peak'] / 2**20:,.0f} MiB. "
        f"axe-core finds {len(grave)} serious faults in the five tabs, light and dark"
        + (f", and minor ones by {rules}" if violations and not grave else "")
        + " (`python docs/measure_space.py axe.min.js`)."
    )


def generated() -> str:
    """What the picture of generated images shows."""
    return f"*The first eight of each class, none picked, with their budgets; by `{' '.join(generate_command())}`.*"


def training_cost() -> str:
    """What the recipes for 256 px take: counted, computed, and measured where it was."""
    result = read_json(TRAINING_COST)
    gpu, measured, rows = result["gpu"], result["measured"], []
    for row in result["rows"]:
        memory = [value / 2**30 for value in row["bytes"].values()]
        cells = [f"`{row['recipe']}`", f"{row['parameters'] / 1e6:.0f} M", f"{row['gpus']} x {row['batch_size']}"]
        cells.append(" / ".join(f"{value / 1e12:.2f}" for value in row["flops_of_an_image"].values()))
        cells.append(f"{' + '.join(f'{value:.1f}' for value in memory)} = {sum(memory):.1f}")
        cells.append(f"{1000 * row['gpu_step_seconds']:.0f} ms")
        cells.append(f"{row['gpu_hours']:,.0f} h, {row['dollars']:,.0f} dollars")
        rows.append(cells + ([f"{row['measured_step_seconds']:.1f} s"] if measured is not None else []))
    header = ["recipe", "parameters", "GPUs x images", "TFLOP an image", "GiB a GPU", "a step", "all steps"]
    text = (
        "Counted: FLOPs of an image, forward and backward, while only reconstruction is trained / with LPIPS / with "
        "the critic too; and the memory of weights (with LPIPS and critic) + averaged weights + Adam's state + "
        f"gradients and activations at their peak. Computed: times and prices, for {gpu['name']}s that reach "
        f"{gpu['utilisation']:.0%} of their {gpu['peak_flops_per_second'] / 1e12:.0f} TFLOP/s in bfloat16, at "
        f"{gpu['dollars_an_hour']:g} dollars an hour. Share and price are assumptions. "
    )
    if measured is None:
        text += "Nothing here is measured."
    else:
        header.append("a step, from the measured one")
        text += (
            f"Measured: one step of `{measured['recipe']}` with {measured['batch_size']} images took "
            f"{measured['seconds']:.2f} s on {measured['device']}, which is {measured['flops_per_second'] / 1e9:,.0f} "
            "GFLOP/s; the last column scales it by FLOPs to a GPU's part of a step."
        )
    return f"{markdown_table(header, rows)}\n\n{text}"


BLOCKS: tuple[Callable[[], str], ...] = (
    zoo,
    grid,
    quality,
    policy,
    speed,
    export,
    bulk,
    space,
    generation,
    generation_lengths,
    generation_speed,
    generated,
    tatok,
    tatok_grid,
    tatok_codec_speed,
    tatok_speed,
    fixed,
    fixed_sentence,
    claims,
    pilots,
    training_cost,
)


def write_blocks(text: str) -> str:
    """Puts the figures between their marks."""
    blocks = {block.__name__: block for block in BLOCKS}
    return BLOCK.sub(lambda match: match[1] + blocks[match[2]]() + match[3], text)


def shipped_folder() -> Path:
    """The checkpoint that the examples load."""
    return Path(default_checkpoint())


def shipped_config() -> AdaTokConfig:
    """Its configuration."""
    return AdaTokConfig.from_pretrained(shipped_folder())


def sample_files(numbers: Sequence[str]) -> list[str]:
    """Sample pictures by their numbers, as paths from the root of the repository."""
    folder = ROOT / "adatok_hf" / "samples"
    return [str(path.relative_to(ROOT)) for number in numbers for path in sorted(folder.glob(f"{number}_*"))]


def generate_command() -> list[str]:
    """Makes the picture of generated images."""
    labels = [word for label in GENERATED_LABELS for word in ("--label", label)]
    return ["adatok", "generate", *labels, "-n", "8", "--guidance-scale", "2.5", "--seed", "0", "--out", "generated"]


def grid_command(config: AdaTokConfig) -> list[str]:
    """Makes the grid of forced budgets: each twice the one before, up to all codes."""
    budgets = [config.num_latent_tokens // 2**power for power in (3, 2, 1, 0)]
    shown = "adatok_hf/samples/{" + ",".join(GRID_SAMPLES) + "}*"
    return ["adatok", "reconstruct", shown, "--budgets", ",".join(map(str, budgets)), "--out", "grid"]


def tatok_grid_command() -> list[str]:
    """Makes the grid of the embedded TaTok: its global tokens alone, two numbers in between, and all tokens."""
    folder = Path(checkpoints()["tatok-tiny-64"])
    config = TaTokConfig.from_pretrained(folder)
    budgets = (config.num_global_tokens, 14, config.num_latent_tokens // 3, config.num_latent_tokens)
    shown = "adatok_hf/samples/{" + ",".join(GRID_SAMPLES) + "}*"
    model = ["--model", str(folder.relative_to(ROOT))]
    return ["adatok", "reconstruct", shown, *model, "--budgets", ",".join(map(str, budgets)), "--out", "tatok"]


def main():
    """Writes the pages."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(write_blocks(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
