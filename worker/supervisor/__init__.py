"""The process behind ``make run``: an embedded Valkey and the Procfile's processes, in one terminal with one log."""
