"""AdaTok and TaTok in the Auto classes from the moment transformers is imported, and nothing heavy before that."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


# Registration imports the model and with it PEFT. These import transformers themselves, and it must not come in the
# middle of that: it comes when the outermost of them is done.
AWAITED = ("transformers", "peft", f"{__package__}.modeling")


class RegistrationOnImport(MetaPathFinder):
    """Waits for transformers to be imported, and then registers our models."""

    def __init__(self):
        self.depth = 0

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name not in AWAITED:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                del spec.loader.exec_module  # uncovers the loader's own
                self.depth += 1
                try:
                    execute(module)
                finally:
                    self.depth -= 1
                if self.depth == 0 and self in sys.meta_path and "transformers" in sys.modules:
                    sys.meta_path.remove(self)
                    register()

            spec.loader.exec_module = exec_module
        return spec


def register_when_imported():
    """Registers our models if transformers has been imported, else once it is."""
    if "transformers" in sys.modules:
        register()
    elif not any(isinstance(finder, RegistrationOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistrationOnImport())


def register():
    """Makes the Auto classes load ours without `trust_remote_code`, and `save_pretrained` copy the code along."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    from .modeling import (
        AdaTokConfig,
        AdaTokImageProcessor,
        AdaTokImageProcessorPil,
        AdaTokModel,
        TaTokConfig,
        TaTokModel,
    )

    processors = {"torchvision": AdaTokImageProcessor, "pil": AdaTokImageProcessorPil}
    for config_class, model_class in ((AdaTokConfig, AdaTokModel), (TaTokConfig, TaTokModel)):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        AutoImageProcessor.register(config_class, image_processor_classes=processors, exist_ok=True)
        config_class.register_for_auto_class("AutoConfig")
        model_class.register_for_auto_class("AutoModel")
    for processor_class in processors.values():
        processor_class.register_for_auto_class("AutoImageProcessor")
