"""The order of the commands: Prefect flows and the ``marlin`` command line. No arithmetic, no tensors."""
