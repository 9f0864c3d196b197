"""From the words after -m, or an experiment, to the checked cells of a sweep."""
