"""Models as graphs that run without this package."""
