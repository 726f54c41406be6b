"""The command line: parse, call, print; a module a group of commands."""
