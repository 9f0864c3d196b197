"""Charts that are described once, and drawn for papers and for pages."""
