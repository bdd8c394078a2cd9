"""The metrics of an answer by name; each task names those that suit it."""

from collections.abc import Callable, Sequence

from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import rouge


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers letter for letter, outer blanks apart; else 0."""
    return float(prediction.strip() in {answer.strip() for answer in answers})


# Of a prediction and the answers that count as right; all from 0 to 1.
OF_TEXT: dict[str, Callable[[str, Sequence[str]], float]] = {
    'accuracy': accuracy,
    'exact_match': lambda prediction, answers: float(answer_metrics.exact_match(prediction, answers)),
    'f1': answer_metrics.f1,
    'rouge_1': lambda prediction, answers: rouge.rouge(prediction, answers)[0],
    'rouge_2': lambda prediction, answers: rouge.rouge(prediction, answers)[1],
    'rouge_L': lambda prediction, answers: rouge.rouge(prediction, answers)[2],
}


def of_text(names: Sequence[str], prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """Those of the named metrics that compare texts. Raises ValueError where there is no answer."""
    return {name: OF_TEXT[name](prediction, answers) for name in names if name in OF_TEXT}
