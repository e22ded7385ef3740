"""AdaTok in the Auto classes from the moment transformers is imported; nothing heavy is imported for it before."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


# Registration imports the model and with it PEFT. These import transformers themselves, and it must not come in the
# middle of that: it comes when the outermost of them is done.
AWAITED = ("transformers", "peft", f"{__package__}.modeling")


class RegistrationOnImport(MetaPathFinder):
    """Waits for transformers to be imported, and then registers AdaTok."""

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
    """Registers AdaTok if transformers has been imported, else once it is."""
    if "transformers" in sys.modules:
        register()
    elif not any(isinstance(finder, RegistrationOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistrationOnImport())


def register():
    """Makes the Auto classes load AdaTok without `trust_remote_code`, and `save_pretrained` copy the code along."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    from .modeling import AdaTokConfig, AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel

    AutoConfig.register(AdaTokConfig.model_type, AdaTokConfig, exist_ok=True)
    AutoModel.register(AdaTokConfig, AdaTokModel, exist_ok=True)
    AutoImageProcessor.register(
        AdaTokConfig,
        image_processor_classes={"torchvision": AdaTokImageProcessor, "pil": AdaTokImageProcessorPil},
        exist_ok=True,
    )
    AdaTokConfig.register_for_auto_class("AutoConfig")
    AdaTokModel.register_for_auto_class("AutoModel")
    AdaTokImageProcessor.register_for_auto_class("AutoImageProcessor")
    AdaTokImageProcessorPil.register_for_auto_class("AutoImageProcessor")
