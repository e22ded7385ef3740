import math

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary
from adatok_hf.training.generator_arguments import GeneratorTrainingArguments
from adatok_hf.training.generator_trainer import AdaTokGeneratorTrainer, EqualLengthSampler, SequenceCollator


VOCABULARY = ImageVocabulary(codebook_size=32, budgets=[2, 4, 8], class_names=["cat", "owl"])


def random_sequences(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        budget = (2, 4, 8)[int(torch.randint(3, (1,), generator=generator))]
        rows.append(VOCABULARY.to_sequence(index % 2, torch.randint(32, (budget,), generator=generator).tolist()))
    return Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})


@pytest.fixture
def make_trainer(tmp_path):
    def make(output_dir="run", rows=40, **arguments) -> AdaTokGeneratorTrainer:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        defaults = {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        return AdaTokGeneratorTrainer(
            vocabulary=VOCABULARY,
            model=LlamaForCausalLM(VOCABULARY.model_config(**sizes)),
            args=GeneratorTrainingArguments(str(tmp_path / output_dir), **(defaults | arguments)),
            train_dataset=random_sequences(rows),
            eval_dataset=random_sequences(8),
        )

    return make


def test_the_loss_is_on_budget_and_codes_only():
    batch = SequenceCollator(VOCABULARY)([{"input_ids": VOCABULARY.to_sequence(0, [5, 6])}] * 2)
    assert batch["labels"].tolist() == [[-100, VOCABULARY.budget_id(2), 5, 6]] * 2


def test_class_dropout_changes_the_class_alone_and_as_often_as_told():
    torch.manual_seed(0)
    rows = [{"input_ids": VOCABULARY.to_sequence(1, [5, 6])}] * 2000
    batch = SequenceCollator(VOCABULARY, class_dropout=0.25)(rows)
    dropped = batch["input_ids"][:, 0] == VOCABULARY.null_class_id
    assert 0.2 < dropped.float().mean() < 0.3
    assert set(batch["input_ids"][~dropped, 0].tolist()) == {VOCABULARY.class_id("owl")}
    assert (batch["input_ids"][:, 1:] == torch.tensor(rows[0]["input_ids"][1:])).all()


def test_pad_ids_change_no_loss():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        VOCABULARY.model_config(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    ).eval()
    collate = SequenceCollator(VOCABULARY)
    short, long = ({"input_ids": VOCABULARY.to_sequence(0, list(range(n)))} for n in (2, 8))
    losses = [model(**collate(rows)).loss for rows in ([short], [long], [short, long])]
    assert torch.allclose(losses[2], (3 * losses[0] + 9 * losses[1]) / 12)


def batches_of(sampler: EqualLengthSampler) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


def test_batches_have_one_length_but_for_one_at_each_change():
    lengths = [4, 6, 10] * 100
    sampler = EqualLengthSampler(lengths, batch_size=8)
    batches = batches_of(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert sum(len({lengths[index] for index in batch}) > 1 for batch in batches) <= 2
    wasted = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in batches)
    assert wasted < 0.02 * sum(lengths)


def test_long_and_short_batches_come_in_no_order():
    lengths = [4, 10] * 200
    first = [lengths[batch[0]] for batch in batches_of(EqualLengthSampler(lengths, batch_size=4))]
    assert 20 < sum(a != b for a, b in zip(first, first[1:]))  # sorted ones change once


def test_every_epoch_has_an_order_of_its_own_which_the_seed_repeats():
    sampler, again = (EqualLengthSampler([4, 6] * 20, 4, seed=3) for _ in range(2))
    first = list(sampler)
    assert first == list(again) and first != list(EqualLengthSampler([4, 6] * 20, 4, seed=4))
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_training_uses_a_new_order_each_epoch_and_pads_little(make_trainer):
    trainer = make_trainer(rows=40)
    batches = []
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: batches.append([row["input_ids"] for row in rows]) or collate(rows)
    trainer.args.max_steps = 20
    trainer.train()
    first, second = batches[:10], batches[10:20]
    assert first != second and sorted(sum(first, [])) == sorted(sum(second, []))
    assert sum(len({len(row) for row in batch}) > 1 for batch in first) <= 2


def test_evaluation_drops_no_class(make_trainer):
    trainer = make_trainer(class_dropout=0.9)
    labels = torch.cat([batch["input_ids"][:, 0] for batch in trainer.get_eval_dataloader()])
    assert VOCABULARY.null_class_id not in labels
    dropped = torch.cat([batch["input_ids"][:, 0] for batch in trainer.get_train_dataloader()])
    assert (dropped == VOCABULARY.null_class_id).float().mean() > 0.7


def test_a_token_weighs_the_same_in_short_and_long_batches(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.lm_head.weight.zero_()  # every token costs log(vocab_size)
    collate = SequenceCollator(VOCABULARY)
    losses = [
        trainer.compute_loss(trainer.model, collate([{"input_ids": VOCABULARY.to_sequence(0, [1] * n)}] * 4), False, 1)
        for n in (2, 8)
    ]
    assert (losses[1] / losses[0]).item() == pytest.approx(9 / 3)
    mean_targets = sum(random_sequences(40)["length"]) / 40 - 1
    assert losses[0].item() == pytest.approx(3 / mean_targets * math.log(VOCABULARY.vocab_size))


def test_evaluation_gives_the_loss_of_a_token_whatever_the_batch(make_trainer):
    for batch_size in (2, 8):
        trainer = make_trainer(per_device_eval_batch_size=batch_size)
        with torch.no_grad():
            trainer.model.lm_head.weight.zero_()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(VOCABULARY.vocab_size), rel=1e-4)


def test_a_resumed_run_ends_where_an_unbroken_one_does(make_trainer):
    whole = make_trainer("whole", max_steps=6)
    whole.train()
    make_trainer("broken", max_steps=6, save_strategy="steps", save_steps=3).train()
    resumed = make_trainer("broken", max_steps=6, class_dropout=0.1)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-3")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_it_learns_what_follows_from_the_class(make_trainer):
    trainer = make_trainer(max_steps=150, learning_rate=1e-2, class_dropout=0.0, logging_steps=50)
    rows = [VOCABULARY.to_sequence(index % 2, [index % 2] * 4) for index in range(40)]
    trainer.train_dataset = Dataset.from_dict({"input_ids": rows, "length": [6] * 40})
    trainer.train()
    with torch.no_grad():
        logits = trainer.model(torch.tensor([rows[0], rows[1]])).logits
    assert (logits[:, 1:5].argmax(-1) == torch.tensor([[0] * 4, [1] * 4])).all()


def test_class_dropout_is_a_share(one_sentence, tmp_path):
    with one_sentence("class_dropout", "1.0"):
        GeneratorTrainingArguments(str(tmp_path), use_cpu=True, class_dropout=1.0)


def test_muon_trains_the_matrices_of_the_layers(make_trainer):
    trainer = make_trainer(muon=True, learning_rate=2e-3, adamw_learning_rate=1e-3)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    optimizer = trainer.optimizer.optimizer  # within what accelerate wraps around it
    by_muon = {id(weight) for group in optimizer.parts["muon"].param_groups for weight in group["params"]}
    for name, weight in trainer.model.named_parameters():
        assert (id(weight) in by_muon) == (".layers." in name and weight.ndim == 2)
        assert not torch.equal(weight, before[name])


def test_in_evaluation_every_token_weighs_the_same(make_trainer):
    trainer, rows = make_trainer(per_device_eval_batch_size=3), random_sequences(8).sort("length")
    losses = []
    for row in rows["input_ids"]:
        ids = torch.tensor([row])
        with torch.no_grad():
            logits = trainer.model(ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert len({len(row) for row in rows["input_ids"]}) > 1


def test_a_prediction_has_its_loss_per_token_too(make_trainer):
    trainer, rows = make_trainer(class_dropout=0.0), random_sequences(8).sort("length")
    assert trainer.predict(rows).metrics["test_loss"] == pytest.approx(trainer.evaluate(rows)["eval_loss"], rel=1e-5)
