"""Extensions written in Cython: everything that must run on time or without the GIL."""
