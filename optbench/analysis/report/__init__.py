"""The page of a study: its text, its charts, its table of runs and the code that computed them."""
