"""The models: speech to text, the language model, speech."""
