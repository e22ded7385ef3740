"""A random generator for the tiny tokenizer."""

import pytest
import torch
from transformers import LlamaForCausalLM

from adatok_hf.checkpoint import model_hash
from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary


@pytest.fixture
def vocabulary(tiny_model) -> ImageVocabulary:
    config = tiny_model.config
    names = ["emoji", "places/abbey", "places/alley"]
    return ImageVocabulary(config.codebook_size, config.budgets, names, model_hash(tiny_model))


@pytest.fixture
def generator(vocabulary) -> LlamaForCausalLM:
    """In evaluation mode; its weights are large enough that classes and positions matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(vocabulary.model_config(**sizes, initializer_range=0.3)).eval()
    model.generation_config = vocabulary.generation_config()
    return model
