"""Pictures to image codes and back."""
