"""How many tokens an image deserves: rewards, their weighting, and the loss of the policy."""
