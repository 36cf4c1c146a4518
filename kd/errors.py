"""The error a user of `kd` or `orchestrator` can mend: it says what is wrong, where, and what to do."""


class InputError(ValueError):
    """Bad user input or data. The message names the file and the key, and ends with the remedy."""


class Unavailable(InputError):
    """What is asked for may be there later: a server, a file that another process writes, a busy machine."""

    exit_code = 75
