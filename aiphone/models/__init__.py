"""Models by name or by path: the catalogue, pulling, checking, and what a path turns out to be.

catalogue   the models that have a name (catalogue.toml)
store       the directory they are in: path, pull, verify
hub         downloads from a model hub        wheels   downloads inside Python wheels
ct2         faster-whisper directories to ggml
resolve     what a user wrote after -mw, -ml, --voice, to a checked file
kinds, ggml, gguf, voice   what a file is, and whether it is whole
files, progress            writing safely, and showing it
"""
