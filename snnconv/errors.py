"""The errors a user can meet. Each carries one sentence: what, where, what is allowed, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class SnnconvError(Exception):
    """Base of every known error; the command line prints it and exits with status 1."""


class ConfigError(SnnconvError):
    """A setting, recipe or option outside what is allowed."""


class DataError(SnnconvError):
    """A data set that is missing, damaged or of another kind than asked for."""


class TrainingError(SnnconvError):
    """Training that cannot go on, such as a loss that is not finite."""


class ConversionError(SnnconvError):
    """A network, layer or value that has no exact spiking counterpart."""


class ParityError(SnnconvError):
    """The spiking network's counts differ from the codes of its ANN, or prove nothing."""


class FormatError(SnnconvError):
    """A file that is damaged, truncated, foreign or of a version this release cannot read."""


class ExportError(SnnconvError):
    """A network that another tool's format cannot say, or a package that is not there to write it."""


class CertificateError(SnnconvError):
    """A certificate that does not hold: something in it, or in what it speaks of, differs."""


class RunError(SnnconvError):
    """A run folder that is missing, incomplete or cannot be written."""


class ProcessError(SnnconvError):
    """Several processes that cannot reach each other, or one of them lost."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean lenet-mnist-k1B2?)`` for a name that is not known; empty where no known one is like it."""
    spelt = {own.lower(): own for own in known}
    found = get_close_matches(name.lower(), spelt, n=1)
    return f" (did you mean {spelt[found[0]]}?)" if found else ""
