"""What goes wrong with stores, in one kind of error, whatever their libraries raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from truepair.errors import DataError

WEB = ("http", "https")
"""Protocols of web servers."""
_MAY_PASS = (408, 425, 429)
"""Statuses below 500 of a request that may succeed later."""
_NEVER_PASS = (ImportError, LookupError, TypeError, ValueError, AttributeError, MemoryError)
_CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or 'gcloud auth application-default login'",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or 'gcloud auth application-default login'",
    "hf": "HF_TOKEN, or 'hf auth login'",
    **dict.fromkeys(WEB, ".netrc"),
}


class StoreError(DataError):
    """A store that does not give what was asked for: nothing is known of the file, and a later run may have it."""


def status_of(error: BaseException) -> int | None:
    """The status of a request, as the libraries of stores say it; None if there was no answer."""
    for one in _causes(error):
        is_of_aiohttp = type(one).__module__.startswith("aiohttp")  # its code 400 is of a cut body, too
        for name in ("status",) if is_of_aiohttp else ("status", "response", "code"):
            value = getattr(one, name, None)
            if isinstance(value, Mapping):  # of botocore
                value = value.get("ResponseMetadata", {}).get("HTTPStatusCode")
            number = str(getattr(value, "status_code", value))
            if number.isdecimal():
                return int(number)
        if isinstance(one, PermissionError):
            return 403
        if "Credentials" in type(one).__name__:  # there are none: of botocore and google.auth
            return 401
    # fsspec says of every failure of a web server that the file is not there.
    is_missing = isinstance(error, FileNotFoundError) and not any(map(_is_of_connection, _causes(error)))
    return 404 if is_missing else None


def _is_of_connection(error: BaseException) -> bool:
    is_of_system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return is_of_system or type(error).__module__.startswith("aiohttp")


def _causes(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def may_pass(error: Exception, status: int | None) -> bool:
    """Whether a request that failed may succeed later.

    Args:
        error: How it failed.
        status: See `status_of`.
    """
    if status is None:
        return not isinstance(error, _NEVER_PASS)
    return status >= 500 or status in _MAY_PASS


def message_of(address: str, status: int | None, error: Exception | None = None, attempts: int = 1) -> str:
    """What a store answered, and what to look at.

    Args:
        address: The file.
        status: See `status_of`.
        error: What its library raised.
        attempts: How often it was asked.
    """
    protocol = address.partition("://")[0].lower()
    if status == 404:
        private = "; a private data set looks the same without a token (HF_TOKEN)" if protocol == "hf" else ""
        return f"there is no {address} (404): is it spelled right{private}?"
    if status in (401, 403):
        credentials = f" ({_CREDENTIALS[protocol]})" if protocol in _CREDENTIALS else ""
        listing = ", and that listing is allowed (else a missing file is answered so, too)" if protocol == "s3" else ""
        return f"{address} may not be read ({status}): check the credentials{credentials}{listing}"
    tries = f" in {attempts} attempts" if attempts > 1 else ""
    answer = f"status {status}" if status else f"{type(error).__name__}: {error}"
    return f"{address} could not be read{tries} ({answer}): is the store reachable? The same command then goes on"
