"""An answer without the thoughts of the model that wrote it."""

from __future__ import annotations

import re

_THOUGHT = (
    r"(?:\w{1,12}:)?(?:think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflection|analysis|scratch_?pad|plan)"
)
#: <think>, [THINK], ◁think▷, <|thinking|>, <|begin_of_thought|>, <|START_THINKING|>.
_OPENING = rf"(?:<{_THOUGHT}>|\[{_THOUGHT}\]|◁{_THOUGHT}▷|<\|(?:begin_of_|start_)?{_THOUGHT}\|>)"
_CLOSING = (
    rf"(?:</\s?{_THOUGHT}>|\[/{_THOUGHT}\]|◁/{_THOUGHT}▷|<\|(?:/|end_of_|end_){_THOUGHT}\|>|<\|START_RESPONSE\|>)"
)
_CLOSED = re.compile(_CLOSING, re.IGNORECASE)
_OPENED = re.compile(rf"^\s*{_OPENING}", re.IGNORECASE | re.MULTILINE)
#: OpenAI's harmony: what is said on the channel `final` is the answer.
_CHANNEL = re.compile(r"<\|channel\|?>\s*(\w+)(?:(?!<\|channel)[^\n]){0,80}?(?:<\|message\|>|<channel\|>|\n)")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call|channel)\|?>|<channel\|>")
#: The same without its special tokens, as decoders leave it.
_BARE_CHANNELS = re.compile(
    r"\Aanalysis(?=[A-Z\"'“(]|\n.*assistantfinal)(?:.*(?:assistantfinal\s*|final)(?=\S))?", re.DOTALL
)
#: Granite's.
_PROCESS = re.compile(r"\A\s*here is my thought process:.*?(?:here is my response:|\Z)", re.DOTALL | re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """Return the text after the last thought; "" if a thought does not end."""
    if channels := list(_CHANNEL.finditer(text)):
        last = channels[-1]
        if last[1] != "final" and (ended := text.rfind("<channel|>")) >= last.end():  # Gemma's
            return text[ended + len("<channel|>") :]
        if len(channels) == 1 and last[1] != "final" and "<channel|>" in last[0]:
            return text[last.end() :]
        return _CHANNEL_END.split(text[last.end() :])[0] if last[1] == "final" else ""
    text = _PROCESS.sub("", text)
    if bare := _BARE_CHANNELS.match(text):
        return text[bare.end() :] if bare.end() > len("analysis") else ""
    marks = list(_CLOSED.finditer(text))
    for number, mark in reversed(list(enumerate(marks))):
        before, after = text[: mark.start()], text[mark.end() :]
        # "what does </think> mean" speaks of the mark.
        alone = "\n" not in text.strip() and not _OPENED.search(text)
        if not ((alone or number) and before[-1:] == " " and after[:1] == " "):
            text = after
            break
    opened = _OPENED.search(text)
    return text[: opened.start()] if opened else text
