"""Exported graphs, bulk tokenisation and the Space."""

from pathlib import Path
from statistics import median

from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources


def export() -> str:
    """How near to the model its graphs are, and how large."""
    result = read_json(sources.EXPORT)
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


def bulk() -> str:
    """How fast the engines of bulk tokenisation are."""
    result = read_json(sources.BULK)
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
    result = read_json(sources.SPACE)
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
