"""Whether the trained model is better: duels of answers, and how far it moved."""
