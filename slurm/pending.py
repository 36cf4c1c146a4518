"""Why a job waits, in plain words, from the reason that squeue gives. Text in, text out."""

import re

NEVER = "can never start: "
# Reasons as squeue(1) lists them under JOB REASON CODES; the first pattern that matches counts.
WHY = {
    r"Resources|Nodes.required.*|ReqNodeNotAvail.*|NodeDown": "waits for free nodes",
    r"Priority": "waits behind jobs of higher priority",
    r"DependencyNeverSatisfied": f"{NEVER}the job that it depends on has failed: cancel it, submit again",
    r"Dependency": "waits for another job, as it should",
    r"JobHeldUser": "is held by its user: scontrol release",
    r"JobHeldAdmin|JobHoldMaxRequeue|.*requeued.held": "is held by Slurm or its administrator: ask your site",
    r"BeginTime": "waits for its begin time, as a job does that was put back into the queue",
    r"JobArrayTaskLimit": "waits for other tasks of its array",
    r".*MaxWallDurationPerJob.*|PartitionTimeLimit": f"{NEVER}more time than allowed: lower `time`",
    r"PartitionNodeLimit|.*Max\w+PerJob\w*|.*MinCpu.*": f"{NEVER}more, or less, than a job may have",
    r"BadConstraints|PartitionConfig": f"{NEVER}no node has what it asks for: correct the profile",
    r"Invalid(Account|QOS)|(Account|QOS)NotAllowed": f"{NEVER}correct account or qos in the profile",
    r"Reservation(Deleted|Invalid)": f"{NEVER}its reservation is gone: correct the profile",
    r"Partition(Down|Inactive)": "waits for its partition to be opened: ask your site",
    r"Reservation": "waits for its reservation",
    r"Licenses": "waits for a licence",
    r"(Assoc|QOS).*": "waits: its account or user is at a limit of the site",
}


def why(reason: str) -> str:
    """The reason in plain words; "" for one that isn't known.

    >>> why("Priority")
    'waits behind jobs of higher priority'
    """
    return next((text for pattern, text in WHY.items() if re.fullmatch(pattern, reason)), "")
