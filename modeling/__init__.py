"""What a Hub user downloads: configuration, model and image processor."""

from .configuration_adatok import AdaTokConfig, AdaTokPixelDecoderConfig
from .configuration_tatok import TaTokConfig
from .image_processing_adatok import AdaTokImageProcessor, AdaTokImageProcessorPil
from .modeling_adatok import (
    AdaTokDecoderOutput,
    AdaTokEncoderOutput,
    AdaTokModel,
    AdaTokOutput,
    AdaTokPreTrainedModel,
)
from .modeling_tatok import (
    TaTokDecoderOutput,
    TaTokEncoderOutput,
    TaTokModel,
    TaTokOutput,
    TaTokPreTrainedModel,
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
    "TaTokConfig",
    "TaTokDecoderOutput",
    "TaTokEncoderOutput",
    "TaTokModel",
    "TaTokOutput",
    "TaTokPreTrainedModel",
]
