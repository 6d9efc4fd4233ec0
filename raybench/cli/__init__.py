"""The command line: one file per verb, which parses options, calls one function and prints. Nothing imports it."""
