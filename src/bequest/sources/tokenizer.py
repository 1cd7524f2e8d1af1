"""The tokenizer and the pooling that a transformers model was trained with, read from its files."""

from __future__ import annotations

from typing import Any

from bequest.core.errors import SourceError, first_line
from bequest.core.parse import parse_json
from bequest.sources.preprocess import TextPreprocess

Files = dict[str, Any]
"""Where a model's files are, as transformers' `from_pretrained` takes it: a name or folder, and a GGUF file in it."""

_SENTENCE_MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last"}


def read_file(name: str, file: str) -> str | None:
    """A text file of a hub model or of a folder; None where there is none."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    with open(found, encoding="utf-8") as stream:
        return stream.read()


def text_preprocess(files: Files, config: Any, max_tokens: int) -> TextPreprocess:
    """Tokenizer, token limit and padding of a model.

    Args:
        files: Where its files are.
        config: Of the model.
        max_tokens: Token limit, special tokens included.

    Raises:
        SourceError: There is no tokenizer that the `tokenizers` library can run.
    """
    from tokenizers import Tokenizer

    name = files["pretrained_model_name_or_path"]
    content = (None if "gguf_file" in files else read_file(name, "tokenizer.json")) or _converted(files, config)
    tokenizer = Tokenizer.from_str(content)
    return TextPreprocess(content, max_tokens, _pad_token(name, config, tokenizer))


def sentence_pooling(name: str) -> str | None:
    """The pooling of a sentence-transformers model: `mean`, `cls` or `last`; None for other models.

    Raises:
        SourceError: It pools in another way.
    """
    content = read_file(name, "1_Pooling/config.json")
    if content is None:
        return None
    settings = parse_json(content)
    asked = settings.get("pooling_mode")
    modes = [asked] if isinstance(asked, str) else list(asked or ())
    modes += [k.removeprefix("pooling_mode_") for k, v in settings.items() if k.startswith("pooling_mode_") and v]
    if len(modes) != 1 or modes[0] not in _SENTENCE_MODES:
        raise SourceError(
            f"{name!r} was trained with pooling {' and '.join(modes) or 'of no kind'}; expected mean, cls or "
            "lasttoken. Choose one: pooling='mean' (--pooling mean)."
        )
    return _SENTENCE_MODES[modes[0]]


def end_token(config: Any, text: TextPreprocess) -> str:
    """The token that ends a text of a language model; empty where it has none."""
    from tokenizers import Tokenizer

    number = getattr(config, "eos_token_id", None)
    number = number[0] if isinstance(number, list) else number
    return (Tokenizer.from_str(text.tokenizer_json).id_to_token(number) if isinstance(number, int) else None) or ""


def _converted(files: Files, config: Any) -> str:
    """The tokenizer of a model without a `tokenizer.json`, converted by transformers."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**files).backend_tokenizer
        # Without a file, some classes make a tokenizer of their special tokens alone.
        if tokenizer.get_vocab_size() < config.vocab_size / 2:
            raise ValueError(f"it knows {tokenizer.get_vocab_size()} of the network's {config.vocab_size} tokens")
        return tokenizer.to_str()
    except Exception as error:  # transformers meets a stranger's files with whatever those lead it to
        raise SourceError(
            f"{files['pretrained_model_name_or_path']!r} has no tokenizer.json, and its tokenizer cannot be converted "
            f"({first_line(error)}). Convert it once where its library is installed: "
            "AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
        ) from error


def _pad_token(name: str, config: Any, tokenizer: Any) -> str:
    # The model's own number comes first: RoBERTa counts positions by it. Where a model was trained without padding,
    # any token serves, since the mask hides it.
    numbers = [getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None), 0]
    numbers = [n[0] if isinstance(n, list) else n for n in numbers]
    named = parse_json(read_file(name, "tokenizer_config.json") or "{}").get("pad_token")
    named = named.get("content") if isinstance(named, dict) else named
    known = [tokenizer.id_to_token(n) for n in numbers if isinstance(n, int) and n >= 0]
    if numbers[0] is None and named is not None and tokenizer.token_to_id(named) is not None:
        return named
    token = next((t for t in known if t is not None), None)
    if token is None:
        raise SourceError(
            f"The tokenizer of {name!r} knows neither a padding token nor any other; its files are damaged."
        )
    return token
