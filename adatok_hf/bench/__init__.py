"""How fast a model is."""
