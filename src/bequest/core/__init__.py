"""What everything speaks: plans, tasks, records, errors. No training, no files, no torch at import."""
