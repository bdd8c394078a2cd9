"""The limits of a server: the most that it accepts from a client."""

import dataclasses

from atlas_jax.apps.project import questions as questions_lib


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests and of the queue.

    Attributes:
      body_bytes: size of a request's body; a longer one is not read to its end.
      body_seconds: time in which a body must arrive.
      questions: questions in one request.
      question_characters: length of one question.
      passage_characters: length of one passage's text.
      passages: passages added by one request.
      n_context: passages that a question may read.
      top_k: passages that a query gets from /retrieve.
      waiting: questions in the queue; more are refused.
      together: questions computed together.
      seconds: time to answer a request; a request may ask for less.
      drain_seconds: time to finish running requests when the server is stopped.
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
