"""Recipes of stage 1 that take a second on the CPU."""

RECIPE = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_latent_tokens": 16,
    "codebook_size": 64,
    "codebook_dim": 8,
    "budgets": [4, 8, 16],
    "lora_rank": 2,
    "lora_alpha": 2,
    "attn_implementation": "eager",
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 3,
    "learning_rate": "1e-3",
    "perceptual_weight": 0.0,
    "adversarial_weight": 0.1,
    "revive_steps": 2,
    "logging_steps": 1,
    "save_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
}

TATOK = {"num_global_tokens": 4, "global_codebook_size": 64, "patch_codebook_size": 32, "codebook_dim": 8}
TATOK |= {"prior_hidden_size": 32, "prior_num_attention_heads": 2, "prior_num_hidden_layers": 1}
NOT_OF_TATOK = ("budgets", "num_latent_tokens", "codebook_size", "lora_rank", "lora_alpha")
TATOK_RECIPE = {name: value for name, value in RECIPE.items() if name not in NOT_OF_TATOK}
TATOK_RECIPE |= TATOK | {"training_budgets": [4, 9], "adversarial_weight": 0}
