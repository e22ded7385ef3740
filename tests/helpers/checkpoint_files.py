"""What a complete checkpoint consists of."""

FILES = {
    "README.md",
    "backbone.py",
    "blocks.py",
    "config.json",
    "configuration_adatok.py",
    "image_processing_adatok.py",
    "metrics.json",
    "model.safetensors",
    "modeling_adatok.py",
    "pixel_decoder.py",
    "preprocessor_config.json",
}
