"""One self-contained HTML page from the records of a comparison; reads records only."""
