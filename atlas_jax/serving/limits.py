"""The limits of a server: whatever a client sends, it takes no more than this."""

import dataclasses

from atlas_jax.project import questions as questions_lib


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of requests, and of what waits.

    Attributes:
      body_bytes: of a request's body; a longer one is not read to its end.
      body_seconds: within which a body must have come.
      questions: of one request.
      question_characters: of one question.
      passage_characters: of the text of one passage, and of its title.
      passages: added by one request.
      n_context, top_k: passages that a question may read, and get from /retrieve.
      waiting: questions that wait in all; more are refused.
      together: questions that are computed together.
      seconds: within which a request is answered unless it says otherwise, and the longest that it may say.
      drain_seconds: for what is under way when the server is stopped.
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    questions: int = 64
    question_characters: int = questions_lib.LONGEST
    passage_characters: int = 20_000
    passages: int = 64
    n_context: int = 20
    top_k: int = 100
    waiting: int = 256
    together: int = 16
    seconds: float = 120.0
    drain_seconds: float = 60.0
