"""Image codes as sequences of a language model, and images from them."""
