"""Models to bytes and back."""
