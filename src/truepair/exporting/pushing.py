"""An export to the hub, only when that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truepair.errors import ConfigError, said_by


def check_push(name: str) -> None:
    """Refuse before hours of work what cannot be pushed.

    Args:
        name: USER/NAME on the hub.

    Raises:
        ConfigError: If huggingface_hub is missing, this is no such name, or there is no token.
    """
    try:
        from huggingface_hub import get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but lazily so
    except ImportError as error:
        raise ConfigError(f"--push needs huggingface_hub ({error}): pip install 'truepair[hf]'") from error
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push is {name!r}, which is no name on the hub ({said_by(error)[:200]})") from error
    if name.count("/") != 1:
        raise ConfigError(f"--push is {name!r}, but it is USER/NAME, such as me/dogs")
    if get_token() is None:
        raise ConfigError("--push needs a token of the hub: type 'hf auth login', or set HF_TOKEN")


def push(folder: Path, name: str) -> str:
    """Upload a folder as a model; one that is new on the hub is private.

    Args:
        folder: The export.
        name: USER/NAME on the hub.

    Returns:
        Its address.

    Raises:
        ConfigError: If the hub cannot be reached, or refuses; the folder is as it was.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with _refusals(folder, name):
        address = str(api.create_repo(name, repo_type="model", private=True, exist_ok=True))
        api.upload_folder(folder_path=folder, repo_id=name, repo_type="model", commit_message="Export of truepair")
    return address


@contextmanager
def _refusals(folder: Path, name: str) -> Iterator[None]:
    """What a hub that is away, or says no, comes to."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (OSError, httpx.HTTPError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise ConfigError(
            f"{folder} was written, but not pushed to {name} ({said_by(error)[:300]}): see to the connection and the "
            f"rights of the token, then type hf upload --private {name} {folder}"
        ) from error
