"""What a recipe of the generator may say: the keys of its flat YAML file are the fields of these classes."""

from dataclasses import dataclass, field

from .optimizer import MuonTrainingArguments


@dataclass
class GeneratorModelArguments:
    """The architecture, in the words of [`~transformers.LlamaConfig`]."""

    hidden_size: int | None = field(default=None, metadata={"help": "Width."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    num_key_value_heads: int | None = field(default=None, metadata={"help": "Key and value heads; all if not given."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the MLPs."})
    attention_dropout: float | None = field(default=None, metadata={"help": "Dropout of attention weights."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub repo of a generator to start from, of as many codes, budgets and classes."},
    )


@dataclass
class GeneratorDataArguments:
    """The codes."""

    train_data: str = field(default="", metadata={"help": "Folder that `adatok tokenize-dataset` wrote."})
    eval_data: str = field(default="", metadata={"help": "The same of other images; none if not given."})
    max_eval_images: int | None = field(default=None, metadata={"help": "Evaluate on that many, spread evenly."})


@dataclass
class GeneratorTrainingArguments(MuonTrainingArguments):
    """Arguments of the generator: those of [`~transformers.TrainingArguments`] and the dropout of classes."""

    # The sampler needs the length of the rows, which is no input of the model.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: lengths are looked up."})
    class_dropout: float = field(
        default=0.1, metadata={"help": "Share of the sequences whose class becomes the null class, for guidance."}
    )

    export_half_precision: bool = field(
        default=False, metadata={"help": "Store the exported weights in 16 bits; they still load in 32."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.class_dropout < 1:
            raise ValueError(f"class_dropout must be at least 0 and below 1; got {self.class_dropout}.")


ARGUMENT_CLASSES = (GeneratorModelArguments, GeneratorDataArguments, GeneratorTrainingArguments)
