"""The dashboard's pages, one file each. Not named ``pages``: Streamlit would run the files of such a folder itself."""
