"""What a Hub user downloads: configuration, model and image processor."""

from .configuration_adatok import AdaTokConfig, AdaTokPixelDecoderConfig
from .image_processing_adatok import AdaTokImageProcessor, AdaTokImageProcessorPil
from .modeling_adatok import (
    AdaTokDecoderOutput,
    AdaTokEncoderOutput,
    AdaTokModel,
    AdaTokOutput,
    AdaTokPreTrainedModel,
)


__all__ = [
    "AdaTokConfig",
    "AdaTokDecoderOutput",
    "AdaTokEncoderOutput",
    "AdaTokImageProcessor",
    "AdaTokImageProcessorPil",
    "AdaTokModel",
    "AdaTokOutput",
    "AdaTokPixelDecoderConfig",
    "AdaTokPreTrainedModel",
]
