"""Prompts and responses as token ids: equal to the tokens of the published renderings."""

import json
import shutil

import pytest

from dice.errors import BadInput
from dice.models.chat_template import CUSTOM_TEMPLATES, check_alike, known_templates, load_chat

tokenizers = pytest.importorskip("tokenizers")

LLAMA3_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
ZEPHYR_TOKENS = ["<unk>", "<s>", "</s>"]
USER = [{"role": "user", "content": "Hi there"}]
SYSTEM = [{"role": "system", "content": "Be kind."}, *USER]
TURNS = [*USER, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "More"}]


def save_tokenizer(folder, special, bos, eos, sentencepiece_like=False):
    """A small BPE tokenizer: byte-level like Llama-3's, or with a prefix space like Mistral's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if sentencepiece_like else None))
    if sentencepiece_like:
        prepend = normalizers.Prepend("\u2581")
        tokenizer.normalizer = normalizers.Sequence([prepend, normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Metaspace()
        alphabet = [chr(code) for code in range(32, 127)] + ["\n", "\u2581"]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    texts = [
        "user assistant system Hi there Hello! Be kind. More",
        "<|user|>\n",
        "<|assistant|>\n",
        "<|system|>\n",
    ]
    tokenizer.train_from_iterator(texts * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama3")
    path = save_tokenizer(folder, LLAMA3_TOKENS, "<|begin_of_text|>", "<|end_of_text|>")
    return load_chat(path, "llama3-custom")


@pytest.fixture(scope="module", params=[False, True], ids=["byte-level", "prefix-space"])
def zephyr(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zephyr")
    path = save_tokenizer(folder, ZEPHYR_TOKENS, "<s>", "</s>", sentencepiece_like=request.param)
    return load_chat(path, "zephyr-custom", template_ids="pieces" if request.param else "whole")


def ids(chat, *pieces):
    """The tokens of each piece by itself, without added special tokens, one after the other."""
    return [i for piece in pieces for i in chat.tokenizer.encode(piece, add_special_tokens=False)]


def check(chat, messages, prompt_pieces, response="Hello!", response_piece="Hello!{end}"):
    end = chat.tokenizer.eos_token
    prompt_ids, response_ids = chat.encode(messages, response)
    assert prompt_ids == ids(chat, *prompt_pieces)
    assert response_ids == ids(chat, response_piece.format(end=end))
    assert chat.encode_prompt(messages) == prompt_ids
    assert response_ids[-1] == chat.tokenizer.convert_tokens_to_ids(end)
    assert chat.decode(response_ids).strip() == response
    return prompt_ids


HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
ASK = HEADER.format("user") + "{}<|eot_id|>" + HEADER.format("assistant")


def test_llama3_custom(llama3):
    begin = "<|begin_of_text|>"
    prompt = check(llama3, USER, [begin + ASK.format("Hi there")])
    assert prompt[0] == llama3.tokenizer.bos_token_id and prompt.count(prompt[0]) == 1
    # In tokens: the special ones are single ids, the end of a turn is <|eot_id|>, not the tokenizer's EOS.
    names = llama3.tokenizer.convert_ids_to_tokens(prompt)
    assert names[:2] == ["<|begin_of_text|>", "<|start_header_id|>"] and names.count("<|eot_id|>") == 1
    assert llama3.tokenizer.eos_token == "<|eot_id|>"


def test_llama3_custom_with_a_system_prompt(llama3):
    system = "<|begin_of_text|>" + HEADER.format("system") + "Be kind.<|eot_id|>"
    check(llama3, SYSTEM, [system + ASK.format("Hi there")])


def test_llama3_custom_over_several_turns(llama3):
    """BOS once, at the start; a system prompt after it."""
    begin = "<|begin_of_text|>"
    pieces = [begin + ASK.format("Hi there"), "Hello!<|eot_id|>", ASK.format("More")]
    prompt = check(llama3, TURNS, pieces)
    assert prompt.count(llama3.tokenizer.bos_token_id) == 1
    system = begin + HEADER.format("system") + "Be kind.<|eot_id|>" + ASK.format("Hi there")
    check(llama3, [SYSTEM[0], *TURNS], [system, *pieces[1:]])


def test_llama3_custom_stops_at_both_ends(llama3):
    names = {llama3.tokenizer.convert_ids_to_tokens(i) for i in llama3.stop_ids}
    assert names == {"<|eot_id|>", "<|end_of_text|>"}


def test_zephyr_custom(zephyr):
    """The default system prompt is a single space, and there is no BOS."""
    prompt = check(zephyr, USER, ["<|system|>\n </s>\n<|user|>\nHi there</s>\n<|assistant|>\n"])
    assert zephyr.tokenizer.bos_token_id not in prompt
    assert [zephyr.tokenizer.convert_ids_to_tokens(i) for i in zephyr.stop_ids] == ["</s>"]


def test_zephyr_custom_with_a_system_prompt(zephyr):
    check(zephyr, SYSTEM, ["<|system|>\nBe kind.</s>\n<|user|>\nHi there</s>\n<|assistant|>\n"])


def test_zephyr_custom_over_several_turns(zephyr):
    first = "<|system|>\n </s>\n<|user|>\nHi there</s>\n<|assistant|>\n"
    check(zephyr, TURNS, [first, "Hello!</s>", "\n<|user|>\nMore</s>\n<|assistant|>\n"])


def test_other_text_than_ascii(llama3):
    text = "naïve 漢字 🎲\n\n<tab>\t"
    prompt_ids, response_ids = llama3.encode([{"role": "user", "content": text}], text)
    assert llama3.decode(response_ids[:-1]) == text
    assert text in llama3.tokenizer.decode(prompt_ids)


@pytest.mark.parametrize("template", CUSTOM_TEMPLATES)
def test_training_uses_the_same_ids(template, llama3, tmp_path):
    """LLaMA-Factory's own pairwise preprocessing of an exported row gives the ids of `encode`."""
    from dice.models.llamafactory import llamafactory

    chat = llama3
    if template == "zephyr-custom":
        chat = load_chat(save_tokenizer(tmp_path, ZEPHYR_TOKENS, "<s>", "</s>"), template)
    data_args = llamafactory("hparams").DataArguments(template=template, cutoff_len=4096)
    processor = llamafactory("data.processor").PairwiseDatasetProcessor(
        template=chat.template, tokenizer=chat.tokenizer, processor=None, data_args=data_args
    )
    rows = processor.preprocess_dataset(
        {
            "_prompt": [TURNS],
            "_response": [[{"role": "assistant", "content": text} for text in ("Fine", "No")]],
            "_system": ["Be kind."],
            **{key: [None] for key in ("_tools", "_images", "_videos", "_audios")},
        }
    )
    for side, text in (("chosen", "Fine"), ("rejected", "No")):
        prompt_ids, response_ids = chat.encode([SYSTEM[0], *TURNS], text)
        assert rows[f"{side}_input_ids"][0] == prompt_ids + response_ids
        assert rows[f"{side}_labels"][0] == [-100] * len(prompt_ids) + response_ids


def test_an_unknown_template_is_told_what_there_is(tmp_path):
    with pytest.raises(
        BadInput, match="unknown template 'llama-3'; there are: .*llama3-custom.*zephyr-custom"
    ):
        load_chat(str(tmp_path), "llama-3")
    assert set(CUSTOM_TEMPLATES) <= set(known_templates())


def test_a_template_whose_tokens_the_tokenizer_lacks(tmp_path):
    folder = save_tokenizer(tmp_path, ZEPHYR_TOKENS, "<s>", "</s>")
    with pytest.raises(BadInput, match=r"'llama3-custom' needs the tokens .*<\|eot_id\|>.* does not have"):
        load_chat(folder, "llama3-custom")


def test_tokenizer_files_with_values_of_other_kinds(random_model, tmp_path):
    folder = shutil.copytree(random_model, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": [1]}))
    with pytest.raises(BadInput, match="template 'llama3-custom' can't be used with the tokenizer of"):
        load_chat(str(folder), "llama3-custom")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for changes in ({"added_tokens": None}, {"model": 3}):
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | changes))
        with pytest.raises(BadInput, match="the tokenizer of .* can't be loaded"):
            load_chat(str(folder), "llama3-custom")


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # transformers makes an empty one of the second
def test_a_folder_without_a_tokenizer(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(BadInput, match="the tokenizer of .* can't be loaded"):
        load_chat(str(tmp_path), "llama3-custom")


def test_a_tokenizer_that_adds_bos_as_well(tmp_path, monkeypatch):
    """Whatever it is told, this one puts BOS before every text that it tokenizes."""
    from transformers import PreTrainedTokenizerFast

    folder = save_tokenizer(tmp_path, LLAMA3_TOKENS, "<|begin_of_text|>", "<|end_of_text|>")
    encode = PreTrainedTokenizerFast.encode
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "encode", lambda self, *args, **options: [0, *encode(self, *args, **options)]
    )
    with pytest.raises(BadInput, match=r"begin with <\|begin_of_text\|> twice: template 'llama3-custom' and"):
        load_chat(folder, "llama3-custom")


def test_models_with_other_vocabularies_are_told_apart(tmp_path):
    from transformers import AutoTokenizer

    ours = save_tokenizer(tmp_path / "ours", LLAMA3_TOKENS, "<|begin_of_text|>", "<|end_of_text|>")
    same = save_tokenizer(tmp_path / "same", LLAMA3_TOKENS, "<|begin_of_text|>", "<|end_of_text|>")
    check_alike(ours, same)
    swapped = [LLAMA3_TOKENS[i] for i in (0, 1, 3, 2, 4)]
    other = save_tokenizer(tmp_path / "other", swapped, "<|begin_of_text|>", "<|end_of_text|>")
    differing = (
        r"2 of 300 tokens differ \('<\|end_header_id\|>' is 3 and 2, '<\|start_header_id\|>' is 2 and 3\)"
    )
    with pytest.raises(BadInput, match=f"different vocabularies: {differing}"):
        check_alike(ours, other)
    more = AutoTokenizer.from_pretrained(ours)
    more.add_tokens(["<extra>"])
    more.save_pretrained(tmp_path / "more")
    with pytest.raises(BadInput, match=r"1 of 301 tokens differ \('<extra>' is 300 and missing\)"):
        check_alike(str(tmp_path / "more"), ours)


def test_models_with_other_chat_templates_are_told_apart(tmp_path):
    folders = []
    for name, end in (("ours", "</s>"), ("theirs", "<|im_end|>")):
        folder = tmp_path / name
        folders.append(save_tokenizer(folder, ZEPHYR_TOKENS, "<s>", "</s>"))
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + end + "{% endfor %}"
        (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(
        BadInput, match=r"after 'user: Hi<' comes '/s>assistant.*' in one, '\|im_end\|>assist"
    ):
        check_alike(*folders)
    (tmp_path / "theirs" / "chat_template.jinja").unlink()
    check_alike(*folders)


def test_a_reference_without_a_tokenizer_shares_the_policys(tmp_path):
    ours = save_tokenizer(tmp_path / "ours", ZEPHYR_TOKENS, "<s>", "</s>")
    (tmp_path / "bare").mkdir()
    check_alike(ours, str(tmp_path / "bare"))


def test_pieces_are_the_text_of_each_token(llama3, zephyr):
    for chat, ids in (
        (llama3, llama3.encode(USER, "Hi é 日本!")[1]),
        (zephyr, zephyr.encode(USER, "Hi there")[1]),
    ):
        pieces = chat.pieces(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(llama3.pieces(llama3.encode(USER, "日本")[1]))
