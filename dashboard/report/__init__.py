"""report.html: the pages' charts and tables as one file to send or print."""
