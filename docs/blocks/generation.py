"""Quality and speed of generated images."""

from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources


def generation() -> str:
    """What the shipped generator is worth."""
    report = read_json(sources.GENERATION)
    of_whom = sources.of_predecessor("evaluation", report["model_hash"], report["generator_hash"])
    return f"{of_whom}{compared_images(report)}; by `{report['command']}`.\n\n{generation_table({'': report})}"


def generation_lengths() -> str:
    """Two generators: one of budgets that images deserve, one of all codes for every image."""
    reports = read_json(sources.GENERATION_LENGTHS)
    commands = " and ".join(f"`{report['command']}`" for report in reports.values())
    return f"{compared_images(reports['adaptive'])}; by {commands}.\n\n{generation_table(reports)}"


def compared_images(report: dict) -> str:
    """What images were generated and compared."""
    return (
        f"{report['num_images']:,} images of the validation classes each, against the {report['num_images']:,} real "
        f"ones, in which the classifier finds the class of {report['real_class_accuracy']:.1%}"
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
            rows[-1] += [f"{row['kid']:.4f}", "-" if row["class_accuracy"] is None else f"{row['class_accuracy']:.1%}"]
    return markdown_table(["images", "mean budget", "gFID", "KID", "class found"], rows)


def generation_speed() -> str:
    """How much faster fewer codes make the generation of images."""
    bench = read_json(sources.GENERATION_BENCH)
    return (
        f"{conditions(bench)}, {bench['mean_budget']:.0f} of {bench['full_budget']} codes on average.\n\n"
        f"{ways(bench, 'full')}\n\n"
        f"{bench['throughput_ratio']:.2f} times the images a second at {bench['token_ratio']:.2f} times fewer codes "
        f"({bench['efficiency']:.0%} of it; {bench['writing_ratio']:.2f} times without the pixels), where static "
        f"batches reach {bench['static_batch_ratio']:.2f} and continuous batching "
        f"{bench['continuous_batching_ratio']:.2f} times. {latencies(bench)}"
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
