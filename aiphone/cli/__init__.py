"""The console command: the only place where concrete classes are put together."""
