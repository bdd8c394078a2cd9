"""Problems of requests, as application/problem+json (RFC 9457), worded as on the command line."""

import http
from typing import Any

from starlette.responses import JSONResponse

from atlas_jax import errors

MEDIA_TYPE = 'application/problem+json'


class ProblemError(Exception):
    """A request that is refused: its status, and one line with the fault and the remedy.

    Attributes:
      retry_after: seconds after which the same request may succeed; None if it will not.
      headers: further headers of the response.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None,
                 headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail = status, ' '.join(detail.split())
        self.retry_after, self.headers = retry_after, headers or {}

    def body(self) -> dict[str, Any]:
        """Returns the problem as a JSON object."""
        return {
            'type': 'about:blank', 'title': http.HTTPStatus(self.status).phrase,
            'status': self.status, 'detail': self.detail}

    def response(self) -> JSONResponse:
        """Returns the problem as a response."""
        retry = {} if self.retry_after is None else {'Retry-After': str(self.retry_after)}
        return JSONResponse(self.body(), self.status, {**self.headers, **retry}, MEDIA_TYPE)


def stopping() -> ProblemError:
    """Returns the problem of a request to a server that is being stopped."""
    return ProblemError(503, 'the server is being stopped; ask the one that follows', retry_after=5)


def as_problem(error: BaseException) -> ProblemError:
    """Returns the problem that a client sees: a user's mistake keeps its message, other errors do
    not.
    """
    if isinstance(error, ProblemError):
        return error
    # Not the client's fault, and trying again would not help.
    if isinstance(error, errors.DiskFullError | errors.StorageError):
        return ProblemError(507, str(error))
    # The server's folders: another model, damage, or another process that writes.
    if isinstance(error, errors.IndexFolderError | errors.StoreError | errors.ModelFolderError):
        return ProblemError(409, str(error))
    if isinstance(error, errors.UserError):
        return ProblemError(422, str(error))
    # The error's text may name files of the server.
    return ProblemError(500, 'a fault of the server; its log has the traceback')
