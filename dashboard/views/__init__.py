"""One page a file; each is a function that draws one opened run.

Not called ``pages``: Streamlit serves every script in a folder of that name, beside the labelling page too, where
nobody may see a verdict.
"""
