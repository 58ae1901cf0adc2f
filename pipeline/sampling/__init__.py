"""How answers are sampled, one file a way."""
