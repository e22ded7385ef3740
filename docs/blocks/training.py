"""What short trainings decided, and what long ones cost."""

from adatok_hf.files import read_json
from adatok_hf.tables import markdown_table

from . import sources


def pilots() -> str:
    """What a short training gains or loses by one change."""
    found = read_json(sources.PILOTS)
    budgets = (4, 8, 16, 32, 64)
    rows = []
    for name, pilot in found.items():
        at = {row["budget"]: f"{row['psnr']:.2f} dB, {row['lpips']:.3f}" for row in pilot["rows"]}
        rows.append([name, f"{pilot['cpu_seconds'] / 60:.0f} min", *(at.get(budget, "-") for budget in budgets)])
    return markdown_table(["changed", "of a core", *(f"{budget} codes" for budget in budgets)], rows)


def training_cost() -> str:
    """What the recipes for 256 px take: counted, computed, and measured where it was."""
    result = read_json(sources.TRAINING_COST)
    gpu, measured, rows = result["gpu"], result["measured"], []
    for row in result["rows"]:
        memory = [value / 2**30 for value in row["bytes"].values()]
        cells = [f"`{row['recipe']}`", f"{row['parameters'] / 1e6:.0f} M", f"{row['gpus']} x {row['batch_size']}"]
        cells.append(" / ".join(f"{value / 1e12:.2f}" for value in row["flops_of_an_image"].values()))
        cells.append(f"{' + '.join(f'{value:.1f}' for value in memory)} = {sum(memory):.1f}")
        cells.append(f"{1000 * row['gpu_step_seconds']:.0f} ms")
        cells.append(f"{row['gpu_hours']:,.0f} GPU hours, {row['dollars']:,.0f} dollars")
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
