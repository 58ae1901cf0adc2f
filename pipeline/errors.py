"""Every error jurybox raises on purpose. Pure: nothing here touches anything.

JuryboxError
├── InputError            the user's input is wrong: exit code 2, nothing was started
│   ├── ConfigError         a config file: names file, line, key
│   └── DataError           a data file: names file, line
└── JobError              the job failed: exit code 1, what is done stays done
    ├── EndpointError       an endpoint cannot be used (key refused, unknown model)
    │   └── UnreachableError  it does not answer; work at other endpoints goes on first
    ├── BudgetError         the next call could exceed the budget; raise it and run again
    ├── StorageError        the run's folder cannot be written (disk full, no permission)
    └── StageError          a stage has nothing it can work on, or its result breaks its schema

A failure of one call, one row or one judge is no exception: it is a counted row with its reason.

What an endpoint or a plug-in said may repeat a key, so secrets are struck from every message when it is made: wherever
an error is shown, logged or stored, it is clean.
"""

from pipeline.secrets import struck


class JuryboxError(Exception):
    """Base of all errors; the message names what was found, what is allowed and the remedy."""

    exit_code = 1

    def __init__(self, message: str, *more: object) -> None:
        """*message*, less the secrets that this process knows."""
        super().__init__(struck(message), *more)


class InputError(JuryboxError):
    """The input is wrong and trying again cannot help."""

    exit_code = 2


class ConfigError(InputError):
    """The config file is missing, unreadable or invalid."""


class DataError(InputError):
    """A data file is missing, unreadable or has no usable row."""


class JobError(JuryboxError):
    """The job stopped; running the same command again goes on from there."""


class EndpointError(JobError):
    """An endpoint refused every call for a reason that repeating cannot mend."""


class UnreachableError(EndpointError):
    """An endpoint answered nothing at all: start it, or correct its address."""

    def __init__(self, message: str, endpoint: str) -> None:
        """*endpoint* is its name in the config."""
        super().__init__(message, endpoint)
        self.endpoint = endpoint

    def __str__(self) -> str:
        return str(self.args[0])


class BudgetError(JobError):
    """The next call's worst-case cost does not fit the budget."""


class StorageError(JobError):
    """The run's folder cannot be read or written."""


class StageError(JobError):
    """A stage cannot do its work on what the stages before it left."""
