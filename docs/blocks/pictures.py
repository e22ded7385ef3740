"""What the pictures of README and docs show, and the commands that make them."""

from collections.abc import Sequence
from pathlib import Path

from adatok_hf import AdaTokConfig, TaTokConfig, checkpoints

from . import sources


GRID_SAMPLES = ("03", "07", "10", "11", "13")
POLICY_SAMPLES = ("06", "20", "23", "11", "21")
GENERATED_LABELS = ("emoji", "places/coast", "imagenette/parachute", "imagewoof/samoyed", "sketch/giraffe")


def grid() -> str:
    """What the picture at the top shows, in bytes."""
    config = sources.shipped_config()
    size, codes = config.image_size, config.num_latent_tokens
    code_bytes = codes * (config.codebook_size - 1).bit_length() // 8
    return (
        f"*Sample pictures through the checkpoint that ships with the package, at {size} x {size} pixels, "
        f"{3 * size**2:,} bytes each uncompressed; {codes} codes are {code_bytes} bytes. Made by "
        f"`{' '.join(grid_command(config))}`.*"
    )


def tatok_grid() -> str:
    """How the picture of the embedded TaTok is made."""
    return f"*By `{' '.join(tatok_grid_command())}`.*"


def generated() -> str:
    """What the picture of generated images shows."""
    return f"*The first eight of each class, none picked, with their budgets; by `{' '.join(generate_command())}`.*"


def sample_files(numbers: Sequence[str]) -> list[str]:
    """Sample pictures by their numbers, as paths from the root of the repository."""
    folder = sources.ROOT / "adatok_hf" / "samples"
    return [str(path.relative_to(sources.ROOT)) for number in numbers for path in sorted(folder.glob(f"{number}_*"))]


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
    model = ["--model", str(folder.relative_to(sources.ROOT))]
    return ["adatok", "reconstruct", shown, *model, "--budgets", ",".join(map(str, budgets)), "--out", "tatok"]


def generate_command() -> list[str]:
    """Makes the picture of generated images."""
    labels = [word for label in GENERATED_LABELS for word in ("--label", label)]
    return ["adatok", "generate", *labels, "-n", "8", "--guidance-scale", "2.5", "--seed", "0", "--out", "generated"]
