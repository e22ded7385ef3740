"""The words of the page, and the little HTML around them."""

import math
from html import escape

from adatok_hf.codec.explorer import EncodedPicture, Explorer
from adatok_hf.codec.reconstruct import Result
from adatok_hf.files import printable


PAPER = "https://huggingface.co/papers/2606.07185"
TATOK_PAPER = "https://huggingface.co/papers/2605.16384"
ANY = "anything"
BIAS = "0 is what it was trained for. To the right it saves tokens, to the left it spends more. In doubt, leave it."
BUDGET = "It follows the model's choice; drag it to overrule the model."
POLICY = "How much it likes each budget it may choose. In colour: the one shown above."
CURVE = "PSNR, in decibels: how close the picture comes, pixel by pixel. Higher is better."
ERRORS = "The error of every pixel: dark is none, red is much, pale yellow is very much."
STRIP = "From few tokens to all of them. Click a picture to take its budget."
COMPARE = (
    "Give the model several pictures: each lands in the column of the budget that it chose for it. Pictures that more "
    "tokens would not improve get few."
)
GENERATE = (
    "A language model writes tokens one after the other, as others write words: first how many there shall be, then "
    "exactly so many. The decoder turns them into pictures."
)
GUIDANCE = "1 is none. Above it the pictures show the class more clearly, and differ less from each other."
SEED = "The same seed gives the same pictures."
CODES = "Tokens are whole numbers, also called codes. The decoder needs nothing else, and the first few will do."
DECODE = "A file saved here, or written by <code>adatok encode</code> with the same model."
NO_PICTURE = "Choose a picture in the tab Reconstruct first."
UNTRAINED = "The policy of this model has not been trained: it keeps all tokens until you choose yourself."
THRESHOLD = "A TaTok likes no budget more than another: it keeps the patches that say most, up to its threshold."


POLICY_WORDS = """\
**Policy**: the small network that chooses the budget. It was rewarded for good pictures and for saved tokens, so it
asks not how complex a picture is, but whether more tokens would *improve* it.

**Cost bias**: the knob "how thrifty". It makes every further token dearer (to the right) or cheaper (to the left) in
the eyes of the policy."""
THRESHOLD_WORDS = """\
**Global tokens and patches**: the first tokens tell of the whole picture and are never dropped. Each of the others
stands for one patch; those that say least beyond the rest go first.

**Threshold**: how much of what the patches say is kept. It decides how many tokens a picture gets."""


def header(explorer: Explorer) -> str:
    config = explorer.config
    size, name = config.image_size, escape(printable(explorer.model_name))
    paper = TATOK_PAPER if explorer.is_tatok else PAPER
    return (
        "<header><h1>AdaTok: see an image choose its budget</h1><p>In one glance the model decides how many tokens a "
        "picture deserves, and rebuilds the picture from exactly that many. Then overrule it.</p>"
        f'<p class="model">Model <b>{name}</b> · {size} x {size} pixels · up to {config.num_latent_tokens} tokens, '
        f'each one of {config.codebook_size:,} · <a href="{paper}">paper</a></p>'
        "</header>"
    )


def no_policy(explorer: Explorer) -> str:
    return f"<p>{THRESHOLD if explorer.is_tatok and explorer.config.is_policy_trained else UNTRAINED}</p>"


def heading(title: str, explanation: str) -> str:
    return f'<div class="heading"><h2>{title}</h2><p>{explanation}</p></div>'


def notice(sentence: str) -> str:
    return f'<p class="notice">{escape(printable(sentence))}</p>'


def count(budget: int) -> str:
    return f"{budget} token{'s' * (budget != 1)}"


def quality(result: Result) -> str:
    return f"{count(result.budget)}, {result.psnr:.1f} dB"


def timing(facts: dict) -> str:
    """What `/generate` says, in words."""
    budgets, seconds = facts["budgets"], facts["seconds_per_image"]
    pictures = f"{len(budgets)} picture{'s' * (len(budgets) != 1)}"
    return f"<p>{pictures}, {sum(budgets) / len(budgets):.1f} tokens on average, {seconds:.2g} seconds each.</p>"


def verdict(words: str, result: Result, chosen: int) -> str:
    """Who chose what, what it costs, and how good it is."""
    tokens, rest = words.split(", ", 1)
    if result.budget == chosen:
        sentence = f"The model keeps <strong>{tokens}</strong>: {rest}."
    else:
        sentence = f"You keep <strong>{tokens}</strong>: {rest}. The model would keep {chosen}."
    tiles = [("PSNR", f"{result.psnr:.1f} dB", "closeness of pixels, higher is better")]
    if result.lpips is not None:
        tiles.append(("LPIPS", f"{result.lpips:.3f}", "difference to the eye, lower is better"))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>" for name, value, note in tiles)
    return f'<p aria-live="polite">{sentence}</p><dl>{shown}</dl>'


def codes(
    explorer: Explorer, encoded: EncodedPicture, result: Result, files: dict[str, bytes], links: dict[str, str]
) -> str:
    """The numbers, their bytes beside those of the file they came from, and links to save them."""
    config, budget, (height, width) = explorer.config, result.budget, encoded.size
    numbers = "".join(
        f"<li>{code}</li>" if place < budget else f'<li class="dropped">{code}</li>'
        for place, code in enumerate(encoded.codes)
    )
    size, name = config.image_size, escape(encoded.name, quote=True)
    payload = explorer.in_words(result).split(", ")[1]
    rows = [(f"{name}, {width} x {height} pixels", f"{encoded.file_bytes:,} bytes")] if encoded.file_bytes else []
    rows.append((f"its {count(budget)}, for {size} x {size} pixels", payload))
    rows += [
        (f"the same as a {suffix} file, with all that names the model", f"{len(files[suffix]):,} bytes")
        for suffix in files
    ]
    table = "".join(f"<tr><td>{what}</td><td>{size}</td></tr>" for what, size in rows)
    stem = escape(encoded.name.rpartition(".")[0] or encoded.name, quote=True)
    buttons = "".join(
        f'<a class="save" download="{stem}{suffix}" href="{link}">Save as {suffix}</a>'
        for suffix, link in links.items()
    )
    return (
        f"<p>The {count(budget)} of <b>{name}</b>, most important first; grey ones are dropped.</p>"
        f'<ol class="codes">{numbers}</ol><table>{table}</table><p>{buttons}</p>'
    )


def animation(address: str, name: str, budgets: list[int]) -> str:
    spoken = f"{name} from {', '.join(map(str, budgets))} tokens, one after the other"
    return f'<img src="{address}" alt="{escape(spoken, quote=True)}">'


def glossary(explorer: Explorer) -> str:
    config = explorer.config
    size, limit, book, least = config.image_size, config.num_latent_tokens, config.codebook_size, explorer.least_budget
    choosing, among = POLICY_WORDS, f"; the model itself chooses among {', '.join(map(str, config.budgets))}"
    bits = f", and takes {math.log2(book):.3g} bits"
    if explorer.is_tatok:
        choosing, among, bits = THRESHOLD_WORDS, "", ""
    return f"""
**Token** (or *code*): a whole number from 0 to {book - 1:,}. An encoder looks at the picture and writes {limit} of
them, the most important first. Each stands for a pattern that the model has learned{bits}.

**Budget**: how many of the leading tokens are kept. The rest are thrown away, and the decoder makes do with what it
gets. Any number from {least} to {limit} works{among}.

{choosing}

**Bytes** and **bits per pixel**: what the kept tokens and the number of them take, the latter divided by the
{size} x {size} pixels.

**PSNR**: how close the reconstruction comes to the original, pixel by pixel, in decibels. Higher is better.

**LPIPS**: how different both look to a network that was trained to see as people do. Lower is better. It is shown
where that network is at hand.

The picture is cut to a square and reduced to {size} x {size} pixels before the model sees it: of animations the first
frame, transparent parts on white. What you upload is deleted after an hour or so, and this page loads nothing from
elsewhere.
"""
