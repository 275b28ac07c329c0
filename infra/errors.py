"""Errors that a person is meant to read: what is wrong, where, and the cure, in one sentence."""


class ProjectError(Exception):
    """Base of every error that is shown as one sentence with exit code 2, never as a traceback."""


class ConfigError(ProjectError):
    """A setting, argument or override is wrong."""


class TransientError(ProjectError):
    """A failure that may pass (network, throttling); the only kind that is retried."""


class FetchError(ProjectError):
    """Bytes cannot be had from where they are said to be, and asking again would not help."""


class RefusedError(FetchError):
    """An address is one that the settings do not allow."""


class TooLargeError(FetchError):
    """There are more bytes than the settings allow."""


class StorageError(ProjectError):
    """A read or write of the store failed for good."""


class DatasetError(ProjectError):
    """A dataset, version, manifest or shard is absent, damaged or of another schema."""


class CorruptShardError(DatasetError):
    """A shard's bytes differ from what its version lists."""


class MediaError(ProjectError):
    """A video cannot be decoded."""


class WeightsError(ProjectError):
    """A weight file is absent, has the wrong digest, or does not fit the network."""


class CheckpointError(ProjectError):
    """A checkpoint is absent, incomplete or damaged."""


class TrainingError(ProjectError):
    """Training stopped for a reason that all ranks agree on."""
