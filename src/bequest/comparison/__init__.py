"""The comparison: the same labels and splits for every method, nothing chosen by the test part."""
