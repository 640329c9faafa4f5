"""What the product promises, measured: `python -m benchmarks` lists a module for each thing."""
