"""Text as the tokenizers can take it."""


def valid(text: str) -> str:
    """Replaces lone surrogates by `?`: UTF-8 cannot carry what a command line makes of bytes that are no UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode(errors='replace').decode()
