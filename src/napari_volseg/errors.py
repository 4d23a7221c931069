"""The one kind of error that a user can mend."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Something in the data, the settings or a file that the user can change.

    The message is one sentence for the user: what is wrong, in which layer or
    file, and what to do about it. It is shown as it is, without a traceback.
    """
