"""The pipeline: data, stages, and what runs them."""
