"""The command ``ean``. Each of its commands is a function of the library; only this folder knows the command line."""

from ean_lib.cli.program import COMMANDS, main

__all__ = ["COMMANDS", "main"]
