"""The hub itself: names of repositories, the token, one commit, the files of a revision; errors are one sentence."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of requests or, from 1.0 on, of httpx: what its own errors are derived from
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from evae.errors import ConfigError, RunError, first_line

LOGIN = "`hf auth login` stores one, or set HF_TOKEN"


class Revision(NamedTuple):
    """One state of a repository: its commit, and the names of its files."""

    commit: str
    files: tuple[str, ...]


def check_repository(name: str) -> str:
    """``name``, if it is the name of a repository, owner/name; ConfigError where it is not."""
    owner, _, own = name.partition("/")
    if not owner or not own:
        raise ConfigError(f"{name!r} does not name a repository of the hub: give its owner, too, as owner/name")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} does not name a repository of the hub: {first_line(error)}") from error
    return name


def check_token() -> None:
    """Raise RunError where there is no token, without which nothing can be uploaded."""
    if get_token() is None:
        raise RunError(f"there is no token for the Hugging Face hub: {LOGIN}")


def commit(repository: str, files: Mapping[str, bytes], stale: re.Pattern[str], private: bool, overwrite: bool) -> str:
    """Make the repository where there is none, and put files into it in one commit; its address.

    Files whose whole names match ``stale`` are deleted, unless they are written again.

    Raises:
        RunError: the hub cannot be reached or refuses; or a model is there already, without ``overwrite``.
    """
    api = HfApi()
    with explained(repository):
        url = str(api.create_repo(repository, private=private or None, exist_ok=True))
        there = api.list_repo_files(repository)
        if "config.json" in there and not overwrite:
            raise RunError(f"{repository} has a model already; --overwrite adds a commit that replaces it")
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        old = [name for name in there if stale.fullmatch(name) and name not in files]
        deleted = [CommitOperationDelete(name) for name in old]
        api.create_commit(repository, [*added, *deleted], commit_message="Publish a run of evae")
    return url


def find_revision(repository: str, revision: str | None) -> Revision:
    """The newest state of a repository, or that of a branch, tag or commit.

    Raises:
        RunError: the hub cannot be reached, or has no such repository or revision.
    """
    with explained(repository):
        info = HfApi().model_info(repository, revision=revision)
    return Revision(str(info.sha), tuple(file.rfilename for file in info.siblings or ()))


def download(repository: str, name: str, commit: str) -> Path:
    """A file of a commit, in the cache of huggingface_hub; RunError where it cannot be had."""
    with explained(repository):
        return Path(hf_hub_download(repository, name, revision=commit))


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Raise a RunError of one sentence for what huggingface_hub raises."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise RunError(f"{repository} has no such --revision") from error
    except RepositoryNotFoundError as error:
        status = getattr(error.response, "status_code", None)
        why = f"it may be private, and there is no token: {LOGIN}" if get_token() is None else "the token sees none"
        if status == 401 and get_token() is not None:
            why = f"the hub does not accept the token: {LOGIN}"
        raise RunError(f"there is no model {repository} on the hub ({why})") from error
    except HfHubHTTPError as error:
        raise RunError(f"the hub refused what was asked of {repository}: {_refusal(error)}") from error
    except (HTTPError, OSError) as error:
        raise RunError(f"the hub at {constants.ENDPOINT} cannot be reached ({first_line(error)})") from error


def _refusal(error: HfHubHTTPError) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return f"it does not accept the token; {LOGIN}"
    if status == 403:
        return "the token may not write there; make one that may, or name another owner"
    return error.server_message or first_line(error)
