"""Imports run down through the rooms, never up nor sideways."""

import ast
from pathlib import Path

import pytest

import adatok_hf


ROOT = Path(__file__).parent.parent
PACKAGE = "adatok_hf"
FLOORS = (
    {"modeling"},
    {"registration"},
    {"files", "extras"},
    {"parquet"},
    {"charts", "data", "tables", "plotting", "model_card"},
    {"hub", "weights", "stream"},
    {"metrics", "checkpoint"},
    {"allocation", "codec"},
    {"generation", "export"},
    {"evaluation", "bench"},
    {"training", "conversion"},
    {"study"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = {
    path: (PACKAGE, *path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
    for path in (ROOT / PACKAGE).rglob("*.py")
    if "checkpoints" not in path.parts  # code that an installation put there, which is that of modeling
}
FILES |= {
    path: (PACKAGE, folder, *path.relative_to(ROOT / folder).with_suffix("").parts)
    for folder in ("modeling", "conversion")
    for path in (ROOT / folder).rglob("*.py")
}


def imported_modules(path: Path, module: tuple[str, ...]) -> set[str]:
    """Full names of what a file imports, inside functions too; `from . import x` gives the name of x."""
    package = module[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*start, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    """The room of a name in the package, `None` for what the package itself exports and for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in FLOOR_OF else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_down(path):
    module = FILES[path]
    room = module[1]
    if room == "__init__":  # the package itself stands on the model, and offers the codec to whoever asks
        rooms = {None, "modeling", "registration", "codec"}
        assert {room_of(name) for name in imported_modules(path, module)} <= rooms
        return
    assert room in FLOOR_OF, f"{room} has no floor; give it one"
    for name in imported_modules(path, module):
        other = room_of(name)
        assert other in (None, room) or FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {name}"


def test_every_room_is_looked_at():
    rooms = {module[1] for module in FILES.values()}
    assert rooms >= FLOOR_OF.keys() - {"plotting"} and len(FILES) > 80
    assert adatok_hf.__name__ == PACKAGE
