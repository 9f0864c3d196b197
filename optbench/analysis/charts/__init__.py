"""Charts that are described once, and drawn for both papers and pages."""
