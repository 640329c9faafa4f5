"""Model files: the catalogue, downloads, conversion and checks."""
