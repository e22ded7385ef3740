"""An exported model, opened and run: by ONNX Runtime, or by PyTorch without the code of the model."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..allocation.choice import choose_columns
from ..extras import require
from ..files import first_line, read_json
from .graphs import DECODER, ENCODER, INPUTS


REPORT_NAME = "export.json"
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
INT8 = "_int8"


class ExportedAdaTok:
    r"""
    The verbs of a model, from its exported graphs.

    Args:
        encoder (`Callable`): Pixel values to image codes and budget logits, as in
            [`~adatok_hf.export.graphs.EncoderGraph`].
        decoder (`Callable`): Image codes and budgets to pixel values, as in
            [`~adatok_hf.export.graphs.DecoderGraph`].
        config (`dict`): The model's, of which the candidate budgets and the policy's cost bias are read.
    """

    def __init__(self, encoder: Callable, decoder: Callable, config: dict):
        self.encode, self.decode, self.config = encoder, decoder, config

    @classmethod
    def from_folder(cls, folder: str | Path, int8: bool = False, num_threads: int | None = None) -> "ExportedAdaTok":
        """
        Opens what [`~adatok_hf.export.export.export_model`] wrote.

        Args:
            folder (`str` or `Path`): The folder, with `onnx/` or `torch/` in it.
            int8 (`bool`, *optional*, defaults to `False`): Whether to take the graphs with weights of 8 bits.
            num_threads (`int`, *optional*): Of ONNX Runtime; as many as PyTorch has if not given.

        Raises:
            `ValueError`: if the folder is no export, lacks a graph, or one cannot be opened.
        """
        folder = Path(folder)
        if not (folder / REPORT_NAME).is_file():
            raise ValueError(f"{folder} has no {REPORT_NAME}, so it is no export; `adatok export` makes one.")
        kind = read_json(folder / REPORT_NAME).get("format")
        if kind not in ENDINGS:
            raise ValueError(f"{folder / REPORT_NAME} must name onnx or torch as its format; got {kind!r}.")
        suffix = INT8 if int8 else ""
        encoder, decoder = (folder / kind / f"{name}{suffix}{ENDINGS[kind]}" for name in (ENCODER, DECODER))
        for path in (encoder, decoder):
            if not path.is_file():
                raise ValueError(f"{path} is missing; `adatok export{' --int8' if int8 else ''}` makes it.")
        config = read_json(folder / "config.json")
        if kind == "torch":
            return cls(_open_program(encoder), _open_program(decoder), config)
        threads = num_threads or torch.get_num_threads()
        encode, decode = open_onnx(encoder, INPUTS[ENCODER], threads), open_onnx(decoder, INPUTS[DECODER], threads)
        return cls(encode, lambda image_codes, budgets: decode(image_codes, budgets)[0], config)

    def choose_budgets(self, budget_logits: torch.Tensor, cost_bias: float | None = None) -> torch.LongTensor:
        """
        The budgets that `AdaTokModel.encode` would choose.

        Args:
            budget_logits (`torch.Tensor` of shape `(batch, len(config.budgets))`): As `encode` gives them.
            cost_bias (`float`, *optional*): As in [`~AdaTokModel.encode`].

        Returns:
            `torch.LongTensor` of shape `(batch,)`: candidate budgets, the largest for a policy that is not trained.
        """
        budgets = torch.tensor(self.config["budgets"])
        if not self.config["is_policy_trained"]:
            return budgets[-1:].expand(len(budget_logits))
        bias = self.config["cost_bias"] if cost_bias is None else cost_bias
        return budgets[choose_columns(budget_logits, budgets, bias)]


def load_exports(folder: str | Path, fingerprint: str) -> dict[str, ExportedAdaTok]:
    """
    Opens all pairs of graphs of an export.

    Args:
        folder (`str` or `Path`): The export.
        fingerprint (`str`): The [`~adatok_hf.checkpoint.model_hash`] that it must be of.

    Returns:
        `dict[str, ExportedAdaTok]`: by `onnx` or `torch`, and `onnx int8` where there are graphs of 8 bits.

    Raises:
        `ValueError`: if it is of another model, or as [`~ExportedAdaTok.from_folder`].
    """
    exact, folder = ExportedAdaTok.from_folder(folder), Path(folder)
    report = read_json(folder / REPORT_NAME)
    if report.get("model_hash") != fingerprint:
        raise ValueError(f"{folder} is an export of other weights than the model's; name the model by --model.")
    kind = report["format"]
    has_int8 = (folder / kind / f"{ENCODER}{INT8}{ENDINGS[kind]}").is_file()
    return {kind: exact} | ({f"{kind} int8": ExportedAdaTok.from_folder(folder, int8=True)} if has_int8 else {})


def open_onnx(path: Path, inputs: list[str], num_threads: int) -> Callable[..., list[torch.Tensor]]:
    """
    Opens an ONNX file as a function of tensors.

    Args:
        path (`Path`): The file.
        inputs (`list[str]`): Names of what it takes, in the order of the function's arguments.
        num_threads (`int`): How many to run on.

    Returns:
        `Callable`: gives all outputs as a list of tensors.

    Raises:
        `ValueError`: if ONNX Runtime cannot read the file, for one because of its opset.
        `ImportError`: if ONNX Runtime is missing.
    """
    require("export", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # what it warns of concerns its developers
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # Its errors are of a dozen kinds without a common base.
    except Exception as error:
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {first_line(error)}") from error
    return lambda *tensors: [
        torch.from_numpy(output)
        for output in session.run(None, {name: tensor.numpy() for name, tensor in zip(inputs, tensors)})
    ]


def _open_program(path: Path) -> Callable:
    try:
        return torch.export.load(path).module()
    # It is an archive of pickles and JSON, which can be broken in any way.
    except Exception as error:
        raise ValueError(f"PyTorch {torch.__version__} cannot open {path}: {first_line(error)}") from error
