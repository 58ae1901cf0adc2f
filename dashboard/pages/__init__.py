"""One page a file; each is a function that draws one opened run."""
