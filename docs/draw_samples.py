"""
Draws the sample pictures of the package, but for the photographs, from simple to complex:
`python docs/draw_samples.py`.

Needs the fonts DejaVu and Noto Color Emoji (Debian: `fonts-dejavu-core`, `fonts-noto-color-emoji`).
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont


SAMPLES = Path(__file__).parent.parent / "adatok_hf" / "samples"
SIZE = 256
SCALE = 4  # drawn larger and reduced, which smooths the edges
EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"


def canvas(color) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), color)
    return image, ImageDraw.Draw(image)


def reduced(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def scaled(*values: float) -> tuple[float, ...]:
    return tuple(value * SCALE for value in values)


def colored(ramp: list[tuple[int, int, int]], values: np.ndarray) -> np.ndarray:
    """Colors along an even ramp for values in [0, 1]: `(height, width)` to `(height, width, 3)`."""
    stops = np.linspace(0, 1, len(ramp))
    return np.stack([np.interp(values, stops, channel) for channel in np.array(ramp).T], axis=-1)


def value_noise(rng: np.random.Generator, octaves: range, persistence: float = 0.5) -> np.ndarray:
    """Fractal noise in [0, 1], `(SIZE, SIZE)`: random grids of `2 ** octave` cells, smoothly enlarged and summed."""
    total = np.zeros((SIZE, SIZE))
    for octave in octaves:
        grid = Image.fromarray(rng.random((2**octave + 3, 2**octave + 3), dtype=np.float32))
        box = (1, 1, 2**octave + 1, 2**octave + 1)
        layer = grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        total += np.asarray(layer) * persistence ** (octave - octaves.start)
    return (total - total.min()) / np.ptp(total)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def icon() -> Image.Image:
    image, draw = canvas("#ffffff")
    draw.rounded_rectangle(scaled(28, 28, 228, 228), radius=48 * SCALE, fill="#2f6fed")
    draw.polygon([scaled(104, 80), scaled(104, 176), scaled(184, 128)], fill="#ffffff")
    return reduced(image)


def gradient() -> Image.Image:
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1)
    return picture(colored([(38, 22, 84), (155, 44, 119), (240, 108, 92), (255, 205, 132)], 0.85 * y + 0.15 * x))


def shapes() -> Image.Image:
    image, draw = canvas("#f4ecdc")
    draw.rectangle(scaled(0, 168, 256, 256), fill="#1f4e5f")
    draw.pieslice(scaled(24, 88, 184, 248), 180, 360, fill="#e4572e")
    draw.ellipse(scaled(160, 28, 228, 96), fill="#f2b134")
    draw.polygon([scaled(140, 168), scaled(240, 168), scaled(190, 92)], fill="#17bebb")
    draw.rectangle(scaled(28, 28, 88, 60), fill="#2e282a")
    for k in range(5):
        draw.line(scaled(28, 190 + 12 * k, 228, 190 + 12 * k), fill="#f4ecdc", width=3 * SCALE)
    return reduced(image)


def sketch() -> Image.Image:
    image, draw = canvas("#fbfaf6")
    rng = np.random.default_rng(3)

    def stroke(points, width=1.6):
        """A polyline drawn twice with a trembling hand."""
        for _ in range(2):
            points = np.array(points, dtype=float)
            parts = [
                np.linspace(a, b, max(2, round(np.hypot(*(b - a)) / 5)), endpoint=False)
                for a, b in zip(points[:-1], points[1:])
            ]
            path = np.concatenate([*parts, points[-1:]])
            wobble = np.cumsum(rng.normal(0, 0.16, path.shape), axis=0)
            path = (path + wobble - np.linspace(0, 1, len(path))[:, None] * wobble[-1]) * SCALE
            draw.line([tuple(point) for point in path], fill="#3b3b42", width=round(width * SCALE), joint="curve")

    def arc(x, y, radius_x, radius_y, start, end):
        angles = np.radians(np.linspace(start, end, 19))
        stroke(np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1), 1.3)

    stroke([(18, 206), (90, 202), (170, 206), (240, 203)])
    stroke([(66, 204), (66, 122), (178, 122), (178, 204)])
    stroke([(52, 128), (122, 66), (192, 128)])
    stroke([(150, 90), (150, 62), (166, 62), (166, 104)])
    stroke([(108, 204), (108, 158), (136, 158), (136, 204)])
    for x in (78, 146):
        stroke([(x, 138), (x + 22, 138), (x + 22, 160), (x, 160), (x, 138)], 1.2)
        stroke([(x + 11, 138), (x + 11, 160)], 1)
        stroke([(x, 149), (x + 22, 149)], 1)
    stroke([(213, 204), (215, 150)])
    for x, y, radius in ((206, 136, 17), (226, 130, 15), (215, 112, 17)):
        arc(x, y, radius, radius, 0, 360)
    for k in range(4):
        arc(158 + 3 * k, 50 - 11 * k, 6 + 2 * k, 4 + k, 160, 400)
    arc(46, 48, 17, 17, 0, 360)
    for angle in np.radians(np.arange(0, 360, 45)):
        direction = np.array([np.cos(angle), np.sin(angle)])
        stroke([(46, 48) + 22 * direction, (46, 48) + 31 * direction], 1.2)
    for x in range(24, 240, 19):
        stroke([(x, 222 + x % 3 * 5), (x + 4, 214 + x % 3 * 5), (x + 7, 222 + x % 3 * 5)], 1)
    return reduced(image)


def text() -> Image.Image:
    lines = (
        "A picture need not be",
        "worth a thousand words.",
        "Some are worth eight, some",
        "two hundred, and the art is",
        "to tell, before a single one",
        "is spent, which is which.",
        "A clear sky asks for little;",
        "a page of print such as this",
        "one asks for all there is.",
    )
    stains = value_noise(np.random.default_rng(5), range(2, 8)) - 0.5
    paper = picture(np.array([246, 240, 226]) + 10 * stains[..., None])
    image = paper.resize((SIZE * SCALE, SIZE * SCALE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    draw.text(scaled(20, 14), "On tokens", font=ImageFont.truetype("DejaVuSerif-Bold.ttf", 22 * SCALE), fill="#7a1f1f")
    draw.line(scaled(20, 46, 236, 46), fill="#7a1f1f", width=SCALE)
    font = ImageFont.truetype("DejaVuSerif.ttf", 15 * SCALE)
    for k, line in enumerate(lines):
        draw.text(scaled(20, 55 + 21 * k), line, font=font, fill="#26231f")
    return reduced(image)


def plaid() -> Image.Image:
    red, black, green, yellow = (122, 24, 34), (20, 24, 40), (28, 74, 58), (236, 206, 120)
    sett = ((30, red), (5, black), (9, green), (3, yellow), (9, green), (5, black))
    threads = np.concatenate([np.tile(color, (count, 1)) for count, color in sett])
    threads = np.resize(threads, (SIZE, 3)).astype(float)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    warp_on_top = ((x + y) // 2 % 2 == 0)[..., None]  # a two-by-two twill
    cloth = np.where(warp_on_top, threads[None, :], threads[:, None])
    grain = 1 + 0.14 * (np.random.default_rng(7).random((SIZE, SIZE, 1)) - 0.5)
    return picture(cloth * grain * np.where(warp_on_top, 1.06, 0.9) + 8)


def night() -> Image.Image:
    rng = np.random.default_rng(18)
    y = np.mgrid[0:SIZE, 0:SIZE][0] / (SIZE - 1)
    light = colored([(6, 8, 24), (16, 18, 46), (40, 26, 58), (14, 12, 24)], y)
    palette = np.array(
        [(255, 190, 90), (255, 120, 70), (110, 190, 255), (255, 225, 170), (240, 80, 110), (120, 240, 200)]
    )
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    for _ in range(70):
        radius = rng.uniform(4, 25)
        x, cy = rng.uniform(0, SIZE), np.clip(rng.normal(150, 42), 10, 246)
        distance = np.hypot(xx - x, yy - cy)
        disc = np.clip(radius - distance + 0.7, 0, 1) * (0.65 + 0.35 * (distance / radius) ** 4)
        light += disc[..., None] * palette[rng.integers(len(palette))] * rng.uniform(0.08, 0.5) * (9 / (radius + 4))
    for _ in range(45):
        x, cy = rng.uniform(0, SIZE), rng.normal(160, 30)
        glow = np.exp(-((xx - x) ** 2 + (yy - cy) ** 2) / rng.uniform(1, 5))
        light += glow[..., None] * palette[rng.integers(len(palette))] * rng.uniform(0.6, 1.4)
    noise = rng.normal(0, 2.2, light.shape)
    return picture(255 * (1 - np.exp(-light / 170)) + noise)


def landscape() -> Image.Image:
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    pixels = colored([(72, 120, 190), (150, 186, 222), (250, 226, 190), (250, 214, 176)], y * 1.6)
    clouds = np.clip(value_noise(rng, range(2, 8), 0.55) * 2.2 - 1.05, 0, 1) * np.clip(1.1 - 2.2 * y, 0, 1)
    pixels += (255 - pixels) * (clouds * 0.85)[..., None]
    columns = np.arange(SIZE)
    for depth, (horizon, height, near, far) in enumerate(
        [
            (0.50, 0.30, (126, 142, 176), (176, 184, 204)),
            (0.58, 0.26, (78, 104, 130), (140, 158, 170)),
            (0.72, 0.22, (42, 78, 66), (96, 124, 104)),
            (0.88, 0.18, (22, 46, 26), (70, 92, 44)),
        ]
    ):
        ridge = value_noise(rng, range(2, 8), 0.5)[depth * 40 + 20]
        top = (horizon - height * (ridge - 0.45)) * SIZE
        below = np.arange(SIZE)[:, None] - top[columns][None, :]
        relief = value_noise(rng, range(3, 9), 0.72)
        light = np.clip(0.5 + 1.4 * (relief - np.roll(relief, 2, axis=1)) * (1 + depth) + below / 160, 0, 1)
        ground = colored([near, far], light) * (0.8 + 0.4 * relief)[..., None]
        mask = np.clip(below + 0.5, 0, 1)[..., None]
        pixels = pixels * (1 - mask) + ground * mask
    return picture(pixels)


def foliage() -> Image.Image:
    rng = np.random.default_rng(23)
    image, draw = canvas("#0c1a0d")
    tones = [(18, 46, 20), (30, 76, 28), (52, 108, 36), (92, 146, 50), (148, 186, 78), (206, 222, 128)]
    for count, spread, depth in ((900, (16, 30), 0.15), (1400, (11, 22), 0.42), (1500, (7, 16), 0.72)):
        for _ in range(count):
            x, y = rng.uniform(-10, SIZE + 10, 2)
            length, angle = rng.uniform(*spread), rng.normal(1.1, 0.9)
            forward = np.array([np.cos(angle), np.sin(angle)]) * length
            side = np.array([-forward[1], forward[0]]) * rng.uniform(0.16, 0.3)
            tone = colored(tones, np.array(np.clip(depth + rng.normal(0, 0.12) + 0.1 * (1 - y / SIZE), 0, 1)))
            leaf = [(0, 0), 0.3 * forward + side, 0.6 * forward + 0.8 * side, forward]
            leaf += [0.6 * forward - 0.8 * side, 0.3 * forward - side]
            outline = [scaled(x + dx, y + dy) for dx, dy in leaf]
            draw.polygon(outline, fill=tuple(int(value) for value in tone))
            vein = tuple(int(value) for value in np.clip(tone * 1.25 + 6, 0, 255))
            draw.line([outline[0], outline[3]], fill=vein, width=SCALE // 2)
        if depth < 0.7:
            image.paste(Image.blend(image, Image.new("RGB", image.size, "#07120a"), 0.28))
            image.paste(image.filter(ImageFilter.GaussianBlur(SCALE * (0.8 - depth))))
    for _ in range(46):
        x, y = rng.uniform(0, SIZE, 2)
        for angle in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 6):
            cx, cy = x + 3.2 * np.cos(angle), y + 3.2 * np.sin(angle)
            draw.ellipse(scaled(cx - 2.4, cy - 2.4, cx + 2.4, cy + 2.4), fill="#f3dfe8" if x < y else "#f6f0d8")
        draw.ellipse(scaled(x - 1.8, y - 1.8, x + 1.8, y + 1.8), fill="#e0a526")
    return reduced(image)


def emoji(character: str, background: str) -> Image.Image:
    glyph = Image.new("RGBA", (136, 128))
    font = ImageFont.truetype(EMOJI_FONT, 109)  # the one size the font has
    ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
    glyph = glyph.crop(glyph.getbbox())
    glyph = glyph.resize([side * 190 // max(glyph.size) for side in glyph.size], Image.Resampling.LANCZOS)
    image = Image.new("RGBA", (SIZE, SIZE), background)
    image.alpha_composite(glyph, tuple((SIZE - side) // 2 for side in glyph.size))
    return image.convert("RGB")


def chart() -> Image.Image:
    image, draw = canvas("#ffffff")
    heights, colors = (62, 118, 90, 158, 136, 190), ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")
    for k in range(5):
        draw.line(scaled(30, 40 + 46 * k, 240, 40 + 46 * k), fill="#d8d8d8", width=SCALE)
    for k, (height, color) in enumerate(zip(heights, colors)):
        draw.rectangle(scaled(40 + 33 * k, 224 - height, 62 + 33 * k, 224), fill=color)
    draw.line([scaled(30, 24), scaled(30, 224), scaled(242, 224)], fill="#333333", width=2 * SCALE)
    return reduced(image)


def main():
    pictures = {
        "01_icon.png": icon(),
        "02_gradient.png": gradient(),
        "03_lemon.png": emoji("🍋", "#ffffff"),
        "04_shapes.png": shapes(),
        "05_owl.png": emoji("🦉", "#fdf3e1"),
        "06_sketch.png": sketch(),
        "07_castle.png": emoji("🏰", "#dcecf9"),
        "08_text.png": text(),
        "09_night.webp": night(),
        "13_landscape.webp": landscape(),
        "14_plaid.webp": plaid(),
        "15_foliage.webp": foliage(),
        "16_chart.png": chart(),
        "17_sunflower.png": emoji("🌻", "#ffffff"),
        "18_dog.png": emoji("🐶", "#e9f7ef"),
        "19_pizza.png": emoji("🍕", "#fdebd3"),
        "20_bicycle.png": emoji("🚲", "#f1ecfa"),
    }
    for name, image in pictures.items():
        options = {"quality": 88, "method": 6} if name.endswith(".webp") else {"optimize": True}
        image.save(SAMPLES / name, **options)


if __name__ == "__main__":
    main()
