"""Joining a Ray cluster, or starting Ray on this machine: silent, offline, and one sentence where it fails."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dermaffinity.errors import ConfigError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # or a token is written into the home folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",  # else 15: jobs would wait for whatever else the machine does
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, as long as the context lasts.

    Args:
        address: ``HOST:PORT`` of a cluster, or ``auto`` for the one this machine belongs to; None: this machine alone.

    Raises:
        ConfigError: When there is none, or Ray is not installed.
    """
    if address is not None:
        check_answers(address)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--launcher ray needs a package that is not installed: pip install 'dermaffinity[cluster]'"
        ) from None
    import torch

    if ray.is_initialized():  # by whoever calls this from Python
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # The paths of sockets are short, and those of temporary folders on clusters are not.
    with tempfile.TemporaryDirectory(prefix="da-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            if address is None:
                _start(num_cpus=torch.get_num_threads(), include_dashboard=False, _temp_dir=folder, **quiet)
            else:
                with _unheard():
                    ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises no kind of its own
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"--address {address}: no Ray cluster to join from this machine ({reason}). Start Ray here, "
                f"'ray start --address={address}', or run this command on a machine of the cluster"
                if address
                else f"--launcher ray: Ray does not start on this machine ({reason})"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Drops what Ray's own library writes to stderr: a line each second, where another program answers."""
    heard = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)


def _start(**options: Any) -> None:
    """Starts Ray on this machine. Its helpers have 15 seconds to answer, which a busy machine exceeds now and then."""
    import ray

    for tries_left in reversed(range(3)):
        try:
            ray.init(**options)
            return
        except Exception:  # Ray raises no kind of its own
            ray.shutdown()
            if not tries_left:
                raise


def check_answers(address: str) -> None:
    """Asks whether anything listens at an address: Ray itself would try for a minute.

    Raises:
        ConfigError: When it is no address, or nothing does.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal() and "/" not in host):
        raise ConfigError(f"--address {address}: write HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: nothing answers there ({error.strerror or error}). 'ray status' on the head's "
            "machine says whether Ray runs; 'ray start --head --port=6379' starts it"
        ) from error
