"""The device that a name means."""

import torch

from danlu.errors import ConfigError


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        ConfigError: if torch knows no such device here.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"The device {str(device)!r} cannot be used ({str(error).splitlines()[0]}). "
            'Expected "auto", "cpu" or an accelerator of this machine such as "cuda" or "cuda:1".'
        ) from None
