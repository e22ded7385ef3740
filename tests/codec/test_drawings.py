"""Error maps show where pictures differ, animations have one frame a budget."""

import io

from PIL import Image, ImageSequence

from adatok_hf.codec.drawings import animate, error_map, side_by_side
from adatok_hf.codec.grid import Reconstruction, enlarge


def test_the_error_map_is_dark_where_pictures_are_equal_and_brighter_the_more_they_differ():
    original, picture = Image.new("RGB", (3, 1)), Image.new("RGB", (3, 1))
    picture.putpixel((1, 0), (48, 48, 48))
    picture.putpixel((2, 0), (200, 200, 200))
    colors = [sum(error_map(original, picture).getpixel((x, 0))) for x in range(3)]
    assert colors[0] < colors[1] < colors[2]
    assert error_map(original, picture).getpixel((2, 0)) == (0xFD, 0xF5, 0xB0)


def test_an_animation_has_one_frame_a_budget_and_plays_once():
    colors = {4: (255, 0, 0), 8: (0, 128, 0), 16: (0, 0, 255)}
    seen = [Reconstruction(budget, Image.new("RGB", (32, 32), color)) for budget, color in colors.items()]
    animation = Image.open(io.BytesIO(animate(seen, 16)))
    frames = [frame.convert("RGB").getpixel((9, 9)) for frame in ImageSequence.Iterator(animation)]
    assert frames == list(colors.values())
    assert animation.info["loop"] == 1


def test_pictures_are_enlarged_by_a_whole_factor():
    picture = Image.effect_noise((48, 48), 80)
    large = enlarge(picture, 100)
    assert large.size == (144, 144)
    assert large.resize((48, 48), Image.Resampling.NEAREST).tobytes() == picture.tobytes()
    assert enlarge(picture, 10).size == (48, 48)


def test_side_by_side_shows_both():
    pair = side_by_side(Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue"))
    assert pair.size == (130, 64)
    assert [pair.getpixel((x, 5)) for x in (0, 64, 129)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]
