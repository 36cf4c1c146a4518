"""Errors that mean the same everywhere: what a user can mend, and want of a GPU's memory."""

import re

# As torch words it: the allocator's own error, the driver's, and those of cuBLAS and cuDNN.
GPU_MEMORY = (
    r"(CUDA|HIP)( error:)? out of memory|CU(BLAS|DNN)_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC\w*_FAILED"
)


class InputError(ValueError):
    """Bad user input or data. The message names the file and the key, and ends with the remedy."""


class Unavailable(InputError):
    """What is asked for may be there later: a server, a file that another process writes, a busy machine."""

    exit_code = 75


def out_of_gpu_memory(error: BaseException | None) -> bool:
    """Whether a GPU's memory was short, whatever the error's class.

    torch has a class for its allocator, others for the driver; and a CUDA graph's capture, broken off by want
    of memory, ends with an error about the capture, to which the first belongs as its context.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if type(error).__name__ == "OutOfMemoryError" or re.search(GPU_MEMORY, str(error)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
