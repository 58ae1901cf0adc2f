"""What people look at: Streamlit pages over runs, the labelling page, the charts that they share with report.html."""
