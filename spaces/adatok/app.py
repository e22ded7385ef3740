"""See an image choose its budget."""

import math
import os
import time
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from uuid import uuid4

import gradio as gr
import texts
import torch
from gradio.route_utils import delete_files_created_by_app
from gradio.themes.utils.fonts import LocalFont
from PIL import Image

import adatok_hf
from adatok_hf.charts import Placed, data_uri, picture_histogram, policy_chart, quality_chart
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.codec.drawings import animate, error_map, side_by_side
from adatok_hf.codec.explorer import EncodedPicture, Explorer
from adatok_hf.codec.reconstruct import Result
from adatok_hf.data import find_images
from adatok_hf.files import printable
from adatok_hf.generation.load_pipeline import load_pipeline


try:  # on ZeroGPU a function gets its GPU when it is called
    from spaces import GPU as on_gpu
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        return function


HERE = Path(__file__).parent
SAMPLES = Path(adatok_hf.__file__).parent / "samples"
SAMPLE_FILES = [str(path) for path in find_images([SAMPLES])]
FIRST_SAMPLE = str(SAMPLES / "13_landscape.webp")
MAX_PICTURES = 32  # compared, decoded or generated at once
GUIDANCE = 2.5  # of what is generated
FIRST_CLASS = "emoji"  # what the embedded generator draws best
HOUR = 3600
CACHE = (600, HOUR)  # every ten minutes, what is an hour old
MODEL_EVENT = {"concurrency_limit": 1, "concurrency_id": "model"}  # the machine is one model's, users wait in a queue
PRIVATE = {"api_visibility": "private", **MODEL_EVENT}
LIVE = {"trigger_mode": "always_last", "show_progress": "hidden", **PRIVATE}

# Gradio's own semi-bold file of this font lacks letters.
FONT = [LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
THEME = gr.themes.Base(primary_hue="orange", neutral_hue="zinc", radius_size="lg", font=FONT).set(
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_label_text_color="*neutral_600",
    block_title_text_color="*neutral_800",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    button_secondary_background_fill="*neutral_100",
    slider_color="*primary_600",
    color_accent="*primary_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
)

explorer = Explorer.from_pretrained(os.environ.get("ADATOK_MODEL") or adatok_hf.default_checkpoint())
LIMIT = explorer.config.num_latent_tokens
LEAST = explorer.least_budget
BUDGETS = list(explorer.config.budgets)
BIAS = 0.0 if explorer.is_tatok else explorer.config.cost_bias
MAX_BIAS = max(10.0, math.ceil(abs(BIAS)))
PIXELS = ["pixels"] if explorer.config.image_size < 256 else []  # small pictures are enlarged without blur


def plainly(function: Callable) -> Callable:
    """What is wrong with an input is said in the page in one sentence, and the process lives on."""

    @wraps(function)
    def run(*arguments):
        try:
            return function(*arguments)
        except ValueError as error:
            raise gr.Error(escape(printable(str(error))), title="That did not work", print_exception=False) from error

    return run


def short_name(path: str) -> str:
    return printable(Path(path).name)


def once(picture: Image.Image) -> Image.Image:
    """
    Marks a picture, so that its file is no other's: Gradio names files by their content and writes equal ones anew,
    while somebody else may be reading them.
    """
    picture = picture.copy()
    picture.info["id"] = uuid4().hex
    return picture


def load_generator():
    """The pipeline, or `None` and a sentence that says what is missing."""
    try:
        pipeline = load_pipeline(os.environ.get("ADATOK_PIPELINE") or adatok_hf.default_pipeline())
    except (ImportError, ValueError) as error:
        return None, f"The generator could not be loaded: {error}"
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu"), None


pipeline, no_pipeline = load_generator()


@plainly
@on_gpu
def reconstruct(image: dict, cost_bias: float = BIAS):
    """
    Encodes a picture, lets the model choose how many tokens to keep, and decodes it from them. A positive cost bias
    makes the model thriftier, a negative one more generous. Returns the original as the model saw it, the
    reconstruction, and what it costs and how good it is.
    """
    encoded = encode(image)
    if encoded is None:
        return None, None
    ((seen, result),) = explorer.look(encoded, [explorer.choose(encoded, cost_bias)[0]])
    return (once(encoded.original), once(seen.picture)), explorer.facts(encoded, result, cost_bias)


@plainly
@on_gpu
def show(image: dict | None, cost_bias: float):
    """All that the page says of a new picture but for the candidates, which take their time."""
    encoded = encode(image)
    if encoded is None:
        return None, [], *[None] * 6, texts.notice(texts.NO_PICTURE), "", LIMIT
    return encoded, [], *view(encoded, [], explorer.choose(encoded, cost_bias)[0], cost_bias)


def encode(image: dict | None) -> EncodedPicture | None:
    if not image or not image.get("path"):
        return None
    name = printable(Path(image.get("orig_name") or image["path"]).name)
    return explorer.encode([image["path"]], [name])[0]


@plainly
@on_gpu
def climb(encoded: EncodedPicture | None, budget: int):
    """
    A picture at every candidate. Leaves alone what the visitor may have moved in the meantime: the budget, and what is
    shown at it.
    """
    if encoded is None:
        return None, [], None
    *ladder, (_, marked) = explorer.look(encoded, [*BUDGETS, budget])
    strip = [(once(seen.picture), texts.quality(result)) for seen, result in ladder]
    points = [(result.budget, result.psnr) for _, result in ladder]
    return strip, points, quality_chart(points, (budget, marked.psnr))


@plainly
@on_gpu
def choose(encoded: EncodedPicture, points: list, cost_bias: float):
    check_encoded(encoded)
    return view(encoded, points, explorer.choose(encoded, cost_bias)[0], cost_bias)


@plainly
@on_gpu
def force(encoded: EncodedPicture, points: list, cost_bias: float, budget: int):
    """Leaves the slider of the budget alone, which somebody may be dragging on."""
    check_encoded(encoded)
    return view(encoded, points, budget, cost_bias)[:-1]


def force_candidate(encoded: EncodedPicture, points: list, cost_bias: float, event: gr.SelectData):
    return *force(encoded, points, cost_bias, BUDGETS[event.index]), BUDGETS[event.index]


def check_encoded(encoded: EncodedPicture | None):
    if encoded is None:
        raise ValueError(texts.NO_PICTURE)


def view(encoded: EncodedPicture, points: list, budget: int, cost_bias: float) -> tuple:
    """One picture at one budget: what all outputs in `views` show."""
    chosen, policy = explorer.choose(encoded, cost_bias)
    ((seen, result),) = explorer.look(encoded, [budget])
    return (
        (once(encoded.original), once(seen.picture)),
        texts.verdict(explorer.in_words(result), result, chosen),
        policy_chart(policy, budget) if policy else texts.no_policy(explorer),
        quality_chart(points, (budget, result.psnr)),
        once(error_map(encoded.original, seen.picture)),
        explorer.facts(encoded, result, cost_bias),
        save(encoded, result),
        "",
        budget,
    )


def save(encoded: EncodedPicture, result: Result) -> str:
    """The codes to look at and to take home."""
    codes = explorer.to_file([encoded], [result.budget])
    files = {suffix: codes.to_bytes(suffix) for suffix in (".safetensors", ".json")}
    links = {suffix: data_uri(content, "application/octet-stream") for suffix, content in files.items()}
    return texts.codes(explorer, encoded, result, files, links)


@plainly
@on_gpu
def play(encoded: EncodedPicture) -> str:
    check_encoded(encoded)
    seen = [item for item, _ in explorer.look(encoded, BUDGETS)]
    return texts.animation(data_uri(animate(seen, LIMIT), "image/webp"), encoded.name, BUDGETS)


@plainly
@on_gpu
def decode(codes_file: str, max_budget: int = LIMIT):
    """
    Decodes a file of codes that `adatok encode` or this Space wrote with the same model, from at most so many tokens
    of each picture. Returns the pictures, and their names and budgets.
    """
    if codes_file is None:
        return [], None
    try:
        codes = ImageCodes.load(codes_file, MAX_PICTURES, LIMIT)
    except ValueError as error:  # it names the file by its place on this machine
        raise ValueError(str(error).replace(codes_file, short_name(codes_file))) from error
    seen = explorer.from_file(codes, max_budget)
    facts = [{"image": name, "budget": item.budget} for name, item in zip(codes.file_names, seen)]
    return [(once(item.picture), texts.count(item.budget)) for item in seen], facts


@plainly
@on_gpu
def compare(images: list[str], cost_bias: float = BIAS):
    """
    Encodes several pictures and sorts them by the budget that the model chooses. Returns each beside its
    reconstruction, and what each costs and how good it is.
    """
    images = images or []
    if len(images) > MAX_PICTURES:
        gr.Warning(f"{len(images)} pictures were given; the first {MAX_PICTURES} are taken.")
    encoded, reasons = [], []
    for path in images[:MAX_PICTURES]:  # one by one, as any of them may be no picture
        try:
            encoded += explorer.encode([path], [short_name(path)])
        except ValueError as error:
            reasons.append(escape(printable(str(error))))
    if reasons and not encoded:
        raise ValueError(" ".join(reasons))
    if reasons:
        gr.Warning(" ".join(reasons), title="Left out")
    return encoded, *sort(encoded, cost_bias)[:2]


@plainly
@on_gpu
def sort(encoded: list[EncodedPicture], cost_bias: float):
    """Pictures that are encoded already, in the order of what the model spends on them."""
    rows = []
    for item in encoded or []:
        ((seen, result),) = explorer.look(item, [explorer.choose(item, cost_bias)[0]])
        rows.append((result.budget, item, seen, result))
    rows.sort(key=lambda row: row[0])
    gallery = [
        (once(side_by_side(item.original, seen.picture)), f"{item.name}: {texts.quality(result)}")
        for _, item, seen, result in rows
    ]
    placed = [Placed(item.name, item.original, budget) for budget, item, _, _ in rows]
    # A policy chooses among candidates, seen or not; a threshold gives any number.
    chooses = explorer.config.is_policy_trained and not explorer.is_tatok
    columns = BUDGETS if chooses else sorted({item.budget for item in placed})
    histogram = picture_histogram(placed, columns) if placed else ""
    return gallery, [explorer.facts(item, result, cost_bias) for _, item, _, result in rows], histogram


@plainly
@on_gpu
def generate(label: str, budget: str = "auto", guidance: float = GUIDANCE, seed: int = 0, count: int = 8):
    """
    Generates pictures of a class, each with as many tokens as it deserves or with a budget for all. A guidance above 1
    shows the class more clearly. Returns the pictures, and their budgets and the time each took.
    """
    start = time.perf_counter()
    output = pipeline(
        None if label == texts.ANY else label,
        budget=None if budget in (None, "auto") else int(budget),
        guidance_scale=guidance,
        num_images_per_label=int(count),
        generator=[torch.Generator().manual_seed(int(seed or 0) + index) for index in range(int(count))],
    )
    seconds = (time.perf_counter() - start) / len(output.images)
    budgets = output.budgets.tolist()
    pictures = list(zip(map(once, output.images), map(texts.count, budgets)))
    return pictures, {"label": label, "budgets": budgets, "seconds_per_image": round(seconds, 4)}


def section(title: str, explanation: str):
    gr.HTML(texts.heading(title, explanation))


def bias_slider() -> gr.Slider:
    return gr.Slider(
        -MAX_BIAS,
        MAX_BIAS,
        BIAS,
        step=0.5,
        label="Let the model choose: how thrifty should it be?",
        info=texts.BIAS,
        min_width=300,
        visible=not explorer.is_tatok,
    )


def pictures(label: str, columns: int, *classes: str, **options) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        show_label=False,
        format="png",
        columns=columns,
        height="auto",
        object_fit="contain",
        interactive=False,
        elem_classes=["pictures", *classes, *PIXELS],
        buttons=["download", "fullscreen"],
        **options,
    )


with gr.Blocks(title="AdaTok: see an image choose its budget", analytics_enabled=False, delete_cache=CACHE) as demo:
    gr.HTML(texts.header(explorer))
    encoded, points = gr.State(time_to_live=HOUR), gr.State(time_to_live=HOUR)
    many = gr.State(time_to_live=HOUR)

    with gr.Tab("Reconstruct"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                image = gr.Image(
                    label="Your picture",
                    type="filepath",
                    sources=["upload", "clipboard", "webcam"],
                    height=320,
                    elem_id="picture",
                    alt_text="The picture that was given",
                )
                examples = gr.Examples(
                    SAMPLE_FILES,
                    image,
                    label="Or take one of these",
                    examples_per_page=MAX_PICTURES,
                    elem_id="samples",
                )
            with gr.Column(scale=5, min_width=300):
                pair = gr.ImageSlider(
                    label="Original | reconstruction: drag the line",
                    format="png",
                    interactive=False,
                    height=420,
                    max_height=420,
                    elem_id="pair",
                    elem_classes=PIXELS,
                    buttons=["download", "fullscreen"],
                )
                verdict = gr.HTML(elem_id="verdict")
        with gr.Row():
            bias = bias_slider()
            budget = gr.Slider(
                LEAST,
                LIMIT,
                LIMIT,
                step=1,
                label="Or choose yourself: how many tokens?",
                info=texts.BUDGET,
                min_width=300,
                elem_id="budget",
            )
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=280):
                section("What the model thinks", texts.POLICY)
                policy = gr.HTML()
            with gr.Column(min_width=280):
                section("What each budget gives", texts.CURVE)
                curve = gr.HTML()
            with gr.Column(min_width=280):
                section("Where it is wrong", texts.ERRORS)
                errors = gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    height=220,
                    elem_id="errors",
                    elem_classes=PIXELS,
                    buttons=[],
                    container=False,
                    alt_text="How far each pixel is off, from dark for nothing to pale yellow",
                )
        section("The same picture at every budget that the model may choose", texts.STRIP)
        columns = min(8, len(BUDGETS))
        strip = pictures("Candidate budgets", columns, elem_id="strip", allow_preview=False)
        with gr.Accordion("The numbers, as /reconstruct gives them", open=False):
            facts = gr.JSON(show_label=False)

    with gr.Tab("Compare"):
        section("Simple first, complex last", texts.COMPARE)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                files = gr.File(
                    label="Your pictures", file_count="multiple", file_types=["image"], height=170, elem_id="files"
                )
            with gr.Column(scale=5, min_width=300):
                many_bias = bias_slider()
                take_samples = gr.Button(f"Take our {len(SAMPLE_FILES)} samples")
        histogram = gr.HTML(elem_id="histogram")
        section("Originals and reconstructions, from few tokens to many", "")
        sorted_pairs = pictures("Originals and reconstructions", 3, "pairs")
        with gr.Accordion("The numbers, as /compare gives them", open=False):
            many_facts = gr.JSON(show_label=False)

    with gr.Tab("Generate"):
        section("Pictures from nothing but a word", texts.GENERATE)
        if pipeline is None:
            gr.HTML(texts.notice(no_pipeline))
        else:
            classes = [texts.ANY, *pipeline.class_names]
            with gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=300):
                    start = FIRST_CLASS if FIRST_CLASS in classes else classes[-1]
                    label = gr.Dropdown(classes, value=start, label="What should it show?")
                    generated_budget = gr.Dropdown(
                        ["auto", *map(str, pipeline.vocabulary.budgets)],
                        value="auto",
                        label="Tokens for each picture",
                        info="auto: as many as the generator thinks each picture deserves",
                    )
                    guidance = gr.Slider(0, 8, GUIDANCE, step=0.25, label="Guidance", info=texts.GUIDANCE)
                    seed = gr.Number(0, label="Seed", info=texts.SEED, precision=0, minimum=0, maximum=2**31)
                    count = gr.Slider(1, MAX_PICTURES, 8, step=1, label="How many pictures?")
                    go = gr.Button("Generate", variant="primary")
                with gr.Column(scale=5, min_width=300):
                    generated = pictures("Generated pictures", 4, elem_id="generated")
                    timing = gr.HTML()
                    with gr.Accordion("The numbers, as /generate gives them", open=False):
                        generated_facts = gr.JSON(show_label=False)
            inputs = [label, generated_budget, guidance, seed, count]
            event = go.click(generate, inputs, [generated, generated_facts], api_name="generate", **MODEL_EVENT)
            event.success(texts.timing, generated_facts, timing, **PRIVATE)

    with gr.Tab("Codes"):
        section("All that is left of the picture", texts.CODES)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                saved = gr.HTML(texts.notice(texts.NO_PICTURE), elem_id="saved")
                play_button = gr.Button("Play it, token after token")
                movie = gr.HTML(elem_id="movie")
            with gr.Column(min_width=300):
                section("Back to a picture", texts.DECODE)
                codes_file = gr.File(
                    label="A file of codes", file_types=[".safetensors", ".json"], height=140, elem_id="codes-file"
                )
                max_budget = gr.Slider(LEAST, LIMIT, LIMIT, step=1, label="Use at most so many tokens of each picture")
                decoded = pictures("Decoded", 3, "decoded")
                with gr.Accordion("The numbers, as /decode gives them", open=False):
                    decoded_facts = gr.JSON(show_label=False)

    with gr.Tab("What the words mean"):
        gr.Markdown(texts.glossary(explorer))

    views = [pair, verdict, policy, curve, errors, facts, saved, movie, budget]
    first = demo.load(lambda: FIRST_SAMPLE, None, image, **PRIVATE)
    # An upload changes a picture twice in Gradio's eyes, so what puts it there is listened to, not its change.
    # It comes as it was uploaded: the package opens it, with its own limits and its own words for errors.
    for start in (image.input, examples.load_input_event.success, first.success):
        event = start(show, [image, bias], [encoded, points, *views], preprocess=False, **PRIVATE)
        event.success(climb, [encoded, budget], [strip, points, curve], show_progress="hidden", **PRIVATE)
    gr.on([], reconstruct, [image, bias], [pair, facts], preprocess=False, api_name="reconstruct", **MODEL_EVENT)
    bias.input(choose, [encoded, points, bias], views, **LIVE)
    budget.input(force, [encoded, points, bias, budget], views[:-1], **LIVE)
    strip.select(force_candidate, [encoded, points, bias], views, **LIVE)

    event = files.change(
        compare, [files, many_bias], [many, sorted_pairs, many_facts], api_name="compare", **MODEL_EVENT
    )
    event.success(sort, [many, many_bias], [sorted_pairs, many_facts, histogram], show_progress="hidden", **PRIVATE)
    many_bias.input(sort, [many, many_bias], [sorted_pairs, many_facts, histogram], **LIVE)
    take_samples.click(lambda: SAMPLE_FILES, None, files, **PRIVATE)

    play_button.click(play, [encoded], movie, **PRIVATE)
    codes_file.change(decode, [codes_file, max_budget], [decoded, decoded_facts], api_name="decode", **MODEL_EVENT)
    max_budget.input(decode, [codes_file, max_budget], [decoded, decoded_facts], **LIVE)

demo.queue(max_size=64)

if __name__ == "__main__":
    demo.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        js=(HERE / "names.js").read_text(encoding="utf-8"),
        max_file_size="10mb",
        allowed_paths=[str(SAMPLES)],
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
    )
    delete_files_created_by_app(demo, age=None)  # at its own end Gradio leaves them where a page is still open
