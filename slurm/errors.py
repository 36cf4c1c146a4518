"""What can go wrong between us and Slurm, told apart by what the caller can do."""


class SiteError(ValueError):
    """A site profile or an option is wrong. The message names file and key, and ends with the remedy."""


class Away(RuntimeError):
    """Slurm doesn't answer, or is too busy: try again later; nothing is known, nothing is lost."""


class Refused(RuntimeError):
    """Slurm answered no: a wrong account, partition, limit. Trying again changes nothing."""
