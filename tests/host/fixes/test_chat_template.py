"""Samples prepared with a chat template: as without the fix, and the template is compiled once."""

import jinja2
import pytest

from llava_ego2exo.demo.models import tiny_tokenizer

from ..models import is_next

TURNS = [{"from": "human", "value": "<image>\nWhat moves?"}, {"from": "gpt", "value": "A red block."}]


@pytest.mark.skipif(not is_next(), reason="only LLaVA-NeXT has chat templates")
def test_a_chat_template_is_compiled_once(registered, tmp_path, monkeypatch):
    import llava.train.train as host
    from transformers import AutoTokenizer

    compiled, original = [], jinja2.Environment.from_string

    def from_string(self, source, *args, **kwargs):
        compiled.append(source)
        return original(self, source, *args, **kwargs)

    monkeypatch.setattr(jinja2.Environment, "from_string", from_string)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, "qwen"))
    fixed, plain = host.preprocess_qwen, host.preprocess_qwen.__wrapped__
    rows = [fixed([TURNS], tokenizer, has_image=True) for _ in range(3)]
    assert len(compiled) <= 1
    compiled.clear()
    again = [plain([TURNS], tokenizer, has_image=True) for _ in range(2)][1]
    assert len(compiled) == 2 or not hasattr(tokenizer, "_compile_jinja_template")
    for row in rows:
        assert {key: value.tolist() for key, value in row.items()} == {k: v.tolist() for k, v in again.items()}
