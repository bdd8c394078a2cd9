"""Maps attention shares of tokens back to the words of a passage."""

from collections.abc import Callable, Sequence


def shares_of_words(text: str, encode: Callable[[str], Sequence[int]], tokens: Sequence[int],
                    shares: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Returns (word, share) of each word of a passage that was read, in order.

    Words past the reader's limit are left out. Shares of question and title belong to no word.

    Args:
      text: Text of the passage.
      encode: The reader tokenizer's encode, which never joins words.
      tokens: Tokens of the reader input with the passage.
      shares: Attention share of each token.
    """
    # No piece crosses a space, so the ids of single words are those of the text.
    words = [(word, encode(word)) for word in text.split()]
    ids = [token for _, pieces in words for token in pieces]
    start, matched = _place(ids, tokens)
    found, at = [], 0
    for word, pieces in words:
        # The rest was cut at the reader's limit.
        if at >= matched:
            break
        here = slice(start + at, start + min(at + len(pieces), matched))
        found.append((word, float(sum(shares[here]))))
        at += len(pieces)
    return tuple(found)


def _place(ids: Sequence[int], tokens: Sequence[int]) -> tuple[int, int]:
    """Returns start and length in `tokens` of the longest prefix of `ids`.

    The longest, since titles often begin like their texts.
    """
    best = 0, 0
    for start, token in enumerate(tokens):
        if not ids or token != ids[0]:
            continue
        length = next((n for n, (one, other) in enumerate(zip(ids, tokens[start:], strict=False))
                       if one != other), min(len(ids), len(tokens) - start))
        if length > best[1]:
            best = start, length
    return best
