"""What a Hub user downloads: configuration, model and image processor."""

from .configuration_adatok import AdaTokConfig
from .image_processing_adatok import AdaTokImageProcessor, AdaTokImageProcessorPil
from .modeling_adatok import AdaTokModel, AdaTokPreTrainedModel


__all__ = ["AdaTokConfig", "AdaTokImageProcessor", "AdaTokImageProcessorPil", "AdaTokModel", "AdaTokPreTrainedModel"]
