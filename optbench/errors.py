"""Errors that are the user's to mend: shown as one message, never as a traceback."""


class UserError(Exception):
    """Something the user asked for cannot be done; the message names the key, the value and what is accepted."""
