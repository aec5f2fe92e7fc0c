"""What can go wrong because of the input, and the exit codes that the command line gives it."""

DEFAULT_MAX_BAD = 0.05  # share of images that may be unreadable, see TooManyBadImagesError


class InputError(Exception):
    """The user's input cannot be used; the message says what is wrong, where, and what to do."""

    exit_code = 2


class TooManyBadImagesError(InputError):
    """More images than `--max-bad` allows could not be read; the message lists them."""

    exit_code = 3


class DivergedError(Exception):
    """Training produced values that are not finite; the last good checkpoint is kept."""

    exit_code = 4


class InterruptedRunError(Exception):
    """A signal asked the run to stop; a checkpoint was saved first."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
