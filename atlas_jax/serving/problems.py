"""Problems of requests, as application/problem+json (RFC 9457) with the words of the command line."""

import http
from typing import Any

from starlette.responses import JSONResponse

from atlas_jax import errors

MEDIA_TYPE = 'application/problem+json'


class ProblemError(Exception):
    """A request that is not answered: its status, and one line that says what is wrong and what to do.

    Attributes:
      retry_after: seconds after which the same request may succeed; None where it will not.
      headers: further ones of the response.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail = status, ' '.join(detail.split())
        self.retry_after, self.headers = retry_after, headers or {}

    def body(self) -> dict[str, Any]:
        """Returns the problem as a JSON object."""
        return {'type': 'about:blank', 'title': http.HTTPStatus(self.status).phrase, 'status': self.status, 'detail': self.detail}

    def response(self) -> JSONResponse:
        """Returns the problem as a response."""
        retry = {} if self.retry_after is None else {'Retry-After': str(self.retry_after)}
        return JSONResponse(self.body(), self.status, {**self.headers, **retry}, MEDIA_TYPE)


def stopping() -> ProblemError:
    """Returns the problem of a request that a server which is being stopped does not answer."""
    return ProblemError(503, 'the server is being stopped; ask the one that follows', retry_after=5)


def of(error: BaseException) -> ProblemError:
    """Returns the problem that an error is to a client: a user's mistake has its own words, any other none of ours."""
    if isinstance(error, ProblemError):
        return error
    # Not the client's fault, and nothing that its next try would mend.
    if isinstance(error, errors.DiskFullError | errors.StorageError):
        return ProblemError(507, str(error))
    # Folders are the server's: another model, damage, or another process that writes.
    if isinstance(error, errors.IndexFolderError | errors.StoreError | errors.ModelFolderError):
        return ProblemError(409, str(error))
    if isinstance(error, errors.UserError):
        return ProblemError(422, str(error))
    # Its text may name files of the server.
    return ProblemError(500, 'a fault of the server; its log has the traceback')
