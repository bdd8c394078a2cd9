"""Shares of attention by token, mapped back to the words of a passage's text."""

from collections.abc import Callable, Sequence


def shares_of_words(text: str, encode: Callable[[str], Sequence[int]], tokens: Sequence[int],
                    shares: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Returns (word, share) of the words of a passage that were read, in their order; words past the reader's limit are left out.

    The reader's input has more than the text: question and title, whose shares belong to no word here.

    Args:
      text: of the passage.
      encode: of the reader's tokenizer, which never joins words.
      tokens: of the reader input that has the passage.
      shares: of each token.
    """
    # Words are encoded alone: no piece crosses a space, so their ids are those of the text.
    words = [(word, encode(word)) for word in text.split()]
    ids = [token for _, pieces in words for token in pieces]
    start, matched = _place(ids, tokens)
    found, at = [], 0
    for word, pieces in words:
        # What follows was cut off at the reader's limit.
        if at >= matched:
            break
        here = slice(start + at, start + min(at + len(pieces), matched))
        found.append((word, float(sum(shares[here]))))
        at += len(pieces)
    return tuple(found)


def _place(ids: Sequence[int], tokens: Sequence[int]) -> tuple[int, int]:
    """Returns where the longest beginning of `ids` stands in `tokens`, and its length; titles often begin as their texts do."""
    best = 0, 0
    for start, token in enumerate(tokens):
        if not ids or token != ids[0]:
            continue
        # The first difference ends the match; without one it goes to the end of either.
        length = next((n for n, (one, other) in enumerate(zip(ids, tokens[start:], strict=False)) if one != other),
                      min(len(ids), len(tokens) - start))
        if length > best[1]:
            best = start, length
    return best
